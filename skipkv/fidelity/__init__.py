"""Fidelity: how far a policy moves a model's next-token distributions from the full cache's.

Texts are fed under each policy with teacher forcing, so nothing is generated and nothing graded.
Start with `run.py`; `forced.py` feeds, `divergence.py` compares, `summary.py` makes the tables. To
add a measure, give `Record` a list with a number per position, and `summary.py` a column.
"""

from skipkv.fidelity.records import Record
from skipkv.fidelity.run import Comparison, compare
from skipkv.fidelity.summary import Interval, Report, Row, paired, report

__all__ = ["Comparison", "Interval", "Record", "Report", "Row", "compare", "paired", "report"]
