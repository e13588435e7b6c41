"""The published methods as compositions of parts.

Each is a function of a budget: a number of tokens (1024), a share of the tokens seen (0.25) or a
`Budget`. What the papers fix is a default; of a `Budget` given, the other arguments replace fields.
`get` finds one by name.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from skipkv.errors import ConfigError
from skipkv.evictors import SentencePrimary, SinkAndRecent, TopK
from skipkv.policy import Budget, Policy
from skipkv.schedulers import BatchScheduler, Continuous, LengthGrouped
from skipkv.scorers import (
    AccumulatedAttention,
    KeyRedundancy,
    LastQueryAttention,
    Random,
    SentenceRedundancy,
    WindowAttention,
)
from skipkv.steerers import AdditiveSteerer, NoSteering, Steerer, SteeringVector

__all__ = [
    "BUDGETED",
    "NAMES",
    "full",
    "get",
    "h2o",
    "random",
    "rkv",
    "seal",
    "skipkv",
    "snapkv",
    "streaming_llm",
    "tova",
]

AnyBudget: TypeAlias = int | float | Budget
"""Entries kept per KV head: a number of tokens, a share of the tokens seen, or a `Budget`."""


def full() -> Policy:
    """The full cache: every entry stays, and memory grows with every token.

    Source: this library; the reference for every method.
    """
    return Policy()


def random(
    budget: AnyBudget,
    *,
    seed: int = 0,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """Random: entries drawn by chance, anew for every layer, head and event; the blind baseline.

    A method that reads the cache must beat it at the same window, sinks and prompt. It is strongest
    with `prompt=True`: old entries have survived more draws, so they are rare.

    Source: arXiv 2609.03430, which keeps the prompt and 64 recent tokens: `prompt=True, window=64`.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        seed: of the noise; any integer.
        window: most recent tokens, always kept. By default 8, or those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    return Policy(
        budget=_budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval),
        scorer=Random(seed=seed),
        evictor=TopK(),
    )


def streaming_llm(
    budget: AnyBudget,
    *,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """StreamingLLM: the first tokens as attention sinks, and the most recent ones.

    Source: Xiao et al. 2024, arXiv 2309.17453.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        sinks: first tokens, always kept; 4 by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(budget, recent=1, sinks=sinks, prompt=prompt, interval=interval)
    if sinks is None and own.sinks == 0:
        own = attrs.evolve(own, sinks=4)
    return Policy(budget=own, evictor=SinkAndRecent(sinks=own.sinks))


def h2o(
    budget: int | Budget,
    *,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """H2O: entries that received most attention so far, and the recent ones, half and half.

    Source: Zhang et al. 2023, arXiv 2306.14048. Differs: entries are dropped every `interval`
    steps, not at every step.

    Args:
        budget: entries per KV head, in tokens; half of them are the most recent. A `Budget` says
            with its window how many are recent.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.

    Raises:
        ConfigError: the budget is a ratio, whose half is not a number of tokens.
    """
    if isinstance(budget, float):
        raise ConfigError(
            f"h2o({budget}) keeps half of its budget as recent tokens, and a ratio does not say "
            f"how many that is. Give their number: h2o(Budget(ratio={budget}, window=128))."
        )
    recent = budget // 2 if isinstance(budget, int) else 0  # a Budget has its own
    return Policy(
        budget=_budget(budget, recent=recent, sinks=sinks, prompt=prompt, interval=interval),
        scorer=AccumulatedAttention(),
        evictor=TopK(),
    )


def tova(
    budget: AnyBudget,
    *,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """TOVA: entries the newest query attends to, one set for all heads of a layer.

    Source: Oren et al. 2024, arXiv 2401.06104. Differs: entries are dropped every `interval` steps,
    not at every step. Some published baselines call this H2O.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    return Policy(
        budget=_budget(budget, recent=1, sinks=sinks, prompt=prompt, interval=interval),
        scorer=LastQueryAttention(),
        evictor=TopK(),
    )


def snapkv(
    budget: AnyBudget,
    *,
    window: int | None = None,
    pool: int = 7,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """SnapKV, applied while decoding: entries the most recent queries attend to.

    Source: Li et al. 2024, arXiv 2404.14469, as a baseline of R-KV.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        window: most recent tokens, whose queries score the others; always kept. By default 8, or
            those of a `Budget`.
        pool: neighbouring entries that attention is max-pooled over; odd.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval)
    return Policy(
        budget=own,
        scorer=WindowAttention(window=own.window, pool=pool),
        evictor=TopK(),
    )


def rkv(
    budget: AnyBudget,
    *,
    importance: float = 0.1,
    window: int | None = None,
    pool: int = 7,
    unrotated: bool = False,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
    grouped: int | None = None,
) -> Policy:
    """R-KV: what recent queries attend to, less what other keys of the row repeat.

    Source: Cai et al. 2025, arXiv 2505.24133 (lambda is `importance`). Differs: kept entries stay
    in the order of their positions, as in SkipKV's code. R-KV's code leaves them in the order of
    their scores, so that its next max-pooling joins entries that were not neighbours.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        importance: the paper's lambda, in [0, 1]: weight of attention; redundancy has the rest.
        window: most recent tokens, whose queries score the others; always kept. By default 8, or
            those of a `Budget`.
        pool: neighbouring entries that attention is max-pooled over; odd.
        unrotated: compare keys as they were before RoPE, so that repetitions far apart count too.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
        grouped: size of batches of prompts of like length; None starts prompts as they come.
    """
    own = _budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval)
    return Policy(
        budget=own,
        scorer=importance * WindowAttention(window=own.window, pool=pool)
        - (1 - importance) * KeyRedundancy(unrotated=unrotated),
        evictor=TopK(),
        scheduler=_scheduler(grouped),
    )


def seal(
    vector: SteeringVector,
    *,
    strength: float | int = 1.0,
    budget: AnyBudget | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """SEAL: the full cache, steered towards execution with a fixed strength.

    Source: Chen et al. 2025, arXiv 2504.07986. With a budget it is R-KV under that budget, steered.

    Args:
        vector: points towards execution; `skipkv calibrate` makes one.
        strength: factor of the vector; 0 changes nothing.
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`. None
            keeps everything, and the next three arguments are then unused.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    policy = (
        full() if budget is None else rkv(budget, sinks=sinks, prompt=prompt, interval=interval)
    )
    return policy.with_(steerer=AdditiveSteerer(vector, strength=strength))


def skipkv(
    budget: AnyBudget,
    *,
    threshold: float = 0.95,
    steering: Steerer | None = None,
    grouped: int | None = None,
    prompt_sentences: bool = True,
    importance: float = 0.1,
    window: int | None = None,
    pool: int = 7,
    unrotated: bool = False,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """SkipKV: R-KV's score, sentences that a later one repeats go first, and steering if given.

    `steering=AdaptiveSteerer(vector)` is the paper's. A vector belongs to one model, so the default
    is not to steer.

    Source: arXiv 2512.07993, section 4. Differs: a redundant sentence goes first even when a single
    entry of it is left (published: two); the sentences of a prompt longer than the budget are known
    when it is compressed.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        threshold: cosine similarity above which a later sentence repeats an earlier one, in (0, 1);
            it belongs to the model (the paper: 0.95 to 0.99).
        steering: steers the model towards execution; None does not steer.
        grouped: size of batches of prompts of like length; None starts prompts as they come.
        prompt_sentences: whether repeated sentences of the prompt go first too.
        importance: weight of attention, in [0, 1]; redundancy of keys has the rest.
        window: most recent tokens, whose queries score the others; always kept. By default 8, or
            those of a `Budget`.
        pool: neighbouring entries that attention is max-pooled over; odd.
        unrotated: compare keys as they were before RoPE, so that repetitions far apart count too.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval)
    return Policy(
        budget=own,
        scorer=importance * WindowAttention(window=own.window, pool=pool)
        - (1 - importance) * KeyRedundancy(unrotated=unrotated)
        - SentenceRedundancy(threshold=threshold, prompt=prompt_sentences),
        evictor=SentencePrimary(threshold=threshold, whole=False, prompt=prompt_sentences),
        steerer=NoSteering() if steering is None else steering,
        scheduler=_scheduler(grouped),
    )


def _budget(budget: Any, *, recent: int = 8, **given: int | bool | None) -> Budget:
    """A preset's budget; other arguments replace fields of a given `Budget`.

    Args:
        budget: a number of tokens, a ratio or a `Budget`.
        recent: the window of a number or a ratio.
        given: fields of the budget; None leaves a field as it is.
    """
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if isinstance(budget, Budget):
        return attrs.evolve(budget, **fields)
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise ConfigError(
            f"A budget must be a number of tokens (1024), a ratio in (0, 1] (0.25) or a Budget, "
            f"got {budget!r}."
        )
    if isinstance(budget, float) and not 0 < budget <= 1:
        raise ConfigError(
            f"A budget of {budget} is neither a ratio, which lies in (0, 1], nor a whole number "
            "of tokens."
        )
    size = {"tokens" if isinstance(budget, int) else "ratio": budget}
    return Budget(**{"window": recent, **size, **fields})


def _scheduler(grouped: int | None) -> BatchScheduler:
    return Continuous() if grouped is None else LengthGrouped(batch_size=grouped)


_PRESETS: dict[str, Callable[..., Policy]] = {
    preset.__name__: preset
    for preset in (full, random, streaming_llm, h2o, tova, snapkv, rkv, seal, skipkv)
}
NAMES = tuple(_PRESETS)
"""All presets, in the order of the README's table."""

BUDGETED = tuple(name for name in NAMES if name not in ("full", "seal"))
"""The presets that need only a budget."""


def get(name: str) -> Callable[..., Policy]:
    """The preset called `name`.

    Args:
        name: one of `NAMES`.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in _PRESETS:
        raise ConfigError(f"No preset is called {name!r}. Known are: {', '.join(NAMES)}.")
    return _PRESETS[name]
