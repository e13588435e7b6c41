"""Entries that stand out against those that follow are worth more."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv._validators import is_a
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class LagRelative(ScorerAlgebra):
    """How unevenly a key and value lie in the range of the next `lag` entries.

    The entries after the sinks are cut into stretches of `lag`. In each channel the next stretch
    has a lowest and a highest number, and an entry is written in that range: x = (k - low) /
    (high - low). The standard deviation of x over the channels, softmaxed over the stretch, plus
    the same of values, orders the entries of a stretch. The score is the place in that order over
    `lag`, so every stretch gives up as many. Entries that no full stretch follows are worth more
    than all others, the newest most. No query has to be observed.

    Args:
        lag: entries of a stretch; at least 1.
        sinks: first tokens, which belong to no stretch; protect them, `Budget(sinks=...)`.

    Source: LagKV (arXiv 2504.04704), sections 3.1 and 3.2.

    Differs: at later events the stretches are cut anew from the entries that are left; the paper
    cuts each once. A channel without a range has the range 1e-6.

    Example:
        >>> LagRelative(lag=32, sinks=4)
        LagRelative(lag=32, sinks=4)
    """

    lag: int = attrs.field(default=128, validator=is_a(int, least=1))
    sinks: int = attrs.field(default=0, validator=is_a(int, least=0))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """In [0, 1) where a full stretch follows, in [1, 2) where none does."""
        newest = 1 + view.positions.float() / view.seen.clamp_min(1)[:, None, None].float()
        first = (view.occupied & (view.positions < self.sinks)).sum(dim=-1, keepdim=True)
        slots = view.positions.shape[2]
        stretches = slots // self.lag
        if stretches < 2:
            return newest
        place = first + torch.arange(stretches * self.lag, device=first.device)  # [R, H, P * lag]
        place = place.clamp_max(slots - 1)
        uneven = self._uneven(view.keys, view, place) + self._uneven(view.values, view, place)
        order = uneven.argsort(dim=-1, stable=True).argsort(dim=-1)  # [R, H, P - 1, lag]
        held = view.occupied.sum(dim=-1, keepdim=True)
        # the slot after the stretch that follows must be no later than the end of the entries
        ends = first + self.lag * torch.arange(2, stretches + 1, device=first.device)
        compared = (ends <= held)[..., None].expand_as(order).flatten(2)
        scored = place[..., : compared.shape[-1]]
        scores = torch.where(
            compared, order.flatten(2).float() / self.lag, newest.gather(-1, scored)
        )
        return newest.scatter(-1, scored, scores)

    def _uneven(
        self, part: Float[Tensor, "R H L D"], view: CacheView, place: Tensor
    ) -> Float[Tensor, "R H P lag"]:
        """The softmax over each stretch, but for the last, of the deviation over channels."""
        filled = part.float().masked_fill(~view.occupied[..., None], 0.0)
        size = filled.shape[-1]
        entries = filled.gather(2, place[..., None].expand(*place.shape, size))
        cut = entries.unflatten(2, (-1, self.lag))  # [R, H, P, lag, D]
        low, high = cut[:, :, 1:].amin(dim=3, keepdim=True), cut[:, :, 1:].amax(dim=3, keepdim=True)
        within = (cut[:, :, :-1] - low) / (high - low).clamp_min(1e-6)
        deviation: Tensor = within.std(dim=-1, correction=min(1, size - 1))
        return deviation.softmax(dim=-1)
