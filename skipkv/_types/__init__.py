"""Value types shared by all parts: what parts are given and what they return.

One type per file. The types know no model, and their values never change.
Add a type here only when two kinds of part use it, or a part and the runtime.
"""

from skipkv._types.needs import Needs, needs_of
from skipkv._types.request import Request
from skipkv._types.rotation import Rotation
from skipkv._types.sentences import SentenceTable
from skipkv._types.steering import SteeringContext
from skipkv._types.thoughts import Cut, Thought
from skipkv._types.tokens import TokenStream
from skipkv._types.view import CacheView

__all__ = [
    "CacheView",
    "Cut",
    "Needs",
    "Request",
    "Rotation",
    "SentenceTable",
    "SteeringContext",
    "Thought",
    "TokenStream",
    "needs_of",
]
