"""Evictors choose which entries stay.

One evictor per file, named for it. To add one: write a frozen attrs class with
`keep(scores, view, budget)`, export it here, and check it with `skipkv.testing.check_evictor`.
"""

from skipkv.evictors.keep_all import KeepAll
from skipkv.evictors.pooled import Pooled
from skipkv.evictors.protocol import Evictor
from skipkv.evictors.reserved import Reserved
from skipkv.evictors.sentence_primary import SentencePrimary
from skipkv.evictors.shared import Shared
from skipkv.evictors.sink_and_recent import SinkAndRecent
from skipkv.evictors.top_k import TopK
from skipkv.evictors.whole_sentence import WholeSentence

__all__ = [
    "Evictor",
    "KeepAll",
    "Pooled",
    "Reserved",
    "SentencePrimary",
    "Shared",
    "SinkAndRecent",
    "TopK",
    "WholeSentence",
]
