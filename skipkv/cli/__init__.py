"""The command `skipkv`: `generate`, `eval`, `bench`, `calibrate`, `policies`, `check`, `trace`.

One command per file; `app.py` joins them. To add one: write `your_command.py` with a typed
function, register it in `app.py`, and import torch, transformers and the runtime inside the
function only, so that `skipkv --help` stays quick.
"""

from skipkv.cli.entry import main

__all__ = ["main"]
