"""Choosing the next token: greedy or sampled. Every request has its own random stream."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, cast

import attrs
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from skipkv._validators import is_a, kind_of
from skipkv.errors import ConfigError, SkipKVWarning

# Settings of a generation config that skipkv does not apply, each with its neutral value.
_NOT_APPLIED = {
    "min_p": 0.0,
    "typical_p": 1.0,
    "top_h": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": 0.0,
    "guidance_scale": 1.0,
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "max_time": None,
    "stop_strings": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}
# The default top-k of transformers' generate().
_TOP_K = 50


@attrs.frozen(kw_only=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 decodes greedily; a value from 1e-30 to 1e30 divides the logits.
        top_p: sample from the smallest set of tokens whose probability reaches this, in (0, 1].
        top_k: sample from this many most probable tokens; 0 for all.
        n: samples per prompt.
        seed: prompt number p has the seed `seed + p`, unless `generate` is given a seed for each.
            A prompt's samples depend on its seed alone, not on what else is decoded.

    Raises:
        ConfigError: a value out of range, or several samples of a greedy decode, or `top_p` or
            `top_k` of a greedy decode, which would not use them.
    """

    temperature: float = attrs.field(default=0.0, validator=is_a(float))
    top_p: float = attrs.field(default=1.0, validator=is_a(float))
    top_k: int = attrs.field(default=0, validator=is_a(int))
    n: int = attrs.field(default=1, validator=is_a(int))
    seed: int = attrs.field(default=0, validator=is_a(int))

    def __attrs_post_init__(self) -> None:
        for field, holds, rule in (
            # Beyond, a logit divided by it is no finite number of float32.
            (
                "temperature",
                self.temperature == 0 or 1e-30 <= self.temperature <= 1e30,
                "be 0 (greedy), or lie in [1e-30, 1e30]",
            ),
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
        unused = {"top_p": self.top_p < 1, "top_k": self.top_k > 0}
        if self.temperature == 0 and any(unused.values()):
            name = next(name for name, given in unused.items() if given)
            raise ConfigError(
                f"Sampling({name}={getattr(self, name)!r}, temperature=0) would decode greedily, "
                f"without {name}. Give a temperature, such as 1.0, or leave {name} out."
            )

    @classmethod
    def of(cls, value: "Sampling | Mapping[str, Any]") -> "Sampling":
        """Make a `Sampling` of a dict of its arguments; return a `Sampling` as it is.

        Raises:
            ConfigError: the value is neither, or the dict has unknown arguments.

        Example:
            >>> Sampling.of({"temperature": 0.6}).temperature
            0.6
        """
        if isinstance(value, cls):
            return value
        names = [field.name for field in attrs.fields(cls)]
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"sampling must be a Sampling or a dict of its arguments ({', '.join(names)}), got "
                f"{kind_of(value)}."
            )
        if unknown := [name for name in value if name not in names]:
            raise ConfigError(
                f"Sampling takes no {', '.join(map(str, unknown))}. It takes: {', '.join(names)}."
            )
        return cls(**value)

    @classmethod
    def from_model(cls, model: PreTrainedModel, *, n: int = 1, seed: int = 0) -> "Sampling":
        """The sampling that a model's generation config asks for; greedy if it does not sample.

        It is the sampling of `model.generate()`: top-k is 50 unless the config says otherwise.
        skipkv does not apply other settings, such as a repetition penalty, and warns of them.

        Args:
            model: a transformers model.
            n: samples per prompt; greedy decoding takes 1 only.
            seed: as for `Sampling`.

        Example:
            >>> from skipkv.testing import toy_model
            >>> model = toy_model()
            >>> model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95)
            {}
            >>> Sampling.from_model(model)
            Sampling(temperature=0.6, top_p=0.95, top_k=50, n=1, seed=0)
        """
        config: Any = getattr(model, "generation_config", None)
        asked = {
            name: value
            for name, neutral in _NOT_APPLIED.items()
            if (value := getattr(config, name, None)) not in (None, neutral, [])
        }
        if asked:
            warnings.warn(
                "The model's generation config asks for "
                + ", ".join(f"{name}={value}" for name, value in asked.items())
                + ", which skipkv does not apply: it decodes without.",
                SkipKVWarning,
                stacklevel=2,
            )
        if not getattr(config, "do_sample", None) or config.temperature == 0:
            return cls(n=n, seed=seed)
        return cls(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=_TOP_K if config.top_k is None else config.top_k,
            n=n,
            seed=seed,
        )

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature == 0

    @property
    def way(self) -> tuple[float | int, ...]:
        """The settings that decide the next token; requests with equal settings share a call."""
        return () if self.greedy else (self.temperature, self.top_p, self.top_k)

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
"""The answer of `choose` for a row without a token to choose; never fed to a model."""


def choose(
    logits: Float[Tensor, "B V"],
    processors: LogitsProcessorList,
    uniforms: Float[Tensor, "B"] | None,
    *,
    looks: bool = False,
) -> Int[Tensor, "B"]:
    """The next token of each row: the most probable, or where a uniform number falls in the CDF.

    Inverting the CDF takes one random number per row and step, and all are drawn beforehand. So
    there is no generator state, a step does not wait, and a row's token does not depend on the
    other rows.

    A row gets `NO_TOKEN` if a logit is NaN or +inf, or if all are -inf. The row is found when
    tokens are read, so a step does not wait. Single logits of -inf are tokens ruled out.

    Args:
        logits: logits of the last column.
        processors: applied to the logits before a token is sampled.
        uniforms: a number per row; None takes the most probable token.
        looks: whether the host reads every token anyway. It then sees from few numbers that all
            rows have one, which takes less time; a recorded step must not decide so.
    """
    logits = logits.float()
    if uniforms is None:
        best, tokens = logits.max(dim=-1)  # NaN is the largest of all
        if looks and all(map(math.isfinite, best.tolist())):
            return tokens
        return tokens.masked_fill(~(best.abs() < torch.inf), NO_TOKEN)
    # The processors used here look at no history.
    history = cast(torch.LongTensor, torch.empty(logits.shape[0], 0, dtype=torch.long))
    scores = processors(history, cast(torch.FloatTensor, logits))
    cdf = scores.double().softmax(dim=-1).cumsum(dim=-1)
    total = cdf[:, -1:]  # NaN where the softmax of the logits is undefined
    target = (uniforms[:, None] * total).contiguous()
    tokens = torch.searchsorted(cdf, target, right=True).clamp_max(logits.shape[-1] - 1)
    return tokens.masked_fill(total.isnan(), NO_TOKEN)[:, 0]


def can_choose(logits: Float[Tensor, "B V"]) -> Bool[Tensor, "B"]:
    """Whether `choose` finds a token in each row's logits.

    Args:
        logits: logits of the last column.
    """
    return logits.amax(dim=-1).abs() < torch.inf
