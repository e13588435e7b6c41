"""Random scores: the baseline that every scorer must beat."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv._validators import is_a
from skipkv.scorers._noise import bits_of, uniform
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class Random(ScorerAlgebra):
    """Noise in [0, 1) that knows an entry by its layer, KV head and position.

    By default it is fresh: a function of the seed, layer, head, position and tokens seen. Each
    layer and head loses other tokens, so that few tokens are gone from all of them. Every event
    draws again, so an old entry, which has survived more draws, is rarer than a young one. Where
    the prompt matters, protect it: `Budget(prompt=True)`.

    With `fresh=False` it is a function of the seed, head and position: an entry has one value at
    all events, every layer keeps the same tokens, and old entries are kept as often as young ones.

    Both are the same in every batch and on every device. Two sequences that have seen the same
    number of tokens get the same noise.

    Source: arXiv 2609.03430 for fresh noise, with the prompt and 64 recent tokens kept.

    Args:
        seed: any integer; the low 32 bits are used.
        fresh: whether layers and events draw their own noise.

    Example:
        >>> Random(seed=3)
        Random(seed=3, fresh=True)
    """

    seed: int = attrs.field(default=0, validator=is_a(int))
    fresh: bool = attrs.field(default=True, validator=is_a(bool))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """A hash of what the noise is a function of, as a number in [0, 1)."""
        device = view.positions.device
        heads = torch.arange(view.positions.shape[1], device=device)[:, None]  # [H, 1]
        event = (view.layers[:, None, None], view.seen[:, None, None]) if self.fresh else ()
        return uniform(bits_of(self.seed, *event, heads, view.positions, device=device))
