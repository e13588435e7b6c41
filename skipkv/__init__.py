"""skipkv: reasoning models that think in a bounded KV cache.

Compose a `Policy` from parts or take one of `presets`; decode with `Engine`, or keep your own
`model.generate()` call inside `attach`.
"""

from typing import TYPE_CHECKING, Any

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
from skipkv.schedulers import BatchScheduler
from skipkv.scorers import Scorer
from skipkv.segmenters import Segmenter
from skipkv.steerers import Steerer

if TYPE_CHECKING:
    from skipkv.runtime import (
        Completion,
        Engine,
        EventRecord,
        Piece,
        Prompt,
        Sampling,
        Stats,
        attach,
    )

__all__ = [
    "BatchScheduler",
    "Budget",
    "CacheView",
    "Completion",
    "Cut",
    "Engine",
    "EventRecord",
    "Evictor",
    "Needs",
    "Piece",
    "Policy",
    "Prompt",
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
_FROM_RUNTIME = {
    "Completion",
    "Engine",
    "EventRecord",
    "Piece",
    "Prompt",
    "Sampling",
    "Stats",
    "attach",
}


def __getattr__(name: str) -> Any:
    """The runtime's names, imported when first asked for.

    It brings in transformers' models, which takes seconds; parts and their tests do without.
    """
    if name in _FROM_RUNTIME:
        from skipkv import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
