"""Any preset with one keep set for all heads of a layer, or of all, for docs/results.md.

skipkv eval --model tiny --policies rkv,benchmarks.shared_sets:shared:preset=rkv,over=vote
"""

from typing import Any

from skipkv import Policy, presets
from skipkv.evictors import Shared


def shared(
    budget: int, *, preset: str = "rkv", over: str = "mean", layers: bool = False, **options: Any
) -> Policy:
    """A preset whose heads choose together.

    Args:
        budget: entries per KV head, in tokens.
        preset: its name.
        over: "mean", "max" or "vote".
        layers: whether all layers choose together too.
        options: of the preset.
    """
    policy = presets.get(preset)(budget, **options)
    return policy.with_(evictor=Shared(evictor=policy.evictor, over=over, layers=layers))
