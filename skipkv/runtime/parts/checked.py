"""All calls that the runtime makes to the parts of a policy, with checks of the answers."""

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._calls import (
    broken,
    call,
    check_tensor,
    culprit,
    parts_of,
    remembered_of,
    scores_asked,
    scores_of,
    tensors,
    watched,
    without_frames,
)
from skipkv._types import (
    CacheView,
    Cut,
    Memory,
    PairedStatistic,
    Request,
    Statistic,
    SteeringContext,
    TokenStream,
)
from skipkv.errors import ModelError, PartError, SkipKVError
from skipkv.evictors import Evictor
from skipkv.evictors.protocol import most_of, pools_heads
from skipkv.policy import Policy
from skipkv.schedulers import BatchScheduler
from skipkv.segmenters import Segmenter
from skipkv.steerers import Steerer


def cuts(segmenter: Segmenter, stream: TokenStream) -> list[Cut]:
    """The sentences that a segmenter finds in a stream.

    Args:
        segmenter: any segmenter.
        stream: the tokens to cut.

    Raises:
        PartError: the segmenter raised, or its answer is not a sequence of cuts that increase and
            lie inside the stream.
    """
    answer = call(segmenter, "cut", {"stream": stream})
    if not isinstance(answer, Sequence) or not all(isinstance(cut, Cut) for cut in answer):
        raise broken(segmenter, f".cut must return a sequence of skipkv.Cut, got {answer!r}.")
    ends = [cut.end for cut in answer]
    if ends != sorted(set(ends)) or (ends and ends[-1] > len(stream)):
        raise broken(
            segmenter,
            f" cut a stream of {len(stream)} tokens at {ends}. Cuts must increase strictly and lie "
            "inside the stream.",
        )
    return list(answer)


def admitted(
    scheduler: BatchScheduler, waiting: Sequence[Request], *, free: int, running: int
) -> list[int]:
    """The waiting requests that a scheduler admits.

    Args:
        scheduler: any scheduler.
        waiting: the waiting requests.
        free: number of free slots.
        running: number of sequences in the other slots.

    Returns:
        Indices into `waiting`.

    Raises:
        PartError: the scheduler raised, or its answer is not distinct indices of waiting requests.
    """
    shown = {"waiting": tuple(waiting)}
    answer = call(scheduler, "admit", shown, free=free, running=running)
    try:
        # at most one more than are legal: an answer may be an endless iterator
        chosen = [operator.index(i) for i in islice(iter(answer), len(waiting) + 1)]
    except TypeError:
        raise broken(
            scheduler,
            f".admit must return a sequence of indices of waiting requests, got {answer!r}.",
        ) from None
    legal = len(set(chosen)) == len(chosen) <= free and all(0 <= i < len(waiting) for i in chosen)
    if not legal or not (chosen or running):
        raise broken(
            scheduler,
            f".admit returned {chosen} for {len(waiting)} waiting, {free} free and {running} "
            "running. It must return distinct indices of waiting requests, at most `free`, and at "
            "least one when nothing is running.",
        )
    return chosen


def delta(
    steerer: Steerer, hidden: Float[Tensor, "R E"], context: SteeringContext
) -> tuple[Float[Tensor, "R E"], dict[int, PartError]]:
    """What a steerer adds to each row, and its errors, by row.

    A row's delta depends on that row alone. If the steerer fails, it is called again for each row
    that it acts on, one by one, and only the rows on which it fails again get an error. The delta
    of such a row is NaN: its logits are then not finite, and no token is chosen from them.

    Args:
        steerer: any steerer.
        hidden: the hidden states that enter the layer.
        context: the state of each row.
    """
    hidden, context = watched(hidden), watched(context)
    try:
        return _delta(steerer, hidden, context), {}
    except PartError as error:
        failure = without_frames(error)
    found = torch.zeros_like(hidden)
    faults: dict[int, PartError] = {}
    acting = (context.at_delimiter & context.thinking).nonzero()[:, 0].tolist()
    for row in [] if failure.edited else acting:
        one = slice(row, row + 1)
        alone = SteeringContext(**{name: tensor[one] for name, tensor in tensors(context)})
        try:
            found[one] = _delta(steerer, hidden[one], alone)
        except PartError as error:
            faults[row] = without_frames(error)
    if not faults:  # an edit may concern any row
        faults = dict.fromkeys(range(len(hidden)) if failure.edited else acting, failure)
    found[list(faults)] = torch.nan
    return found, faults


def _delta(
    steerer: Steerer, hidden: Float[Tensor, "R E"], context: SteeringContext
) -> Float[Tensor, "R E"]:
    answer = call(steerer, "delta", {"hidden": hidden, "context": context})
    check_tensor(steerer, "delta", answer, "[R, E]", hidden, hidden.dtype)
    return answer  # type: ignore[no-any-return]


@attrs.frozen(kw_only=True, eq=False)
class Decision:
    """What a policy answered to one view, not yet checked: reading the laws waits for the device.

    Args:
        keep: the keep mask.
        held: per sequence, whether its scores are finite, those that the evictor asks for too;
            whether its mask is within the budget, keeps no empty slot, and keeps what is protected;
            and whether what is remembered is finite.
        remembered: what memories hold from now on.
    """

    keep: Bool[Tensor, "R H L"]
    held: Bool[Tensor, "n 5"]
    remembered: Mapping[Memory, Float[Tensor, "R H L"]]


def decide(
    policy: Policy,
    view: CacheView,
    budget: int,
    *,
    count: int,
    watch: Callable[[CacheView, Float[Tensor, "R H L"]], None] | None = None,
) -> Decision | list[SkipKVError | None]:
    """Which entries a policy keeps. Does not wait for the device.

    Args:
        policy: scorer and evictor.
        view: row r is sequence r % count.
        budget: the most entries to keep per row and head; on average over the heads of a row,
            where the evictor lets them share it.
        count: sequences in the view.
        watch: gets the view and its scores.

    Returns:
        The decision; or, if a part failed, per sequence its error.
    """
    view = watched(view)
    # taken before a part sees the view, so that its edits cannot change what is checked
    occupied, protected = view.occupied, view.protected.clone()
    try:
        scores = scores_of(policy.scorer, view)
        if watch is not None:
            watch(view, scores)
        finite = torch.isfinite(scores) | ~occupied
        remembered = remembered_of(policy.scorer, view)
        with scores_asked() as asked:  # an evictor may have scorers of its own
            keep = _keep(policy.evictor, scores, view, budget)
        for more in asked:
            finite = finite & (torch.isfinite(more) | ~occupied)
    except PartError as error:
        failure = without_frames(error)
        faults: list[SkipKVError | None] = [failure] * count
        if not failure.edited:
            for number, fault in _model_faults(view, occupied, count).items():
                faults[number] = fault
        return faults
    laws = torch.stack(
        [
            finite.flatten(1).all(dim=1),
            _within(keep, policy.evictor, budget),
            ~(keep & ~occupied).flatten(1).any(dim=1),
            ~(protected & ~keep).flatten(1).any(dim=1),
            _all_finite(remembered, occupied),
        ]
    )  # [5 R]
    held = laws.unflatten(1, (-1, count)).all(dim=1).T
    return Decision(keep=keep, held=held, remembered=remembered)


def _within(keep: Bool[Tensor, "R H L"], evictor: Evictor, budget: int) -> Bool[Tensor, "R"]:
    """Whether each row keeps no more than its budget."""
    kept = keep.sum(dim=-1)  # [R H]
    within = (kept <= most_of(evictor, budget)).all(dim=1)
    return within & (kept.sum(dim=1) <= budget * kept.shape[1])


def _all_finite(
    remembered: Mapping[Memory, Float[Tensor, "R H L"]], occupied: Bool[Tensor, "R H L"]
) -> Bool[Tensor, "R"]:
    finite = torch.ones_like(occupied)
    for values in remembered.values():
        finite = finite & torch.isfinite(values)
    return (finite | ~occupied).flatten(1).all(dim=1)


def _keep(
    evictor: Evictor, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
) -> Bool[Tensor, "R H L"]:
    shown = {"scores": scores, "view": view, "budget": budget}
    keep = call(evictor, "keep", shown)
    check_tensor(evictor, "keep", keep, "[R, H, L]", view.positions, torch.bool)
    return keep  # type: ignore[no-any-return]


def law_faults(
    policy: Policy, view: CacheView, budget: int, held: list[list[bool]]
) -> list[SkipKVError | None]:
    """The error of each sequence, from whether the laws of a decision held for it.

    Args:
        policy: scorer and evictor.
        view: what they saw.
        budget: the most entries to keep per row and head.
        held: `Decision.held`, read.
    """
    if all(map(all, held)):
        return [None] * len(held)
    view = watched(view)
    occupied = view.occupied
    others: dict[int, SkipKVError] = {}
    name: object = policy.scorer
    if not all(finite for finite, *_ in held):
        others = {
            **_statistic_faults(view, occupied, len(held)),
            **_model_faults(view, occupied, len(held)),
        }
        name = _culprit(policy, view)
    faults: list[SkipKVError | None] = []
    for number, (finite, within, real, safe, remembers) in enumerate(held):
        fault: SkipKVError | None = None
        if not finite:
            fault = others.get(number) or broken(
                name,
                " scored an entry NaN or infinite. Scores must be finite wherever view.occupied is "
                "True.",
            )
        elif not within:
            most = f", or more than {most_of(policy.evictor, budget)} of one head"
            fault = broken(
                policy.evictor,
                f" kept more than the budget of {budget} entries per head"
                f"{most if pools_heads(policy.evictor) else ''}.",
            )
        elif not real:
            fault = broken(
                policy.evictor, " kept an empty slot. Keep only where view.occupied is True."
            )
        elif not safe:
            fault = broken(
                policy.evictor, " dropped an entry of view.protected (window, sinks or prompt)."
            )
        elif not remembers:
            fault = broken(
                policy.scorer,
                ".remember gave an entry NaN or infinite. Values must be finite wherever "
                "view.occupied is True.",
            )
        faults.append(fault)
    return faults


def _culprit(policy: Policy, view: CacheView) -> object:
    inside = [part for part in parts_of(policy.evictor) if callable(getattr(part, "score", None))]
    try:
        for scorer in (policy.scorer, *inside):
            if not (torch.isfinite(scores_of(scorer, view)) | ~view.occupied).all():
                return culprit(scorer, view)
    except PartError:  # a term answered differently this time: blame the sum
        pass
    return policy.scorer


def _model_faults(
    view: CacheView, occupied: Bool[Tensor, "R H L"], count: int
) -> dict[int, ModelError]:
    """Errors of sequences whose keys, values or queries the model computed as NaN or infinite."""
    faults: dict[int, ModelError] = {}
    empty = ~occupied[..., None]
    computed = {"keys": (view.keys, empty), "values": (view.values, empty)}
    if view.queries is not None:
        computed["queries"] = (view.queries, torch.zeros_like(view.queries, dtype=torch.bool))
    for name, (tensor, unused) in computed.items():
        for number in _not_finite(tensor, unused, count):
            faults.setdefault(number, not_finite(f"{name} are", tensor.dtype))
    return faults


def _statistic_faults(
    view: CacheView, occupied: Bool[Tensor, "R H L"], count: int
) -> dict[int, PartError]:
    """Errors of sequences of whose entries a statistic's numbers are NaN or infinite."""
    faults: dict[int, PartError] = {}
    for record, values in view.records.items():
        if isinstance(record, Statistic | PairedStatistic):
            for number in _not_finite(values, ~occupied, count):
                told = ".update gave an entry NaN or infinite. What it returns must be finite."
                faults.setdefault(number, broken(record, told))
    return faults


def _not_finite(
    tensor: Float[Tensor, "R H *N"], unused: Bool[Tensor, "R H *#N"], count: int
) -> list[int]:
    """The sequences of whose rows a number that is used is NaN or infinite."""
    finite = (tensor.isfinite() | unused).flatten(1).all(dim=1)  # [R]
    holds = finite.unflatten(0, (-1, count)).all(dim=0).tolist()
    return [number for number in range(count) if not holds[number]]


def not_finite(what: str, dtype: torch.dtype) -> ModelError:
    """The error of a model that computes NaN or infinite numbers.

    Args:
        what: the name of these numbers, with a verb ("logits are").
        dtype: the model's dtype.
    """
    if dtype == torch.float16:
        remedy = "float16 holds no number above 65504: load the model in bfloat16 or float32."
    else:
        remedy = "Its weights may be damaged or incomplete: look for NaN among its parameters."
    short = str(dtype).removeprefix("torch.")
    return ModelError(f"The model's {what} not finite ({short}). {remedy}")
