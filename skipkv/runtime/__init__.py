"""The runtime: everything that changes. It wires policies to stock transformers models.

Start with `engine.py` and `attach.py` (the two ways in), then `session.py` (what both drive),
`store/slots.py` (the storage) and `parts/event.py` (one compression event). Each folder's docstring
says what it is for and where a new file of it goes.
"""

from skipkv.runtime.attach import Attachment, attach
from skipkv.runtime.engine import Engine
from skipkv.runtime.requests.handle import Handle
from skipkv.runtime.requests.prefix import Prefix
from skipkv.runtime.requests.prompts import Prompt
from skipkv.runtime.requests.sampling import Sampling
from skipkv.runtime.results.completion import Completion, EventRecord, Stats
from skipkv.runtime.results.observers import (
    ObservedEvent,
    ObservedPass,
    ObservedToken,
    Observer,
    Scores,
    SequenceEvent,
    Steered,
)
from skipkv.runtime.results.streaming import Piece
from skipkv.runtime.results.timing import Timings
from skipkv.runtime.selection import select
from skipkv.runtime.server import Server
from skipkv.runtime.text.thinking import ThinkingMarks

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
