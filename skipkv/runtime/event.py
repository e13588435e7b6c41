"""One compression event: view, scores, keep mask, compaction; over layers in bounded memory."""

from collections.abc import Sequence

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import CacheView, SentenceTable
from skipkv.errors import PartError
from skipkv.policy import Policy
from skipkv.runtime.slots import SlotStore, span
from skipkv.scorers import Combined, Scorer, Weighted

# Elements of keys in one view: bounds what an event needs beside the cache, whatever the model's
# depth.
_VIEW_ELEMENTS = 2**21


@attrs.frozen(kw_only=True)
class Outcome:
    """What an event did to one sequence.

    Args:
        evicted: entries dropped, summed over layers and KV heads.
        kept: positions kept per layer and head, -1 behind, on the CPU; only where asked for.
        error: the part that broke its protocol on this sequence, which cannot go on.
    """

    evicted: int = 0
    kept: Int[Tensor, "layers H K"] | None = attrs.field(default=None, repr=False)
    error: PartError | None = None


def compress(
    store: SlotStore,
    policy: Policy,
    sequences: Sequence[int],
    *,
    prompts: Sequence[int],
    tables: Sequence[SentenceTable] | None,
    trace: bool = False,
) -> list[Outcome]:
    """Bring sequences down to what their budget allows now.

    Args:
        store: the cache.
        policy: scorer, evictor and budget.
        sequences: which sequences of the store.
        prompts: their prompts' lengths, in tokens.
        tables: their sentences, where the policy needs them.
        trace: report which positions were kept.
    """
    assert policy.budget is not None
    outcomes: list[Outcome] = [Outcome()] * len(sequences)
    # One call has one budget; sequences differ in it only under a ratio.
    allowed = [
        policy.budget.allowed(store.tokens_seen[s], prompt)
        for s, prompt in zip(sequences, prompts, strict=True)
    ]
    for budget in sorted(set(allowed)):
        group = [i for i, a in enumerate(allowed) if a == budget]
        done = _compress_group(
            store,
            policy,
            [sequences[i] for i in group],
            budget,
            prompts=[prompts[i] for i in group],
            tables=None if tables is None else [tables[i] for i in group],
            trace=trace,
        )
        for i, outcome in zip(group, done, strict=True):
            outcomes[i] = outcome
    return outcomes


def _compress_group(
    store: SlotStore,
    policy: Policy,
    sequences: list[int],
    budget: int,
    *,
    prompts: list[int],
    tables: list[SentenceTable] | None,
    trace: bool,
) -> list[Outcome]:
    count = len(sequences)
    width = max(store.widths[s] for s in sequences)
    before = store.dropped[:, span(sequences)].sum(dim=(0, 2))
    errors: list[PartError | None] = [None] * count
    kept_positions: list[Int[Tensor, "l n H K"]] = []
    per_layer = count * store.shape.heads * width * store.shape.dim
    step = max(1, _VIEW_ELEMENTS // per_layer)
    for start in range(0, store.shape.layers, step):
        layers = slice(start, min(start + step, store.shape.layers))
        # nobody holds the view, and what it has cached, while entries are moved
        keep, broken = _decide(
            policy,
            _view(store, policy, layers, sequences, width, prompts=prompts, tables=tables),
            budget,
        )
        for i, message in enumerate(broken):
            errors[i] = errors[i] or message
        if keep is None:  # nothing to go by: the sequences of this event cannot go on
            return [Outcome(error=error) for error in errors]
        _, positions = store.compact(layers, sequences, keep)
        if trace:
            kept_positions.append(positions.unflatten(0, (-1, count)).cpu())
    store.compacted(sequences)
    evicted = (store.dropped[:, span(sequences)].sum(dim=(0, 2)) - before).tolist()
    kept = _padded(kept_positions) if trace else None  # [layers n H K]
    return [
        Outcome(
            evicted=evicted[i],
            # K is the sequence's own, not that of the neighbour which kept most
            kept=None if kept is None else kept[:, i, :, : store.widths[sequence]],
            error=errors[i],
        )
        for i, sequence in enumerate(sequences)
    ]


def _padded(chunks: list[Tensor]) -> Tensor:
    """Chunks of layers as one tensor; those that kept fewer entries are filled with -1."""
    most = max(chunk.shape[-1] for chunk in chunks)
    return torch.cat(
        [torch.nn.functional.pad(c, (0, most - c.shape[-1]), value=-1) for c in chunks]
    )


def _view(
    store: SlotStore,
    policy: Policy,
    layers: slice,
    sequences: list[int],
    width: int,
    *,
    prompts: list[int],
    tables: list[SentenceTable] | None,
) -> CacheView:
    """The first `width` slots of these rows; row r is sequence r % n of layer r // n."""
    assert policy.budget is not None
    at = span(sequences)
    depth = layers.stop - layers.start
    device = store.keys.device
    seen = store.seen[at].repeat(depth)
    positions = store.positions(layers, sequences, width).flatten(0, 1)
    queries = store.recent_queries(layers, sequences)
    return CacheView(
        keys=store.keys[layers, at, :, :width].flatten(0, 1),
        values=store.values[layers, at, :, :width].flatten(0, 1),
        positions=positions,
        protected=policy.budget.protected(
            positions, seen, torch.tensor(prompts, device=device).repeat(depth)
        ),
        seen=seen,
        sequences=torch.arange(len(sequences), device=device).repeat(depth),
        queries=None if queries is None else queries.flatten(0, 1),
        attention=None
        if store.attention is None
        else store.attention[layers, at, :, :width].flatten(0, 1),
        sentences=tables,
    )


def _decide(
    policy: Policy, view: CacheView, budget: int
) -> tuple[Bool[Tensor, "R H L"] | None, list[PartError | None]]:
    """The keep mask, and per sequence what broke; no mask where a part failed for all of them."""
    count = int(view.sequences[-1]) + 1
    try:
        scores = _checked_scores(policy.scorer, view)
        keep = _checked_keep(policy, scores, view, budget)
    except PartError as error:
        return None, [error] * count
    # All that depends on values, in one answer from the device.
    finite = (torch.isfinite(scores) | ~view.occupied).flatten(1).all(dim=1)
    within = (keep.sum(dim=-1) <= budget).all(dim=1)
    real = ~(keep & ~view.occupied).flatten(1).any(dim=1)
    safe = ~(view.protected & ~keep).flatten(1).any(dim=1)
    laws = torch.stack([finite, within, real, safe])  # [4 R]
    held = laws.unflatten(1, (-1, count)).all(dim=1).T.tolist()  # [n 4]
    return keep, [_broken_law(policy, view, budget, laws) for laws in held]


def _broken_law(policy: Policy, view: CacheView, budget: int, laws: list[bool]) -> PartError | None:
    finite, within, real, safe = laws
    if not finite:
        return PartError(
            f"{_culprit(policy.scorer, view)!r} scored an entry NaN or infinite. Scores must be "
            "finite wherever view.occupied is True."
        )
    if not within:
        return PartError(
            f"{policy.evictor!r} kept more than the budget of {budget} entries per head."
        )
    if not real:
        return PartError(f"{policy.evictor!r} kept an empty slot. Keep only where view.occupied.")
    if not safe:
        return PartError(
            f"{policy.evictor!r} dropped an entry of view.protected (window, sinks or prompt)."
        )
    return None


def _checked_scores(scorer: Scorer, view: CacheView) -> Float[Tensor, "R H L"]:
    try:
        return _scores(scorer, view)
    except PartError:
        for term in _terms(scorer):
            _scores(term, view)  # raises in the name of the term at fault
        raise


def _scores(scorer: Scorer, view: CacheView) -> Float[Tensor, "R H L"]:
    try:
        scores = scorer.score(view)
    except Exception as cause:
        raise PartError(f"{scorer!r}.score raised {type(cause).__name__}: {cause}") from cause
    complaint = _shape_complaint(scores, view, torch.float32)
    if complaint:
        raise PartError(f"{scorer!r}.score {complaint}")
    return scores


def _checked_keep(
    policy: Policy, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
) -> Bool[Tensor, "R H L"]:
    try:
        keep = policy.evictor.keep(scores, view, budget)
    except Exception as cause:
        raise PartError(
            f"{policy.evictor!r}.keep raised {type(cause).__name__}: {cause}"
        ) from cause
    complaint = _shape_complaint(keep, view, torch.bool)
    if complaint:
        raise PartError(f"{policy.evictor!r}.keep {complaint}")
    return keep


def _shape_complaint(value: object, view: CacheView, dtype: torch.dtype) -> str:
    shape = tuple(view.positions.shape)
    if not isinstance(value, Tensor):
        return f"must return a tensor [R, H, L] = {list(shape)}, got {type(value).__name__}."
    if tuple(value.shape) != shape or value.dtype != dtype:
        return (
            f"must return [R, H, L] = {list(shape)} of {dtype}, got {list(value.shape)} of "
            f"{value.dtype}."
        )
    return ""


def _terms(scorer: Scorer) -> list[Scorer]:
    """The scorers a sum or a multiple is made of."""
    if isinstance(scorer, Combined):
        return [term.scorer for term in scorer.terms]
    return [scorer.scorer] if isinstance(scorer, Weighted) else []


def _culprit(scorer: Scorer, view: CacheView) -> Scorer:
    """The term of a sum that is not finite, so that the message names it and not the sum."""
    for term in _terms(scorer):
        if not bool((torch.isfinite(_scores(term, view)) | ~view.occupied).all()):
            return term
    return scorer
