"""Scorers value cache entries; higher means keep.

One scorer per file, named for it. To add one: write a frozen attrs class with `score(view)`,
inherit `ScorerAlgebra`, declare what it reads in `needs`, export it here, and test it on a few
tensors.
"""

from skipkv.scorers.accumulated_attention import AccumulatedAttention
from skipkv.scorers.algebra import Combined, Normalized, ScorerAlgebra, Weighted
from skipkv.scorers.attention_rate import AttentionRate
from skipkv.scorers.expected_attention import ExpectedAttention
from skipkv.scorers.gate_score import GateScore
from skipkv.scorers.key_diff import KeyDiff
from skipkv.scorers.key_norm import KeyNorm
from skipkv.scorers.key_redundancy import KeyRedundancy
from skipkv.scorers.lag_relative import LagRelative
from skipkv.scorers.last_attended import LastAttended
from skipkv.scorers.last_query_attention import LastQueryAttention
from skipkv.scorers.lasting import Lasting
from skipkv.scorers.output_change import OutputChange
from skipkv.scorers.protocol import Scorer
from skipkv.scorers.query_statistics import QueryStatistics
from skipkv.scorers.random import Random
from skipkv.scorers.recency import Recency
from skipkv.scorers.recent_attention import RecentAttention
from skipkv.scorers.recurrence import Recurrence
from skipkv.scorers.relative import Relative
from skipkv.scorers.retention import Retention
from skipkv.scorers.sampled import Sampled
from skipkv.scorers.sentence_redundancy import SentenceRedundancy
from skipkv.scorers.shared import Shared
from skipkv.scorers.sketch_norm import SketchNorm
from skipkv.scorers.tri_attention import TriAttention
from skipkv.scorers.value_peak import ValuePeak
from skipkv.scorers.window_attention import WindowAttention
from skipkv.scorers.write_gate import WriteGate

__all__ = [
    "AccumulatedAttention",
    "AttentionRate",
    "Combined",
    "ExpectedAttention",
    "GateScore",
    "KeyDiff",
    "KeyNorm",
    "KeyRedundancy",
    "LagRelative",
    "LastAttended",
    "LastQueryAttention",
    "Lasting",
    "Normalized",
    "OutputChange",
    "QueryStatistics",
    "Random",
    "Recency",
    "RecentAttention",
    "Recurrence",
    "Relative",
    "Retention",
    "Sampled",
    "Scorer",
    "ScorerAlgebra",
    "SentenceRedundancy",
    "Shared",
    "SketchNorm",
    "TriAttention",
    "ValuePeak",
    "Weighted",
    "WindowAttention",
    "WriteGate",
]
