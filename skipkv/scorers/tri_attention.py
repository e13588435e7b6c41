"""Entries that the model's average query will find, now or later, are worth more."""

from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a, kind_of
from skipkv.errors import ConfigError, InputError
from skipkv.scorers.algebra import ScorerAlgebra
from skipkv.scorers.query_statistics import QueryStatistics


def _are_statistics(self: object, field: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, QueryStatistics):
        raise ConfigError(
            f"TriAttention({field.name}=...) must be QueryStatistics, got {kind_of(value)}. Read a "
            "file with QueryStatistics.load(path)."
        )


@attrs.frozen(kw_only=True)
class TriAttention(ScorerAlgebra):
    r"""The logit of the mean query at positions to come, and what a key's length adds to it.

    RoPE turns the pairs f of a query and a key, as complex numbers q_f and k_f, by w_f times their
    distance. With the mean query Q_f of a head, and t tokens from now, a key at distance d has the
    logit sum_f Re(Q_f conj(k_f) exp(i w_f (d + t))). The first term is its mean over the offsets t
    = 1, 2, 4, ... up to `horizon`. Queries that are far from their mean may point anywhere, so the
    second term is sum_f (E|q_f| - |Q_f|) |k_f|. The sum of the two is brought to mean 0 and
    deviation 1 over the entries of a query head. The score is the largest over the query heads of
    the KV head.

    Source: TriAttention (arXiv 2604.04921).

    Differs: dimensions that are not turned count in the first term, with their plain product. The
    factor of a rotation that scales queries and keys is left out; the deviation divides it out.

    Args:
        queries: statistics of the model that decodes.
        horizon: the largest offset, in tokens; at least 1.

    Example:
        >>> statistics = QueryStatistics(
        ...     mean=torch.ones(1, 1, 1, 2),
        ...     length=torch.full((1, 1, 1, 1), 2.0),
        ...     frequencies=torch.tensor([1.0]),
        ...     tokens=9,
        ... )
        >>> TriAttention(queries=statistics).needs.rotary
        True
    """

    queries: QueryStatistics = attrs.field(validator=_are_statistics)
    horizon: int = attrs.field(default=65536, validator=is_a(int, least=1))

    @property
    def needs(self) -> Needs:
        """The rotation, and the model of the statistics."""
        return Needs(rotary=True, model=self.queries.shape)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The largest deviation from the mean, over the query heads."""
        if view.rotation is None:
            raise InputError(
                "CacheView.rotation is None: TriAttention turns mean queries. Build the view with "
                "it; the runtime does where a part declares needs = Needs(rotary=True)."
            )
        frequencies = view.rotation.frequencies
        ours, heads, dim = self.queries.shape.sizes, view.keys.shape[1], view.keys.shape[3]
        if (heads, dim) != (ours["heads"], ours["dim"]):
            raise InputError(
                f"TriAttention(queries={self.queries!r}) has statistics of {ours['heads']} KV "
                f"heads of {ours['dim']} numbers, and the view has {heads} of {dim}. Take those of "
                "the model that decodes."
            )
        mean, length = (part[view.layers] for part in self.queries.on(view.keys.device))
        pairs = len(frequencies)
        keys = view.keys.float().masked_fill(~view.occupied[..., None], 0.0)
        # A key as the cache has it was turned by its own position already, so the mean query has
        # to be turned by the positions to come, and the two multiplied.
        now = (view.seen - 1)[:, None].float() * frequencies  # [R F]
        to_come = torch.polar(torch.ones_like(now), now) * self._offsets(frequencies)
        centre = torch.complex(mean[..., :pairs], mean[..., pairs : 2 * pairs])  # [R H G F]
        turned = centre * to_come[:, None, None]
        query = torch.cat([turned.real, turned.imag, mean[..., 2 * pairs :]], dim=-1)
        logit = query @ keys.mT  # [R H G L]
        size = torch.hypot(keys[..., :pairs], keys[..., pairs : 2 * pairs])  # [R H L F]
        logit = logit + (length - centre.abs()) @ size.mT
        return _standard(logit, view.occupied[:, :, None]).amax(dim=2)

    def _offsets(self, frequencies: Float[Tensor, "F"]) -> Tensor:
        """The mean of exp(i w t) over the offsets t, for each frequency w; complex, [F]."""
        steps = 2 ** torch.arange(self.horizon.bit_length(), device=frequencies.device)
        angles = steps[:, None].double() * frequencies.double()
        return torch.polar(torch.ones_like(angles), angles).mean(dim=0).to(torch.complex64)


def _standard(values: Float[Tensor, "R H G L"], entries: Tensor) -> Float[Tensor, "R H G L"]:
    """Values with mean 0 and deviation 1 over the entries; 0 where all are alike."""
    values = values.masked_fill(~entries, 0.0)
    count = entries.sum(dim=-1, keepdim=True).clamp_min(1)
    apart = (values - values.sum(dim=-1, keepdim=True) / count).masked_fill(~entries, 0.0)
    deviation = (apart.square().sum(dim=-1, keepdim=True) / count).sqrt()
    alike = deviation <= 1e-5 * values.abs().amax(dim=-1, keepdim=True)  # by rounding only
    return (apart / deviation).masked_fill(alike, 0.0)
