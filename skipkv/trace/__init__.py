"""What a policy kept of a sequence: recording it, files of it, and functions that read it.

A `Recorder` observes a decode and makes a `Trace` of each sequence. What reads a trace has a file
of its own and takes the trace; a method of `Trace` calls it.
"""

from skipkv.trace.listing import listing
from skipkv.trace.page import page
from skipkv.trace.recorder import Recorder
from skipkv.trace.sentences import Sentences
from skipkv.trace.survival import survival
from skipkv.trace.trace import Trace

__all__ = ["Recorder", "Sentences", "Trace", "listing", "page", "survival"]
