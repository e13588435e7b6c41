"""The published methods as compositions of parts.

Each is a function of a budget: a number of tokens (1024), a share of the tokens seen (0.25) or a
`Budget`. What the papers fix is a default; of a `Budget` given, the other arguments replace fields.
`get` finds one by name. To add one, write its function and put its name into `__all__`.
"""

import os
from collections.abc import Callable
from inspect import signature
from typing import Any, Literal, TypeAlias

import attrs

from skipkv.errors import ConfigError
from skipkv.evictors import Pooled, Reserved, SentencePrimary, SinkAndRecent, TopK
from skipkv.policy import Budget, LinearShares, Policy
from skipkv.schedulers import BatchScheduler, Continuous, LengthGrouped
from skipkv.scorers import (
    AccumulatedAttention,
    AttentionRate,
    ExpectedAttention,
    GateScore,
    KeyDiff,
    KeyRedundancy,
    LagRelative,
    LastAttended,
    Lasting,
    LastQueryAttention,
    OutputChange,
    QueryStatistics,
    Random,
    RecentAttention,
    Recurrence,
    Relative,
    Retention,
    Sampled,
    SentenceRedundancy,
    SketchNorm,
    TriAttention,
    ValuePeak,
    WindowAttention,
    WriteGate,
)
from skipkv.steerers import AdditiveSteerer, NoSteering, Steerer, SteeringVector

__all__ = [
    "BUDGETED",
    "NAMES",
    "adakv",
    "attended_distinct",
    "caote",
    "expected_attention",
    "full",
    "get",
    "gkv",
    "h2o",
    "keydiff",
    "kvzap",
    "lagkv",
    "lazy_eviction",
    "morphkv",
    "pyramidkv",
    "raas",
    "random",
    "rkv",
    "seal",
    "skipkv",
    "snapkv",
    "streaming_llm",
    "tova",
    "triattention",
    "trimkv",
    "vase",
    "vase_dkv",
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
    own = _budget(budget, recent=1, first=4, sinks=sinks, prompt=prompt, interval=interval)
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


def pyramidkv(
    budget: int | Budget,
    *,
    beta: float | None = None,
    window: int | None = None,
    pool: int = 7,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """PyramidKV, applied while decoding: SnapKV with more room in the first layers.

    Source: Cai et al. 2024, arXiv 2406.02069.

    Args:
        budget: entries per KV head, on average over layers: a number of tokens, or a `Budget`.
        beta: the mean budget over that of the last layer, above 1/2. By default 20, or the layers
            of a `Budget`.
        window: most recent tokens, whose queries score the others; always kept. By default 8, or
            those of a `Budget`.
        pool: neighbouring entries that attention is max-pooled over; odd.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.

    Raises:
        ConfigError: the budget is a ratio, which layers do not divide.
    """
    policy = snapkv(budget, window=window, pool=pool, sinks=sinks, prompt=prompt, interval=interval)
    own = policy.budget
    assert own is not None
    if own.ratio is not None:
        raise ConfigError(
            f"pyramidkv({budget!r}) divides a number of tokens among layers, and a ratio is none. "
            "Give tokens: pyramidkv(1024)."
        )
    if beta is None and own.layers is not None:
        return policy
    return policy.with_(
        budget=attrs.evolve(own, layers=LinearShares(20.0 if beta is None else beta))
    )


def adakv(
    budget: AnyBudget,
    *,
    floor: float = 0.2,
    cap: float = 2.0,
    window: int | None = None,
    pool: int = 7,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """Ada-KV, applied while decoding: SnapKV whose heads share the budget of their layer.

    Source: Feng et al. 2024, arXiv 2407.11550. Differs: no head holds more than `cap` budgets.

    Args:
        budget: entries per KV head, on average over the heads of a layer: a number of tokens, a
            ratio in (0, 1], or a `Budget`.
        floor: the share of its budget that a head keeps at least, in [0, 1].
        cap: the most that a head keeps, in budgets; memory is allocated for it in every head.
        window: most recent tokens, whose queries score the others; always kept. By default 8, or
            those of a `Budget`.
        pool: neighbouring entries that attention is max-pooled over; odd.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    policy = snapkv(budget, window=window, pool=pool, sinks=sinks, prompt=prompt, interval=interval)
    return policy.with_(evictor=Pooled(floor=floor, cap=cap))


def keydiff(
    budget: AnyBudget,
    *,
    unrotated: bool = False,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """KeyDiff: entries whose keys point away from the mean direction; nothing is recorded.

    Source: Park et al. 2025, arXiv 2504.15364.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        unrotated: compare keys as they were before RoPE.
        window: most recent tokens, always kept. By default 8, or those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    return Policy(
        budget=_budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval),
        scorer=KeyDiff(unrotated=unrotated),
        evictor=TopK(),
    )


def morphkv(
    budget: AnyBudget,
    *,
    over: str = "mean",
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """MorphKV: entries that the most recent queries really attended to, without pooling.

    Source: Ghadia et al. 2025, arXiv 2503.00979. Differs: entries are dropped every `interval`
    steps, not at every step.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        over: how the attention of several queries is joined: "mean", which orders entries as the
            paper's sum, or "max".
        window: most recent tokens, whose queries score the others; always kept. By default 8, or
            those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval)
    return Policy(
        budget=own,
        scorer=RecentAttention(window=own.window, over=over),
        evictor=TopK(),
    )


def caote(
    budget: AnyBudget,
    *,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """CAOTE: entries without which the attention's output would move most.

    Source: Goel et al. 2025, arXiv 2504.14051, on the mean attention of the window's queries.
    Differs: entries are dropped every `interval` steps, not at every step.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        window: most recent tokens, whose queries score the others; always kept. By default 8, or
            those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval)
    return Policy(
        budget=own,
        scorer=OutputChange(scorer=RecentAttention(window=own.window)),
        evictor=TopK(),
    )


def expected_attention(
    budget: AnyBudget,
    *,
    horizon: int = 512,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """Expected Attention: entries that queries of the next 512 positions are expected to find.

    Source: Devoto et al. 2025, arXiv 2510.00636. Differs: queries are those of the window and not
    of the prompt, and the score is worked out anew at every event.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        horizon: positions to come that are looked at.
        window: most recent tokens, whose queries say what is to come; always kept. By default 64,
            at most a quarter of a budget in tokens, or those of a `Budget`.
        sinks: first tokens, always kept; 4 by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(
        budget,
        recent=_quarter(budget, 64),
        first=4,
        window=window,
        sinks=sinks,
        prompt=prompt,
        interval=interval,
    )
    return Policy(
        budget=own,
        scorer=ExpectedAttention(window=own.window, horizon=horizon),
        evictor=TopK(),
    )


def lagkv(
    budget: AnyBudget,
    *,
    lag: int | None = None,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """LagKV: entries that stand out against the next stretch of entries; nothing is recorded.

    Source: Liang et al. 2025, arXiv 2504.04704. Differs: 4 sinks, the paper has 16; see
    `LagRelative`.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        lag: entries of a stretch. By default 128, at most a quarter of a budget in tokens.
        window: most recent tokens, always kept. By default 8, or those of a `Budget`.
        sinks: first tokens, always kept; 4 by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(budget, first=4, window=window, sinks=sinks, prompt=prompt, interval=interval)
    stretch = _quarter(budget, 128) if lag is None else lag
    return Policy(budget=own, scorer=LagRelative(lag=stretch, sinks=own.sinks), evictor=TopK())


def vase(
    budget: AnyBudget,
    *,
    seed: int = 0,
    window: int | None = None,
    pool: int = 5,
    share: float = 0.25,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """VaSE: a quarter for the values with the largest components, the rest drawn by attention.

    Source: arXiv 2606.03928. Differs: the sinks take no part of the quarter.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        seed: of the draws; any integer.
        window: most recent tokens, whose attention gives the odds; always kept. By default 64, at
            most a quarter of a budget in tokens, or those of a `Budget`.
        pool: neighbouring entries that attention is average-pooled over; odd.
        share: of the room for values with large components, in [0, 1].
        sinks: first tokens, always kept; 4 by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(
        budget,
        recent=_quarter(budget, 64),
        first=4,
        window=window,
        sinks=sinks,
        prompt=prompt,
        interval=interval,
    )
    return Policy(
        budget=own,
        scorer=Sampled(scorer=RecentAttention(window=own.window, pool=pool), seed=seed),
        evictor=Reserved(scorer=ValuePeak(), share=share),
    )


def vase_dkv(
    budget: AnyBudget,
    *,
    seed: int = 0,
    columns: int = 20,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """VaSE-DKV: keys and values that are large in a random projection; nothing is recorded.

    Source: arXiv 2606.03928.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        seed: of the projections; any integer.
        columns: numbers that keys and values are projected to.
        window: most recent tokens, always kept. By default 64, at most a quarter of a budget in
            tokens, or those of a `Budget`.
        sinks: first tokens, always kept; 4 by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(
        budget,
        recent=_quarter(budget, 64),
        first=4,
        window=window,
        sinks=sinks,
        prompt=prompt,
        interval=interval,
    )
    return Policy(budget=own, scorer=SketchNorm(columns=columns, seed=seed), evictor=TopK())


def raas(
    budget: AnyBudget,
    *,
    threshold: float = 1e-4,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """RaaS: the prompt, and the entries that were attended to last.

    Source: Hu et al. 2025, arXiv 2502.11147. Differs: stamps belong to entries, not to pages of 16;
    entries are dropped every `interval` steps, not at every step.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`. It must
            exceed the prompt, unless `prompt` is False.
        threshold: a weight of attention above which an entry counts as used, in [0, 1).
        window: most recent tokens, always kept. By default 8, or those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well; by default yes, or as a `Budget` says.
        interval: decode steps between two compression events; 128 by default.
    """
    if prompt is None and not isinstance(budget, Budget):
        prompt = True
    return Policy(
        budget=_budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval),
        scorer=LastAttended(threshold=threshold),
        evictor=TopK(),
    )


def lazy_eviction(
    budget: AnyBudget,
    *,
    threshold: float = 1e-4,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """LazyEviction: entries that have not been idle for longer than they were before.

    Source: Zhang et al. 2025, arXiv 2506.15969. Differs: entries are in the order of idle time over
    their longest interval between two uses; the paper joins functions of the two.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        threshold: a weight of attention above which an entry counts as used, in [0, 1).
        window: most recent tokens, always kept. By default 8, or those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    return Policy(
        budget=_budget(budget, window=window, sinks=sinks, prompt=prompt, interval=interval),
        scorer=Recurrence(threshold=threshold),
        evictor=TopK(),
    )


def triattention(
    budget: AnyBudget,
    *,
    queries: QueryStatistics | str | os.PathLike[str],
    horizon: int = 65536,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """TriAttention: the prompt, and entries that the model's average query will find.

    Source: arXiv 2604.04921.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`. It must
            exceed the prompt, unless `prompt` is False.
        queries: statistics of the model that decodes, or the path of their file;
            `skipkv calibrate --queries` makes one.
        horizon: the largest offset of positions to come that is looked at.
        window: most recent tokens, always kept. By default 128, at most a quarter of a budget in
            tokens, or those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well; by default yes, or as a `Budget` says.
        interval: decode steps between two compression events; 128 by default.
    """
    known = QueryStatistics.load(queries) if isinstance(queries, str | os.PathLike) else queries
    if prompt is None and not isinstance(budget, Budget):
        prompt = True
    return Policy(
        budget=_budget(
            budget,
            recent=_quarter(budget, 128),
            window=window,
            sinks=sinks,
            prompt=prompt,
            interval=interval,
        ),
        scorer=TriAttention(queries=known, horizon=horizon),
        evictor=TopK(),
    )


def trimkv(
    budget: AnyBudget,
    *,
    gate: WriteGate | str | os.PathLike[str],
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """TRIM-KV: entries that fade slowly, by what a learned gate said when they were written.

    Source: arXiv 2512.03324. Differs: the gate sees what enters a layer, divided by its root mean
    square; entries are dropped every `interval` steps, not at every step.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        gate: a network made for the model that decodes, or the path of its file.
        window: most recent tokens, always kept. By default 8, or those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    learned = WriteGate.load(gate) if isinstance(gate, str | os.PathLike) else gate
    return Policy(
        budget=_budget(
            budget,
            window=window,
            sinks=sinks,
            prompt=prompt,
            interval=interval,
        ),
        scorer=Retention(gate=learned),
        evictor=TopK(),
    )


def kvzap(
    budget: AnyBudget,
    *,
    gate: WriteGate | str | os.PathLike[str],
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """KVzap: entries of which a learned gate said most when they were written.

    Source: arXiv 2601.07891. Differs: the gate sees what enters a layer, divided by its root mean
    square; a budget says how many entries stay, not a threshold of the gate.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        gate: a network made for the model that decodes, or the path of its file.
        window: most recent tokens, always kept. By default 128, at most a quarter of a budget in
            tokens, or those of a `Budget`.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    learned = WriteGate.load(gate) if isinstance(gate, str | os.PathLike) else gate
    return Policy(
        budget=_budget(
            budget,
            recent=_quarter(budget, 128),
            window=window,
            sinks=sinks,
            prompt=prompt,
            interval=interval,
        ),
        scorer=GateScore(gate=learned),
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


def gkv(
    budget: AnyBudget,
    *,
    factor: float = 0.8,
    importance: float = 0.5,
    window: int | None = None,
    pool: int = 7,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """G-KV: as R-KV, but attention of earlier windows counts too, and both terms go up to 1.

    Source: arXiv 2512.00504.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        factor: what remains of an entry's worth from one event to the next, in [0, 1].
        importance: weight of attention, in [0, 1]; redundancy has the rest.
        window: most recent tokens, whose queries score the others; always kept. By default 16, at
            most a quarter of a budget in tokens, or those of a `Budget`.
        pool: neighbouring entries that attention is max-pooled over; odd.
        sinks: first tokens, always kept; none by default.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    own = _budget(
        budget,
        recent=_quarter(budget, 16),
        window=window,
        sinks=sinks,
        prompt=prompt,
        interval=interval,
    )
    attention = WindowAttention(window=own.window, pool=pool)
    return Policy(
        budget=own,
        scorer=importance * Lasting(scorer=attention, factor=factor)
        - (1 - importance) * Relative(scorer=KeyRedundancy()),
        evictor=TopK(),
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
    threshold: float | Literal["calibrated"] = 0.95,
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
            it belongs to the model (the paper: 0.95 to 0.99). "calibrated" is for names of
            policies: `skipkv:threshold=calibrated` takes the model's from its skipkv.json.
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
    if isinstance(threshold, str):
        raise ConfigError(
            f"skipkv(threshold={threshold!r}): a preset knows no model, so it must be given a "
            "number. A calibrated threshold is looked up for a model by its name: "
            "resolve_policy('skipkv:threshold=calibrated', budget=..., "
            "settings=model_settings(MODEL)) of skipkv.compositions, or the same name in a command."
        )
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


def attended_distinct(
    budget: AnyBudget,
    *,
    redundancy: float = 1.5,
    pool: int = 1,
    window: int | None = None,
    sinks: int | None = None,
    prompt: bool | None = None,
    interval: int | None = None,
) -> Policy:
    """Attended and distinct: entries with much attention per query, less what other keys repeat.

    What recent queries read says little of what later ones will; the sum of all attention favours
    old entries. The mean per query does neither. Of keys that say the same before RoPE the newest
    stays. Both terms go from 0 to 1 in each head.

    Source: this library; docs/own.md tells how it was found, and what each term is worth.

    Args:
        budget: entries per KV head: a number of tokens, a ratio in (0, 1], or a `Budget`.
        redundancy: weight of what is repeated; attention has 1.
        pool: width of the max-pooling of attention over slots; 1 for none.
        window: most recent tokens, always kept. By default 32, at most a quarter of a budget in
            tokens, or those of a `Budget`.
        sinks: first tokens, always kept; none by default, for attention keeps them.
        prompt: keep the whole prompt as well.
        interval: decode steps between two compression events; 128 by default.
    """
    return Policy(
        budget=_budget(
            budget,
            recent=_quarter(budget, 32),
            window=window,
            sinks=sinks,
            prompt=prompt,
            interval=interval,
        ),
        scorer=AttentionRate(pool=pool).normalized()
        - redundancy * KeyRedundancy(unrotated=True).normalized(),
        evictor=TopK(),
    )


def _quarter(budget: Any, most: int) -> int:
    """So many tokens, at most a quarter of a budget in tokens: what small budgets have room for."""
    tokens = budget.tokens if isinstance(budget, Budget) else budget
    return max(2, min(most, tokens // 4)) if isinstance(tokens, int) else most


def _budget(budget: Any, *, recent: int = 8, first: int = 0, **given: int | bool | None) -> Budget:
    """A preset's budget; other arguments replace fields of a given `Budget`.

    Args:
        budget: a number of tokens, a ratio or a `Budget`.
        recent: the window of a number or a ratio.
        first: the sinks, where neither a `Budget` nor an argument has any.
        given: fields of the budget; None leaves a field as it is.
    """
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if first and not (isinstance(budget, Budget) and budget.sinks):
        fields = {"sinks": first, **fields}
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


# Every exported function above is a preset, in the order of this file.
_PRESETS: dict[str, Callable[..., Policy]] = {
    name: value for name, value in tuple(globals().items()) if name in __all__ and callable(value)
}
NAMES = tuple(_PRESETS)
"""All presets, in the order of the README's table."""

BUDGETED = tuple(
    name
    for name, preset in _PRESETS.items()
    if [n for n, p in signature(preset).parameters.items() if p.default is p.empty] == ["budget"]
)
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
