"""The runtime: everything that changes. It wires policies to stock transformers models.

Start with `engine.py` and `attach.py` (the two ways in), then `session.py` (what both drive),
`slots.py` (the storage) and `event.py` (one compression event).
"""

from skipkv.runtime.attach import Attachment, attach
from skipkv.runtime.completion import Completion, EventRecord, Stats
from skipkv.runtime.engine import Engine
from skipkv.runtime.handle import Handle
from skipkv.runtime.observers import (
    ObservedEvent,
    ObservedPass,
    ObservedToken,
    Observer,
    Scores,
    SequenceEvent,
    Steered,
)
from skipkv.runtime.prefix import Prefix
from skipkv.runtime.prompts import Prompt
from skipkv.runtime.sampling import Sampling
from skipkv.runtime.selection import select
from skipkv.runtime.server import Server
from skipkv.runtime.streaming import Piece
from skipkv.runtime.thinking import ThinkingMarks
from skipkv.runtime.timing import Timings

__all__ = [
    "Attachment",
    "Completion",
    "Engine",
    "EventRecord",
    "Handle",
    "ObservedEvent",
    "ObservedPass",
    "ObservedToken",
    "Observer",
    "Piece",
    "Prefix",
    "Prompt",
    "Sampling",
    "Scores",
    "SequenceEvent",
    "Server",
    "Stats",
    "Steered",
    "ThinkingMarks",
    "Timings",
    "attach",
    "select",
]
