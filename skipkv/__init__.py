"""skipkv: reasoning models that think in a bounded KV cache.

Compose a `Policy` from parts or take one of `presets`; decode with `Engine`, or keep your own
`model.generate()` call inside `attach`.
"""

from skipkv import errors, evictors, presets, schedulers, scorers, segmenters, steerers
from skipkv._types import (
    CacheView,
    Cut,
    Needs,
    Request,
    SentenceTable,
    SteeringContext,
    Thought,
    TokenStream,
)
from skipkv.errors import SkipKVError
from skipkv.evictors import Evictor
from skipkv.policy import Budget, Policy
from skipkv.runtime import Completion, Engine, Sampling, Stats, attach
from skipkv.schedulers import BatchScheduler
from skipkv.scorers import Scorer
from skipkv.segmenters import Segmenter
from skipkv.steerers import Steerer

__all__ = [
    "BatchScheduler",
    "Budget",
    "CacheView",
    "Completion",
    "Cut",
    "Engine",
    "Evictor",
    "Needs",
    "Policy",
    "Request",
    "Sampling",
    "Scorer",
    "Segmenter",
    "SentenceTable",
    "SkipKVError",
    "Stats",
    "Steerer",
    "SteeringContext",
    "Thought",
    "TokenStream",
    "attach",
    "errors",
    "evictors",
    "presets",
    "schedulers",
    "scorers",
    "segmenters",
    "steerers",
]
__version__ = "0.1.0"
