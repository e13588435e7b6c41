"""How logits of attention become weights, where an architecture departs from a plain softmax."""

import math

import attrs
import torch
from jaxtyping import Float
from torch import Tensor


@attrs.frozen(kw_only=True, eq=False)
class Softmax:
    """A softmax whose logits may be capped, and which may share its weight with sinks.

    Args:
        softcap: `softcap * tanh(logits / softcap)` takes the place of logits.
        sinks: a logit per query head that takes a share of the weight and has no value.

    Source: Gemma 2 (soft-capping), gpt-oss (sinks); the order of operations is transformers'.
    """

    softcap: float | None = None
    sinks: Float[Tensor, "Q"] | None = None

    @property
    def plain(self) -> bool:
        """Whether it is a softmax and no more, as fused kernels compute it."""
        return self.softcap is None and self.sinks is None

    def cap(self, logits: Float[Tensor, "B H G *T L"]) -> Float[Tensor, "B H G *T L"]:
        """The scaled logits, capped; before anything is masked."""
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def weights(self, logits: Float[Tensor, "B H G *T L"]) -> Float[Tensor, "B H G *T L"]:
        """The weights of entries, from masked logits in float32."""
        if self.sinks is None:
            return logits.softmax(dim=-1)
        heads, groups = logits.shape[1:3]
        sinks = self.sinks.to(logits).view(heads, groups, *[1] * (logits.ndim - 3))
        with_sinks = torch.cat([logits, sinks.expand(*logits.shape[:-1], 1)], dim=-1)
        return with_sinks.softmax(dim=-1)[..., :-1]


PLAIN = Softmax()


def observed(query: Float[Tensor, "*axes D"], scale: float) -> Float[Tensor, "*axes D"]:
    """The queries as parts see them: parts divide logits by sqrt(D), whatever the model does.

    Args:
        query: the model's queries.
        scale: the model's factor of the logits.
    """
    factor = scale * math.sqrt(query.shape[-1])
    return query if math.isclose(factor, 1) else query * factor
