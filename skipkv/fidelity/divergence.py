"""How far one next-token distribution lies from another, position by position."""

import attrs
from jaxtyping import Bool, Float, Int
from torch import Tensor


@attrs.frozen(kw_only=True, eq=False)
class Divergence:
    """What changed at each position.

    Args:
        kl: Kullback-Leibler divergence of the changed distribution from the first, in nats: the sum
            of p log(p / q), with p the first.
        same: whether both have the same most likely token.
        nll: minus the logarithm of the probability that the changed one gives the token that
            follows in the text, in nats.
    """

    kl: Float[Tensor, "T"]
    same: Bool[Tensor, "T"]
    nll: Float[Tensor, "T"]


def divergence(
    p: Float[Tensor, "T V"], changed: Float[Tensor, "T V"], following: Int[Tensor, "T"]
) -> Divergence:
    """Compare two distributions per position, in float32.

    Args:
        p: logarithms of the probabilities that are the measure.
        changed: logits of the other distribution.
        following: the token that follows each position in the text.
    """
    q = changed.float().log_softmax(dim=-1)
    return Divergence(
        kl=(p.exp() * (p - q)).sum(dim=-1),
        same=p.argmax(dim=-1) == q.argmax(dim=-1),
        nll=-q.gather(-1, following[:, None])[:, 0],
    )
