"""skipkv: reasoning models that think in a bounded KV cache.

Compose a `Policy` from parts or take one of `presets`; decode with `Engine`, or keep your own
`model.generate()` call inside `attach`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkv import errors, evictors, presets, schedulers, scorers, segmenters, steerers
    from skipkv._types import (
        CacheView,
        Cut,
        Decayed,
        LastAbove,
        LongestGap,
        Memory,
        ModelShape,
        Needs,
        PairedStatistic,
        Peak,
        Record,
        Request,
        Rotation,
        SentenceTable,
        Statistic,
        SteeringContext,
        Sum,
        Thought,
        TokenStream,
        Written,
    )
    from skipkv.errors import SkipKVError
    from skipkv.evictors import Evictor
    from skipkv.policy import Budget, LinearShares, Policy
    from skipkv.runtime import (
        Completion,
        Engine,
        EventRecord,
        Handle,
        Observer,
        Piece,
        Prefix,
        Prompt,
        Sampling,
        Server,
        Stats,
        ThinkingMarks,
        Timings,
        attach,
        select,
    )
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
    "Decayed",
    "Engine",
    "EventRecord",
    "Evictor",
    "Handle",
    "LastAbove",
    "LinearShares",
    "LongestGap",
    "Memory",
    "ModelShape",
    "Needs",
    "Observer",
    "PairedStatistic",
    "Peak",
    "Piece",
    "Policy",
    "Prefix",
    "Prompt",
    "Record",
    "Request",
    "Rotation",
    "Sampling",
    "Scorer",
    "Segmenter",
    "SentenceTable",
    "Server",
    "SkipKVError",
    "Statistic",
    "Stats",
    "Steerer",
    "SteeringContext",
    "Sum",
    "ThinkingMarks",
    "Thought",
    "Timings",
    "TokenStream",
    "Written",
    "attach",
    "errors",
    "evictors",
    "presets",
    "schedulers",
    "scorers",
    "segmenters",
    "select",
    "steerers",
]
__version__ = "0.1.0"
_MODULES = {"errors", "evictors", "presets", "schedulers", "scorers", "segmenters", "steerers"}
_HOMES = {
    **dict.fromkeys(("CacheView", "Cut", "Needs", "Request", "SentenceTable"), "_types"),
    **dict.fromkeys(("Rotation", "SteeringContext", "Thought", "TokenStream"), "_types"),
    **dict.fromkeys(("Decayed", "LastAbove", "Memory", "Peak", "Record", "Statistic"), "_types"),
    **dict.fromkeys(("LongestGap", "ModelShape", "PairedStatistic", "Sum"), "_types"),
    "Written": "_types",
    **dict.fromkeys(("Budget", "LinearShares", "Policy"), "policy"),
    **dict.fromkeys(("Completion", "Engine", "EventRecord", "Handle", "Observer"), "runtime"),
    **dict.fromkeys(("Piece", "Prefix", "Prompt", "Sampling", "Server"), "runtime"),
    **dict.fromkeys(("Stats", "ThinkingMarks", "Timings", "attach", "select"), "runtime"),
    "BatchScheduler": "schedulers",
    "Evictor": "evictors",
    "Scorer": "scorers",
    "Segmenter": "segmenters",
    "SkipKVError": "errors",
    "Steerer": "steerers",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for.

    The parts bring in torch, and the runtime transformers' models, which takes seconds. The command
    line starts without either, so that it can answer Ctrl-C.
    """
    if name in _MODULES:
        return importlib.import_module(f"skipkv.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"skipkv.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
