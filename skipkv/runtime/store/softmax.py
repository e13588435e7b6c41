"""How logits of attention become weights, where an architecture departs from a plain softmax."""

import math

import attrs
import torch
from jaxtyping import Bool, Float
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

    def attend(
        self,
        query: Float[Tensor, "B H *N D"],
        key: Float[Tensor, "B H L D"],
        value: Float[Tensor, "B H L D"],
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None,
        scale: float,
    ) -> tuple[Float[Tensor, "B H *N D"], Float[Tensor, "B H *N L"]]:
        """Attention with its weights, which fused kernels do not give; the softmax is in float32.

        Args:
            query: queries of a KV head; `N` is `G`, or `G T`.
            key: its keys.
            value: its values.
            mask: what each query sees, true where it does, or numbers to add to the logits.
            scale: factor of the logits.

        Returns:
            What the queries read, and the weight of each entry.
        """
        weights = self.seen(query, key, mask, scale)
        read = weights.to(value.dtype).flatten(2, -2) @ value
        return read.view(*query.shape[:-1], -1), weights

    def seen(
        self,
        query: Float[Tensor, "B H *N D"],
        key: Float[Tensor, "B H L D"],
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None,
        scale: float,
    ) -> Float[Tensor, "B H *N L"]:
        """The weight that each query gives to each entry; the arguments are those of `attend`."""
        axes = query.shape[:-1]  # [B H *N]; flat, so that keys are not repeated
        products = (query.flatten(2, -2) @ key.mT).view(*axes, -1)
        logits = self.cap(products.float().mul_(scale))
        if mask is not None:
            # a mask of numbers is faster: it has no axis of groups, and is added in place
            logits.add_(numbers(mask) if mask.dtype is torch.bool else mask)
        return self.weights(logits)


def numbers(mask: Bool[Tensor, "*axes L"]) -> Float[Tensor, "*axes L"]:
    """What to add to logits: 0 where a mask is true, minus infinity elsewhere."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)


PLAIN = Softmax()


def observed(query: Float[Tensor, "*axes D"], scale: float) -> Float[Tensor, "*axes D"]:
    """The queries as parts see them: parts divide logits by sqrt(D), whatever the model does.

    Args:
        query: the model's queries.
        scale: the model's factor of the logits.
    """
    factor = scale * math.sqrt(query.shape[-1])
    return query if math.isclose(factor, 1) else query * factor
