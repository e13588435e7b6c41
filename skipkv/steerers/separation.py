"""How far apart two kinds of thoughts lie along a vector."""

import math

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor


@attrs.frozen(kw_only=True)
class Separation:
    """How well projections on a vector tell execution from the other thoughts.

    `d_prime` ranks layers: the distance of the two means in standard deviations. It does not depend
    on the length of a layer's states. And it still tells layers apart where the area under the ROC
    curve is 1 at all of them.

    Args:
        execution: number of thoughts of execution.
        others: number of other thoughts.
        d_prime: difference of the means over the root of the mean of both variances; NaN if either
            kind has fewer than two thoughts.
        auc: chance that a thought of execution lies further along the vector than another one;
            0.5 is no separation.
        accuracy: mean of the shares of each kind that lie on their side of the midpoint.

    Example:
        >>> Separation.of(
        ...     torch.tensor([3.0, 1.0, -3.0, -1.0]), torch.tensor([True, True, False, False])
        ... )
        Separation(execution=2, others=2, d_prime=2.83, auc=1.0, accuracy=1.0)
    """

    execution: int
    others: int
    d_prime: float = attrs.field(repr=lambda value: f"{value:.3g}")
    auc: float = attrs.field(repr=lambda value: f"{value:.3}")
    accuracy: float = attrs.field(repr=lambda value: f"{value:.3}")

    @classmethod
    def of(cls, projections: Float[Tensor, "N"], execution: Bool[Tensor, "N"]) -> "Separation":
        """The separation of these projections.

        Args:
            projections: hidden states projected on the vector; 0 is midway between the two means.
            execution: which of them open a thought of execution.
        """
        first, rest = projections[execution].double(), projections[~execution].double()
        if not len(first) or not len(rest):
            nan = math.nan
            return cls(execution=len(first), others=len(rest), d_prime=nan, auc=nan, accuracy=nan)
        return cls(
            execution=len(first),
            others=len(rest),
            d_prime=_d_prime(first, rest),
            auc=_auc(first, rest),
            accuracy=float((first > 0).double().mean() + (rest <= 0).double().mean()) / 2,
        )


def _d_prime(first: Float[Tensor, "n"], rest: Float[Tensor, "m"]) -> float:
    if min(len(first), len(rest)) < 2:
        return math.nan
    spread = math.sqrt(float(first.var() + rest.var()) / 2)
    distance = float(first.mean() - rest.mean())
    if spread == 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / spread


def _auc(first: Float[Tensor, "n"], rest: Float[Tensor, "m"]) -> float:
    """The mean share of `rest` below each of `first`; equal numbers count half."""
    below = torch.searchsorted(rest.sort().values, first, right=False)
    not_above = torch.searchsorted(rest.sort().values, first, right=True)
    return float((below + not_above).sum()) / (2 * len(first) * len(rest))
