"""The published methods as compositions of parts.

Each is a function of a budget in tokens; what the papers fix is a default. `get` finds one by name.
"""

from collections.abc import Callable

from skipkv.errors import ConfigError
from skipkv.evictors import SentencePrimary, SinkAndRecent, TopK
from skipkv.policy import Budget, Policy
from skipkv.schedulers import BatchScheduler, Continuous, LengthGrouped
from skipkv.scorers import (
    AccumulatedAttention,
    KeyRedundancy,
    LastQueryAttention,
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
    "rkv",
    "seal",
    "skipkv",
    "snapkv",
    "streaming_llm",
    "tova",
]


def full() -> Policy:
    """The full cache: nothing is ever dropped, memory grows with every token.

    Source: this library; what every method is measured against.
    """
    return Policy()


def streaming_llm(budget: int, *, sinks: int = 4, interval: int = 128) -> Policy:
    """StreamingLLM: the first tokens as attention sinks, and the most recent ones.

    Source: Xiao et al. 2024, arXiv 2309.17453.

    Args:
        budget: entries per KV head, in tokens.
        sinks: first tokens, always kept.
        interval: decode steps between two compression events.
    """
    return Policy(
        budget=Budget(tokens=budget, interval=interval, window=1, sinks=sinks),
        evictor=SinkAndRecent(sinks=sinks),
    )


def h2o(budget: int, *, interval: int = 128) -> Policy:
    """H2O: entries that received most attention so far, and the recent ones, half and half.

    Source: Zhang et al. 2023, arXiv 2306.14048. Differs: entries are dropped every `interval`
    steps, not at every step.

    Args:
        budget: entries per KV head, in tokens; half of them are the most recent.
        interval: decode steps between two compression events.
    """
    return Policy(
        budget=Budget(tokens=budget, interval=interval, window=budget // 2),
        scorer=AccumulatedAttention(),
        evictor=TopK(),
    )


def tova(budget: int, *, interval: int = 128) -> Policy:
    """TOVA: entries the newest query attends to, one set for all heads of a layer.

    Source: Oren et al. 2024, arXiv 2401.06104. Differs: entries are dropped every `interval` steps,
    not at every step. Some published baselines call this H2O.

    Args:
        budget: entries per KV head, in tokens.
        interval: decode steps between two compression events.
    """
    return Policy(
        budget=Budget(tokens=budget, interval=interval, window=1),
        scorer=LastQueryAttention(),
        evictor=TopK(),
    )


def snapkv(budget: int, *, window: int = 8, pool: int = 7, interval: int = 128) -> Policy:
    """SnapKV, applied while decoding: entries the most recent queries attend to.

    Source: Li et al. 2024, arXiv 2404.14469, as a baseline of R-KV.

    Args:
        budget: entries per KV head, in tokens.
        window: most recent tokens, whose queries score the others; always kept.
        pool: neighbouring entries that attention is max-pooled over; odd.
        interval: decode steps between two compression events.
    """
    return Policy(
        budget=Budget(tokens=budget, interval=interval, window=window),
        scorer=WindowAttention(window=window, pool=pool),
        evictor=TopK(),
    )


def rkv(
    budget: int,
    *,
    importance: float = 0.1,
    window: int = 8,
    pool: int = 7,
    interval: int = 128,
    grouped: int | None = None,
) -> Policy:
    """R-KV: what recent queries attend to, less what other keys of the row repeat.

    Source: Cai et al. 2025, arXiv 2505.24133 (lambda is `importance`). Differs: kept entries stay
    in the order of their positions, as in SkipKV's code; R-KV's leaves them in the order of their
    scores, so that its next max-pooling joins entries that were never neighbours.

    Args:
        budget: entries per KV head, in tokens.
        importance: the paper's lambda, in [0, 1]: weight of attention; redundancy has the rest.
        window: most recent tokens, whose queries score the others; always kept.
        pool: neighbouring entries that attention is max-pooled over; odd.
        interval: decode steps between two compression events.
        grouped: size of batches of prompts of like length; None starts prompts as they come.
    """
    return Policy(
        budget=Budget(tokens=budget, interval=interval, window=window),
        scorer=importance * WindowAttention(window=window, pool=pool)
        - (1 - importance) * KeyRedundancy(),
        evictor=TopK(),
        scheduler=_scheduler(grouped),
    )


def seal(
    vector: SteeringVector,
    *,
    strength: float | int = 1.0,
    budget: int | None = None,
    interval: int = 128,
) -> Policy:
    """SEAL: the full cache, steered towards execution with a fixed strength.

    Source: Chen et al. 2025, arXiv 2504.07986. With a budget it is R-KV under that budget, steered.

    Args:
        vector: towards execution; `skipkv calibrate` makes one.
        strength: how much of the vector is added; 0 changes nothing.
        budget: entries per KV head, in tokens; None keeps everything.
        interval: decode steps between two compression events.
    """
    policy = full() if budget is None else rkv(budget, interval=interval)
    return policy.with_(steerer=AdditiveSteerer(vector, strength=strength))


def skipkv(
    budget: int,
    *,
    threshold: float = 0.95,
    steering: Steerer | None = None,
    grouped: int | None = None,
    prompt_sentences: bool = True,
    importance: float = 0.1,
    window: int = 8,
    pool: int = 7,
    interval: int = 128,
) -> Policy:
    """SkipKV: R-KV's score, sentences that a later one repeats go first, and steering if given.

    `steering=AdaptiveSteerer(vector)` is the paper's. Vectors belong to one model, so that without
    one there is none.

    Source: arXiv 2512.07993, section 4. Differs: a redundant sentence goes first even when a single
    entry of it is left (published: two); the sentences of a prompt longer than the budget are known
    when it is compressed.

    Args:
        budget: entries per KV head, in tokens.
        threshold: cosine similarity above which a later sentence repeats an earlier one, in (0, 1);
            it belongs to the model (the paper: 0.95 to 0.99).
        steering: nudges the model towards execution; None for none.
        grouped: size of batches of prompts of like length; None starts prompts as they come.
        prompt_sentences: whether repeated sentences of the prompt go first too.
        importance: weight of attention, in [0, 1]; redundancy of keys has the rest.
        window: most recent tokens, whose queries score the others; always kept.
        pool: neighbouring entries that attention is max-pooled over; odd.
        interval: decode steps between two compression events.
    """
    return Policy(
        budget=Budget(tokens=budget, interval=interval, window=window),
        scorer=importance * WindowAttention(window=window, pool=pool)
        - (1 - importance) * KeyRedundancy()
        - SentenceRedundancy(threshold=threshold, prompt=prompt_sentences),
        evictor=SentencePrimary(threshold=threshold, whole=False, prompt=prompt_sentences),
        steerer=NoSteering() if steering is None else steering,
        scheduler=_scheduler(grouped),
    )


def _scheduler(grouped: int | None) -> BatchScheduler:
    return Continuous() if grouped is None else LengthGrouped(batch_size=grouped)


_PRESETS: dict[str, Callable[..., Policy]] = {
    preset.__name__: preset
    for preset in (full, streaming_llm, h2o, tova, snapkv, rkv, seal, skipkv)
}
NAMES = tuple(_PRESETS)
"""All presets, in the order of the README's table."""

BUDGETED = tuple(name for name in NAMES if name not in ("full", "seal"))
"""Those that need a budget and nothing more."""


def get(name: str) -> Callable[..., Policy]:
    """The preset called `name`.

    Args:
        name: one of `NAMES`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _PRESETS:
        raise ConfigError(f"No preset is called {name!r}. Known are: {', '.join(NAMES)}.")
    return _PRESETS[name]
