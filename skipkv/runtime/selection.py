"""Which entries a policy keeps, as a function of plain tensors: for other runtimes."""

from collections.abc import Mapping, Sequence

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import CacheView, Memory, ModelShape, Needs, Record, Rotation, SentenceTable
from skipkv._validators import kind_of
from skipkv.errors import InputError
from skipkv.policy import Budget, Policy
from skipkv.runtime.parts.checked import decide, law_faults
from skipkv.runtime.support.checks import check_policy, check_prompt
from skipkv.runtime.support.fits import check_made_for


def select(
    keys: Float[Tensor, "R H L D"],
    values: Float[Tensor, "R H L D"],
    queries: Float[Tensor, "R H G W D"] | None = None,
    *,
    policy: Policy,
    positions: Int[Tensor, "R H L"] | None = None,
    seen: int | Sequence[int] | Int[Tensor, "R"] | None = None,
    prompt: int | Sequence[int] | Int[Tensor, "R"] = 0,
    layers: int | Sequence[int] | Int[Tensor, "R"] = 0,
    depth: int | None = None,
    attention: Float[Tensor, "R H L"] | None = None,
    rotation: Rotation | None = None,
    sentences: Sequence[SentenceTable] | None = None,
    sequences: Sequence[int] | Int[Tensor, "R"] | None = None,
    records: Mapping[Record, Float[Tensor, "R H L"]] | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, "R H G"] | None = None,
) -> Int[Tensor, "R H K"]:
    """The positions of the entries that a policy keeps at one compression event.

    It is what `Engine` and `attach` do at an event, without a store and without a model. A serving
    engine shows the entries of a row (one sequence in one layer) and drops all but those returned.
    Nothing is remembered from call to call, and no argument is changed. What a policy reads is in
    `policy.needs`; the other optional arguments may be left out. A head within its budget keeps
    everything.

    Args:
        keys: keys after RoPE. An empty slot holds any finite numbers.
        values: values, likewise.
        queries: the newest queries after RoPE, oldest first; of them at least
            `policy.needs.queries`. `G` query heads share a KV head.
        policy: budget, scorer and evictor are used.
        positions: position of each entry in its sequence. They increase along the slots, and empty
            slots, which come last, hold -1. By default slot j holds position j.
        seen: tokens that each row's sequence has seen, also those no longer cached; one number for
            all rows or one per row. By default one more than the row's highest position.
        prompt: length of each row's prompt, in tokens, for budgets that protect it.
        layers: layer of the model that each row belongs to, from 0.
        depth: layers of the model; by default as many as the highest of `layers` tells of. A budget
            with shares (`Budget(layers=...)`) needs it: these layers divide the budget.
        attention: attention that each entry has received so far, summed over queries.
        rotation: how positions turn keys.
        sentences: a table per sequence.
        sequences: which table of `sentences` each row belongs to; by default row r has the r-th.
        records: the values of statistics that the policy reads, such as `Peak()`.
        softcap: where the model caps its logits: see `CacheView`.
        sinks: where the model has attention sinks, their logits: see `CacheView`.

    Returns:
        Positions in increasing order, filled up with -1. `K` is the most that a head keeps, so it
        is the budget wherever some head held more.

    Raises:
        InputError: shapes do not fit each other, positions do not increase, `layers` are not those
            of a model of `depth` layers, something that the policy needs is missing, its scorer
            remembers from event to event, or a prompt that its budget protects fills it.
        ConfigError: it is not a policy, or a part of it was made for a model of another shape.
        PartError: scorer or evictor broke its protocol.
        ModelError: keys, values or queries are NaN or infinite.

    Example:
        >>> from skipkv import presets
        >>> keys, values = torch.ones(1, 2, 8, 4), torch.ones(1, 2, 8, 4)
        >>> policy = presets.streaming_llm(5, sinks=2)
        >>> select(keys, values, policy=policy)
        tensor([[[0, 1, 5, 6, 7],
                 [0, 1, 5, 6, 7]]])
    """
    check_policy(policy, user="skipkv.select")
    _check_shapes(keys, values, queries, positions, attention, records or {}, sinks)
    rows, device = len(keys), keys.device
    if positions is None:
        positions = torch.arange(keys.shape[2], device=device).expand(keys.shape[:3])
    _check_positions(positions)
    if policy.budget is None:
        return positions.clone()
    _check_needs(policy.needs, queries, attention, rotation, sentences, records or {})
    newest = positions.flatten(1).amax(dim=1)  # [R]
    tokens = _per_row("seen", newest + 1 if seen is None else seen, rows, device)
    if bool((newest >= tokens).any()):
        raise InputError(
            f"select(seen={tokens.tolist()}) must exceed every position of its row; the highest "
            f"are {newest.tolist()}. It counts all tokens of the sequence, from its first."
        )
    prompts = _per_row("prompt", prompt, rows, device)
    if sequences is None:
        sequences = torch.arange(rows) if sentences is not None else torch.zeros(rows)
    which = _per_row("sequences", sequences, rows, device)
    if sentences is not None and not bool(((which >= 0) & (which < len(sentences))).all()):
        raise InputError(
            f"select(sequences={which.tolist()}) must name tables of sentences, of which "
            f"{len(sentences)} came. Pass a table per row, or say with `sequences` whose is whose."
        )
    numbers = _per_row("layers", layers, rows, device)
    there = ModelShape(  # the rows may have some of the model's heads
        groups=None if queries is None else queries.shape[2],
        dim=keys.shape[3],
        frequencies=None if rotation is None else tuple(rotation.frequencies.tolist()),
    )
    check_made_for(policy, there)
    depth = _depth(policy.budget, numbers, depth)
    view = CacheView(
        keys=keys,
        values=values,
        positions=positions,
        protected=policy.budget.protected(positions, tokens, prompts),
        seen=tokens,
        sequences=which,
        layers=numbers,
        depth=depth,
        queries=queries,
        softcap=softcap,
        sinks=sinks,
        records={record: records[record] for record in policy.needs.records} if records else {},
        attention=attention,
        sentences=sentences,
        rotation=rotation,
    )
    budgets = policy.budget.of_layers(depth)
    for row, (layer, length) in enumerate(zip(numbers.tolist(), prompts.tolist(), strict=True)):
        name = f"select(prompt=...) of row {row}"
        check_prompt(budgets[layer], length, name, shared=policy.budget)
    allowed = [
        budgets[layer].allowed(t, p)
        for layer, t, p in zip(numbers.tolist(), tokens.tolist(), prompts.tolist(), strict=True)
    ]
    keep = torch.zeros_like(view.occupied)
    for budget in sorted(set(allowed)):  # under a ratio rows may differ, and by their layers
        some = torch.tensor([a == budget for a in allowed], device=device).nonzero()[:, 0]
        keep[some] = _kept(policy, _rows(view, some), budget)
    return _compacted(positions, keep)


def _depth(budget: Budget, layers: Int[Tensor, "R"], depth: int | None) -> int:
    """The layers of the model, which are known where rows are all that there is."""
    if depth is None and budget.layers is not None:
        raise InputError(
            f"select(depth=...) is missing: the model's layers divide Budget(layers="
            f"{budget.layers}), and the rows need not be of all of them. Pass their number."
        )
    most = int(layers.max())
    depth = most + 1 if depth is None else depth
    if int(layers.min()) < 0 or most >= depth:
        raise InputError(
            f"select(layers={layers.tolist()}) must lie from 0 to depth - 1, with depth={depth} "
            "the layers of the model. Number them from 0, or pass depth=."
        )
    return depth


def _kept(policy: Policy, view: CacheView, budget: int) -> Bool[Tensor, "R H L"]:
    """The keep mask of rows with one budget; parts are not asked where every head has room."""
    if bool((view.occupied.sum(dim=-1) <= budget).all()):
        return view.occupied
    decision = decide(policy, view, budget, count=len(view.seen))
    faults = (
        decision
        if isinstance(decision, list)
        else law_faults(policy, view, budget, decision.held.tolist())
    )
    if found := [fault for fault in faults if fault is not None]:
        raise found[0]
    assert not isinstance(decision, list)  # a list has an error for every row
    return decision.keep


def _rows(view: CacheView, some: Int[Tensor, "r"]) -> CacheView:
    """Some rows of a view; sentence tables and the rotation have no rows."""
    of_rows = ("keys", "values", "positions", "protected", "seen", "sequences", "layers")
    optional = ("queries", "attention", "sinks")
    tensors = {name: getattr(view, name) for name in (*of_rows, *optional)}
    return attrs.evolve(
        view,
        **{name: t[some] for name, t in tensors.items() if t is not None},
        records={record: values[some] for record, values in view.records.items()},
    )


def _compacted(
    positions: Int[Tensor, "R H L"], keep: Bool[Tensor, "R H L"]
) -> Int[Tensor, "R H K"]:
    """The kept positions in order, filled up with -1."""
    most = int(keep.sum(dim=-1).max())
    order = (~keep).int().argsort(dim=-1, stable=True)[..., :most]  # kept slots first
    return positions.masked_fill(~keep, -1).gather(-1, order)


def _per_row(
    name: str, given: int | Sequence[int] | Tensor, rows: int, device: torch.device
) -> Int[Tensor, "R"]:
    number = torch.as_tensor(given, device=device, dtype=torch.long)
    if number.shape not in ((), (rows,)):
        raise InputError(
            f"select({name}=...) must be one number, or one for each of the {rows} rows of keys, "
            f"got shape {list(number.shape)}."
        )
    return number.expand(rows).clone()


def _check_shapes(
    keys: Tensor,
    values: Tensor,
    queries: Tensor | None,
    positions: Tensor | None,
    attention: Tensor | None,
    records: Mapping[Record, Tensor],
    sinks: Tensor | None,
) -> None:
    if keys.dim() != 4 or 0 in keys.shape:
        raise InputError(
            f"select(keys=...) must be [R, H, L, D] and not empty, got {list(keys.shape)}. One "
            "sequence in one layer is a row: keys[None] has the leading axis."
        )
    slots = keys.shape[:3]
    if values.dim() != 4 or values.shape[:3] != slots:
        raise InputError(
            f"select(values=...) must have the rows, heads and slots {list(slots)} of keys, got "
            f"{list(values.shape)}."
        )
    of_slots = {"positions=...": positions, "attention=...": attention}
    of_slots |= {f"records={{{record!r}: ...}}": held for record, held in records.items()}
    for name, tensor in of_slots.items():
        if tensor is not None and (not isinstance(tensor, Tensor) or tensor.shape != slots):
            came = list(tensor.shape) if isinstance(tensor, Tensor) else kind_of(tensor)
            raise InputError(f"select({name}) must be [R, H, L] = {list(slots)}, got {came}.")
    if sinks is not None and (sinks.dim() != 3 or sinks.shape[:2] != keys.shape[:2]):
        raise InputError(
            f"select(sinks=...) must be [R, H, G] with the rows and heads {list(keys.shape[:2])} "
            f"of keys, got {list(sinks.shape)}."
        )
    if queries is not None and (
        queries.dim() != 5
        or queries.shape[:2] != keys.shape[:2]
        or queries.shape[4] != keys.shape[3]
    ):
        raise InputError(
            "select(queries=...) must be [R, H, G, W, D] with the rows, heads and head size "
            f"{[*keys.shape[:2], keys.shape[3]]} of keys, got {list(queries.shape)}. The query "
            "heads that share a KV head are its G."
        )


def _check_positions(positions: Int[Tensor, "R H L"]) -> None:
    before, after = positions[..., :-1], positions[..., 1:]
    wrong = ((after >= 0) & (after <= before)) | ((before < 0) & (after >= 0))
    if bool(wrong.any()) or bool((positions[..., 0] < 0).any(dim=-1).all(dim=-1).any()):
        raise InputError(
            "select(positions=...) must increase along the slots of every head, with empty slots "
            "(-1) last, and a row must hold some entry. Order the entries by position first."
        )


def _check_needs(
    needs: Needs,
    queries: Tensor | None,
    attention: Tensor | None,
    rotation: Rotation | None,
    sentences: Sequence[SentenceTable] | None,
    records: Mapping[Record, Tensor],
) -> None:
    if memories := [record for record in needs.records if isinstance(record, Memory)]:
        raise InputError(
            f"select: the policy's scorer remembers {memories[0]!r} from event to event, and this "
            "function remembers nothing. Decode with Engine or attach."
        )
    held = 0 if queries is None else queries.shape[3]
    missing = [
        name
        for name, absent in {
            f"queries (the newest {needs.queries}, {held} came)": held < needs.queries,
            "attention": needs.attention and attention is None,
            "rotation": needs.rotary and rotation is None,
            "sentences": needs.sentences and sentences is None,
            **{f"records[{r!r}]": r not in records for r in needs.records},
        }.items()
        if absent
    ]
    if missing:
        raise InputError(
            f"select: the policy needs {needs}, but {' and '.join(missing)} is missing. Pass it, "
            "or choose a policy that does not read it."
        )
