"""Choosing the next token: greedy or sampled, with a random stream of its own for every request."""

import attrs
import numpy as np
import torch
from attrs.validators import instance_of
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from skipkv.errors import ConfigError


@attrs.frozen(kw_only=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 decodes greedily; above, logits are divided by it.
        top_p: smallest set of tokens whose probability reaches this, in (0, 1].
        top_k: the most probable tokens only; 0 for all.
        n: samples per prompt.
        seed: sample number i of prompt number p draws from a stream of (seed, p, i) alone, so it does not
            depend on what else is decoded.

    Raises:
        ConfigError: a value out of range, or several samples of a greedy decode.
    """

    temperature: float = attrs.field(default=0.0, validator=instance_of((int, float)))
    top_p: float = attrs.field(default=1.0, validator=instance_of((int, float)))
    top_k: int = attrs.field(default=0, validator=instance_of(int))
    n: int = attrs.field(default=1, validator=instance_of(int))
    seed: int = attrs.field(default=0, validator=instance_of(int))

    def __attrs_post_init__(self) -> None:
        for field, holds, rule in (
            ("temperature", 0 <= self.temperature < float("inf"), "be finite and at least 0"),
            ("top_p", 0 < self.top_p <= 1, "lie in (0, 1]"),
            ("top_k", self.top_k >= 0, "be at least 0 (0: all tokens)"),
            ("n", self.n >= 1, "be at least 1"),
            ("seed", self.seed >= 0, "be at least 0"),
        ):
            if not holds:
                raise ConfigError(f"Sampling({field}={getattr(self, field)!r}) must {rule}.")
        if self.temperature == 0 and self.n > 1:
            raise ConfigError(
                f"Sampling(n={self.n}, temperature=0) would give {self.n} equal samples. Raise the "
                "temperature or ask for one sample."
            )

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature == 0

    def processors(self) -> LogitsProcessorList:
        """transformers' own processors for these settings, in the order `generate()` applies them."""
        processors = LogitsProcessorList()
        if self.greedy:
            return processors
        if self.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            processors.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(float(self.top_p)))
        return processors

    def uniforms(self, prompt: int, sample: int, count: int) -> Float[Tensor, "count"]:
        """The random numbers of one sequence, one per token, float64 in [0, 1)."""
        stream = np.random.default_rng([self.seed, prompt, sample])
        return torch.from_numpy(stream.random(count))


def choose(
    logits: Float[Tensor, "B V"],
    processors: LogitsProcessorList,
    uniforms: Float[Tensor, "B"] | None,
) -> Int[Tensor, "B"]:
    """The next token of each row: the most probable, or where a uniform number falls in the CDF.

    Inverting the CDF takes one random number per row and step, drawn beforehand: no generator state
    to carry, nothing to wait for, and the same token whoever else is in the batch.
    """
    logits = logits.float()
    if uniforms is None:
        return logits.argmax(dim=-1)
    # The processors used here look at no history.
    scores = processors(torch.empty(logits.shape[0], 0, dtype=torch.long), logits)
    cdf = scores.double().softmax(dim=-1).cumsum(dim=-1)
    target = (uniforms[:, None] * cdf[:, -1:]).contiguous()
    return torch.searchsorted(cdf, target, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
