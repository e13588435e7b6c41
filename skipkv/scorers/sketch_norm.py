"""Entries whose key and value are large in a random projection are worth more."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView
from skipkv._validators import is_a
from skipkv.scorers._noise import bits_of, normal
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class SketchNorm(ScorerAlgebra):
    """|k_j G|^2 times |v_j G|^2, with G a Gaussian D x `columns` that every event draws anew.

    The norm after a random projection estimates the entry's leverage, that is how much of the
    column space of keys or values it carries. The noise of the projection is wanted: events differ
    in what they drop. No query has to be observed.

    G is a function of seed, layer and tokens seen, so heads of a row share it, and the same view
    gets the same scores.

    Args:
        columns: columns of G; at least 1.
        seed: any integer; the low 32 bits are used.

    Source: VaSE-DKV (arXiv 2606.03928); CurDKV (arXiv 2509.15038) for the product of the two
    approximate leverages.

    Example:
        >>> SketchNorm()
        SketchNorm(columns=20, seed=0)
    """

    columns: int = attrs.field(default=20, validator=is_a(int, least=1))
    seed: int = attrs.field(default=0, validator=is_a(int))

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The product of the two squared norms; not negative."""
        size, device = view.keys.shape[3], view.keys.device
        numbers = torch.arange(size * self.columns, device=device)
        event = view.layers[:, None], view.seen[:, None]
        drawn = normal(bits_of(self.seed, *event, numbers, device=device))  # [R, D * columns]
        sketch = drawn.unflatten(1, (size, self.columns))[:, None]  # [R, 1, D, columns]
        empty = ~view.occupied[..., None]
        keys = view.keys.float().masked_fill(empty, 0.0) @ sketch
        values = view.values.float().masked_fill(empty, 0.0) @ sketch
        product: Tensor = keys.square().sum(dim=-1) * values.square().sum(dim=-1)
        return product
