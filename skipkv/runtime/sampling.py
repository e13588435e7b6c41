"""Choosing the next token: greedy or sampled, with a random stream of its own for every request."""

from typing import cast

import attrs
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from skipkv._validators import is_a
from skipkv.errors import ConfigError


@attrs.frozen(kw_only=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 decodes greedily; above, logits are divided by it.
        top_p: smallest set of tokens whose probability reaches this, in (0, 1].
        top_k: the most probable tokens only; 0 for all.
        n: samples per prompt.
        seed: prompt number p has the seed `seed + p`, unless `generate` is given one for each; its
            samples depend on that seed and on nothing else that is decoded.

    Raises:
        ConfigError: a value out of range, or several samples of a greedy decode.
    """

    temperature: float = attrs.field(default=0.0, validator=is_a(float))
    top_p: float = attrs.field(default=1.0, validator=is_a(float))
    top_k: int = attrs.field(default=0, validator=is_a(int))
    n: int = attrs.field(default=1, validator=is_a(int))
    seed: int = attrs.field(default=0, validator=is_a(int))

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
        """transformers' own processors for these settings, in the order of `generate()`."""
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


def uniforms(seed: int, sample: int, count: int) -> Float[Tensor, "count"]:
    """The random numbers of one sequence, one per token, float64 in [0, 1)."""
    return torch.from_numpy(np.random.default_rng([seed, sample]).random(count))


NO_TOKEN = -1
"""What `choose` answers for a row whose logits leave no token to choose; never fed to a model."""


def choose(
    logits: Float[Tensor, "B V"],
    processors: LogitsProcessorList,
    uniforms: Float[Tensor, "B"] | None,
) -> Int[Tensor, "B"]:
    """The next token of each row: the most probable, or where a uniform number falls in the CDF.

    Inverting the CDF takes one random number per row and step, drawn beforehand: no generator state
    to carry, nothing to wait for, and the same token whoever else is in the batch.

    A row with NaN or +inf among its logits, or with -inf alone, gets `NO_TOKEN`: it is found when
    tokens are read, so a step waits for nothing. A few logits of -inf are tokens ruled out.

    Args:
        logits: of the last column.
        processors: of the logits.
        uniforms: a number per row; None takes the most probable token.
    """
    logits = logits.float()
    if uniforms is None:
        best, tokens = logits.max(dim=-1)  # NaN is the largest of all
        return tokens.masked_fill(~(best.abs() < torch.inf), NO_TOKEN)
    # The processors used here look at no history.
    history = cast(torch.LongTensor, torch.empty(logits.shape[0], 0, dtype=torch.long))
    scores = processors(history, cast(torch.FloatTensor, logits))
    cdf = scores.double().softmax(dim=-1).cumsum(dim=-1)
    total = cdf[:, -1:]  # NaN where the logits are not fit for a softmax
    target = (uniforms[:, None] * total).contiguous()
    tokens = torch.searchsorted(cdf, target, right=True).clamp_max(logits.shape[-1] - 1)
    return tokens.masked_fill(total.isnan(), NO_TOKEN)[:, 0]


def can_choose(logits: Float[Tensor, "B V"]) -> Bool[Tensor, "B"]:
    """Whether each row's logits leave a token to choose, as `choose` sees it.

    Args:
        logits: of the last column.
    """
    return logits.amax(dim=-1).abs() < torch.inf
