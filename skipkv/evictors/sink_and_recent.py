"""Keep the first tokens and the most recent ones."""

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.evictors.top_k import best


@attrs.frozen(kw_only=True)
class SinkAndRecent:
    """Keeps the first `sinks` tokens and fills the budget with the most recent ones.

    The first tokens take the attention that other tokens do not need. Without them a model with a
    sliding window fails. Scores are not read. Protected entries stay too, and the budget counts
    them.

    Args:
        sinks: first tokens of the sequence to keep, in tokens; 0 for a plain sliding window.

    Raises:
        ConfigError: `sinks` is negative.

    Source: StreamingLLM (arXiv 2309.17453), section 3.

    Differs: positions do not change; the paper renumbers them within the cache.

    Example:
        >>> SinkAndRecent(sinks=4)
        SinkAndRecent(sinks=4)
    """

    sinks: int = attrs.field(default=4, validator=is_a(int))

    def __attrs_post_init__(self) -> None:
        if self.sinks < 0:
            raise ConfigError(
                f"SinkAndRecent(sinks={self.sinks}) must be at least 0: it is the number of first "
                "tokens kept. Use 0 for a plain sliding window."
            )

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """Protected entries, then sinks, then the newest entries until the budget is full."""
        sink = view.positions < self.sinks
        tier = torch.where(view.protected, 2, sink.int())
        # slots are in the order of positions, so the slot's number is its recency
        slots = torch.arange(scores.shape[-1], device=scores.device)
        recency = torch.where(sink, -slots, slots).float()  # the first sinks come first
        return best(recency, view, budget, tier)
