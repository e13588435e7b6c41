"""Entries that queries to come are expected to attend to are worth more."""

import math

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Needs, Rotation
from skipkv._validators import is_a
from skipkv.errors import InputError
from skipkv.scorers._attention import newest_queries, softmax_over, some_at_a_time
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class ExpectedAttention(ScorerAlgebra):
    """The attention that the next `horizon` queries will pay, if queries are Gaussian.

    Queries before RoPE have a mean m and a covariance C per query head. At positions to come they
    are turned; R is the mean of those turns. The expected weight of exp(q . k_j / sqrt(D)) is then
    exp(k_j . R m / sqrt(D) + k_j' R C R' k_j / (2 D)). The score is the softmax of this exponent
    over the entries, the mean over the query heads of the KV head, times |v_j|.

    Args:
        window: newest queries that m and C are worked out from, in tokens; at least 2.
        horizon: positions to come, from the next one on; at least 1.

    Source: Expected Attention (arXiv 2510.00636), sections 3 and 4.

    Differs: m and C are those of the newest queries; the paper has those of the whole prompt.

    Example:
        >>> ExpectedAttention(window=32).needs
        Needs(queries=32, rotary=True)
    """

    window: int = attrs.field(default=64, validator=is_a(int, least=2))
    horizon: int = attrs.field(default=512, validator=is_a(int, least=1))

    @property
    def needs(self) -> Needs:
        """The window's queries, and the rotation that takes them back."""
        return Needs(queries=self.window, rotary=True)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """Expected attention times the value's norm; not negative."""
        if view.rotation is None:
            raise InputError(
                "CacheView.rotation is None: ExpectedAttention turns queries. Build the view with "
                "it; the runtime does where a part declares needs = Needs(rotary=True)."
            )
        queries = newest_queries(view, self.window, "ExpectedAttention")
        places = view.seen[:, None] + torch.arange(-self.window, 0, device=queries.device)
        at = places[:, None, None].expand(queries.shape[:-1])  # [R, H, G, W]
        before = view.rotation.unrotated(queries, at)
        to_come = self._turned(before, view.seen, view.rotation)
        mean = to_come.mean(dim=3, keepdim=True)  # [R, H, G, 1, D]: turning is linear
        size = queries.shape[-1]
        keys = view.keys.float().mT  # [R, H, D, L]
        exponent = mean[:, :, :, 0] @ keys / math.sqrt(size)  # [R, H, G, L]
        apart = to_come - mean
        for some in some_at_a_time(apart):
            part = apart[:, :, :, some]
            along = (part.flatten(2, 3) @ keys).unflatten(2, part.shape[2:4])
            exponent += along.square().sum(dim=3) / (2 * size * self.window)
        attention = softmax_over(exponent, view.occupied).mean(dim=2)
        values = view.values.float().masked_fill(~view.occupied[..., None], 0.0)
        norm: Tensor = torch.linalg.vector_norm(values, dim=-1)
        return attention * norm

    def _turned(
        self, queries: Float[Tensor, "R H G W D"], seen: Tensor, rotation: Rotation
    ) -> Float[Tensor, "R H G W D"]:
        """Queries turned by the mean of the turns of the positions to come."""
        future = seen[:, None] + torch.arange(self.horizon, device=seen.device)
        angles = future[..., None].float() * rotation.frequencies  # [R, T, F]
        cos, sin = (f.mean(dim=1)[:, None, None, None] for f in (angles.cos(), angles.sin()))
        pairs = rotation.frequencies.shape[0]
        first, second, rest = queries.split([pairs, pairs, queries.shape[-1] - 2 * pairs], dim=-1)
        turned = [first * cos - second * sin, second * cos + first * sin]
        return torch.cat([*(rotation.scaling * part for part in turned), rest], dim=-1)
