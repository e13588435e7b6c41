"""A run's folder: its settings, its lock, records line by line; the extras that a run needs.

`skipkv eval`, `bench` and `calibrate` share it. To add a command that can resume, give it a
`RunFolder` with its name and a `LineFile` for its records.
"""

from skipkv._runs.disk import check_writable, writing
from skipkv._runs.extras import require_extra
from skipkv._runs.folder import RECORDS, RUN, RunFolder
from skipkv._runs.identity import differs, stamp
from skipkv._runs.lines import LineFile, read_lines
from skipkv._runs.tables import csv_cell, markdown_cell, plot_label
from skipkv._runs.vouching import described, vouched_for

__all__ = [
    "RECORDS",
    "RUN",
    "LineFile",
    "RunFolder",
    "check_writable",
    "csv_cell",
    "described",
    "differs",
    "markdown_cell",
    "plot_label",
    "read_lines",
    "require_extra",
    "stamp",
    "vouched_for",
    "writing",
]
