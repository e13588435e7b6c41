"""Hypothesis strategies for cache views, sentence tables, scores, budgets and decode steps.

Layouts are drawn by Hypothesis and shrink to few short rows. The numbers in tensors come from one
drawn seed, which is quick. They are eighths up to a drawn bound: they shrink to small readable
numbers, and bfloat16 holds them exactly. All views are as the runtime builds them: occupied slots
first, positions strictly increasing, protected entries present, tables no longer than the sequence.

Example:
    >>> from hypothesis import given
    >>> from skipkv.testing.strategies import budgets, cache_views, scores
    >>> from skipkv.evictors import TopK
    >>> @given(view=cache_views())
    ... def test_a_view_has_positions_below_seen(view):
    ...     assert (view.positions < view.seen[:, None, None]).all()
    >>> test_a_view_has_positions_below_seen()
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from skipkv._types import (
    CacheView,
    ModelShape,
    Rotation,
    SentenceTable,
    SteeringContext,
    Thought,
    needs_of,
)

Axis = int | st.SearchStrategy[int]
Draw = Callable[..., Any]  # hypothesis' own DrawFn cannot be checked while running

_EMBEDDING = 4
_ONE_OR_TWO, _FEW = st.integers(1, 2), st.integers(1, 3)
_SOME, _MANY = st.integers(1, 5), st.integers(1, 14)
_STREAM, _SENTENCES = st.integers(1, 24), st.integers(0, 6)
_WINDOW, _SINKS, _LAYERS = st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)
_SEEDS = st.integers(0, 2**16)
_EIGHTHS = st.integers(0, 32)


@st.composite
def sentence_tables(
    draw: Draw, *, seen: Axis = _STREAM, sentences: Axis = _SENTENCES
) -> SentenceTable:
    """A table of a sequence that has seen `seen` tokens.

    Each sentence is about one of four topics, maybe with an undertone. Sentences on the same topic
    have a similarity of about 0.98 or 1, others of at most 0.2. So with a threshold of 0.95 a
    sentence is redundant if its topic comes again.

    Args:
        seen: tokens of the sequence.
        sentences: most closed sentences; never more than tokens.
    """
    total, most = _drawn(draw, seen), _drawn(draw, sentences)
    ends = draw(st.lists(st.integers(1, total), max_size=most, unique=True).map(sorted))
    meaning = st.tuples(st.integers(0, _EMBEDDING - 1), st.booleans())
    meanings = draw(st.lists(meaning, min_size=len(ends), max_size=len(ends)))
    embeddings = torch.zeros(len(ends), _EMBEDDING)
    for row, (topic, undertone) in zip(embeddings, meanings, strict=True):
        row[topic] = 1.0
        if undertone:
            row[(topic + 1) % _EMBEDDING] = 0.2
    thoughts = draw(
        st.lists(st.sampled_from(list(Thought)), min_size=len(ends), max_size=len(ends))
    )
    return SentenceTable(
        ends=torch.tensor(ends, dtype=torch.long),
        embeddings=torch.nn.functional.normalize(embeddings, dim=-1),
        thoughts=torch.tensor([int(thought) for thought in thoughts], dtype=torch.long),
    )


@st.composite
def cache_views(
    draw: Draw,
    *,
    rows: Axis = _FEW,
    heads: Axis = _FEW,
    groups: Axis = _ONE_OR_TWO,
    slots: Axis = _MANY,
    dim: Axis = _SOME,
    window: Axis = _WINDOW,
    sinks: Axis = _SINKS,
    queries: Axis = 0,
    attention: bool = False,
    sentences: bool = False,
    rotary: bool = False,
    records: Any = (),
    depth: int | None = None,
    rotation: Rotation | None = None,
) -> CacheView:
    """A consistent view; heads hold different entries, and different numbers of them.

    Args:
        rows: rows of the view; several may belong to one sequence.
        heads: KV heads.
        groups: query heads per KV head.
        slots: slots; more if window and sinks would leave no room for another entry.
        dim: head size.
        window: most recent tokens, present in every head and protected.
        sinks: first tokens, present in every head and protected.
        queries: queries in the view; 0 for none.
        attention: whether the view carries accumulated attention.
        sentences: whether it carries sentence tables.
        rotary: whether it carries the rotation. Then keys are copies of each other, and made of
            eighths, before it; of an odd head size some dimension is not turned.
        records: records that it carries. Their values are small numbers from each one's start on,
            and each start is among them.
        depth: layers of the model; None for a few more than have rows.
        rotation: the one that it carries if it carries any; None draws one.
    """
    r, h, g, d = (_drawn(draw, axis) for axis in (rows, heads, groups, dim))
    newest, first, held = (_drawn(draw, axis) for axis in (window, sinks, queries))
    length = max(_drawn(draw, slots), newest + first + 1)
    sequences = draw(st.lists(st.integers(0, r - 1), min_size=r, max_size=r))
    count = max(sequences) + 1
    # rows of one sequence are different layers, as in the cache
    lowest, above = draw(_LAYERS), draw(_LAYERS)
    layers = [lowest + sequences[:row].count(s) for row, s in enumerate(sequences)]
    if depth is not None:
        layers = [layer % depth for layer in layers]
    seen = draw(st.lists(st.integers(1, 2 * length), min_size=count, max_size=count))

    positions = torch.full((r, h, length), -1, dtype=torch.long)
    protected = torch.zeros(r, h, length, dtype=torch.bool)
    random = torch.Generator().manual_seed(draw(_SEEDS))
    for row, sequence in enumerate(sequences):
        total = seen[sequence]
        always = {p for p in range(total) if p < first or p >= total - newest}
        others = [p for p in range(total) if p not in always]
        for head in range(h):
            most = min(len(others), length - len(always))
            # shrinks to heads that are as full as can be: the plain case
            extra = most - draw(st.integers(0, most))
            chosen = [others[i] for i in torch.randperm(len(others), generator=random)[:extra]]
            entries = sorted(always | set(chosen))
            positions[row, head, : len(entries)] = torch.tensor(entries, dtype=torch.long)
            for slot, position in enumerate(entries):
                protected[row, head, slot] = position in always

    bound = draw(_EIGHTHS)

    def numbers(*shape: int) -> Tensor:
        return torch.randint(-bound, bound + 1, shape, generator=random) / 8

    tables: Sequence[SentenceTable] | None = None
    if sentences:
        tables = [draw(sentence_tables(seen=total)) for total in seen]
    keys = _with_copies(numbers(r, h, length, d), min(bound, 1), random)
    if not rotary:
        rotation = None
    elif rotation is None:
        rotation = draw(rotations(dim=d))
    return CacheView(
        keys=keys if rotation is None else rotation.rotated(keys, positions),
        values=numbers(r, h, length, d),
        positions=positions,
        protected=protected,
        seen=torch.tensor([seen[sequence] for sequence in sequences]),
        sequences=torch.tensor(sequences),
        layers=torch.tensor(layers),
        depth=max(layers) + 1 + above if depth is None else depth,
        queries=numbers(r, h, g, held, d) if held else None,
        attention=numbers(r, h, length).abs() if attention else None,
        sentences=tables,
        rotation=rotation,
        records={
            record: record.start + numbers(r, h, length).abs().floor_divide(0.25) / 4
            for record in records
        },
    )


@st.composite
def rotations(draw: Draw, *, dim: Axis = _SOME) -> Rotation:
    """A rotation of heads of this size, whole or partial, with or without a scaling.

    Args:
        dim: head size.
    """
    pairs = _drawn(draw, dim) // 2
    pairs -= draw(st.integers(0, pairs // 2))
    theta = draw(st.sampled_from([10.0, 10000.0]))
    return Rotation(
        frequencies=theta ** (-torch.arange(pairs) / max(1, pairs)),
        scaling=draw(st.sampled_from([1.0, 1.25])),
    )


def views_for(part: object, **axes: Any) -> st.SearchStrategy[CacheView]:
    """Views as the runtime builds them for a policy with this scorer or evictor.

    They hold what the part declares in `needs` and nothing else. As in a policy, the window covers
    the queries that the part reads.

    Args:
        part: a scorer or an evictor.
        axes: arguments of `cache_views`, such as `heads=1`.

    Example:
        >>> from hypothesis import given
        >>> from skipkv.scorers import WindowAttention
        >>> @given(view=views_for(WindowAttention(window=2), heads=1))
        ... def two_queries_are_there(view):
        ...     assert view.queries.shape[3] == 2
        >>> two_queries_are_there()
    """
    needs = needs_of(part)
    settings = {
        "queries": needs.queries,
        "window": st.integers(needs.queries, needs.queries + 2),
        "attention": needs.attention,
        "sentences": needs.sentences,
        "rotary": needs.rotary,
        "records": needs.records,
    }
    return cache_views(**(settings | axes | axes_of(needs.model)))  # type: ignore[arg-type]


def axes_of(model: ModelShape | None) -> dict[str, Any]:
    """Arguments of `cache_views` for the views of a model.

    Args:
        model: what is known of it; None for any model.
    """
    if model is None:
        return {}
    named = {"heads": model.heads, "groups": model.groups, "dim": model.dim, "depth": model.layers}
    axes: dict[str, Any] = {name: size for name, size in named.items() if size is not None}
    if model.frequencies is not None:
        axes["rotation"] = Rotation(frequencies=torch.tensor(model.frequencies))
    return axes


@st.composite
def new_entries(
    draw: Draw, *, model: ModelShape | None = None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Keys and values [B, H, T, D] about to be written, the states [B, T, E] that enter their
    layer, and the layer.

    Args:
        model: what is known of the model; None for any.
    """
    model = ModelShape() if model is None else model
    b, t = draw(_FEW), draw(_SOME)
    h, d = model.heads or draw(_FEW), model.dim or draw(_SOME)
    width, layers = model.width or draw(_SOME), model.layers or draw(_FEW)
    bound = draw(_EIGHTHS)
    random = torch.Generator().manual_seed(draw(_SEEDS))

    def numbers(*shape: int) -> Tensor:
        return torch.randint(-bound, bound + 1, shape, generator=random) / 8

    layer = draw(st.integers(0, layers - 1))
    return numbers(b, h, t, d), numbers(b, h, t, d), numbers(b, t, width), layer


@st.composite
def hidden_states(draw: Draw, *, rows: Axis = _FEW, size: Axis = _SOME) -> Tensor:
    """Hidden states [R, E] as a steerer sees them: small round numbers.

    Args:
        rows: sequences decoded together.
        size: hidden size.
    """
    shape, bound = (_drawn(draw, rows), _drawn(draw, size)), draw(_EIGHTHS)
    random = torch.Generator().manual_seed(draw(_SEEDS))
    return torch.randint(-bound, bound + 1, shape, generator=random) / 8


@st.composite
def steering_contexts(draw: Draw, *, rows: Axis = _FEW) -> SteeringContext:
    """Where some sequences stand in a decode step; shrinks to one at its first token.

    Args:
        rows: sequences decoded together.
    """
    count = _drawn(draw, rows)
    row = st.tuples(
        st.booleans(), st.booleans(), st.tuples(*[st.integers(0, 9)] * 3), st.integers(0, 99)
    )
    drawn = draw(st.lists(row, min_size=count, max_size=count))
    ends, thinking, thoughts, positions = map(list, zip(*drawn, strict=True))
    return SteeringContext(
        at_delimiter=torch.tensor(ends),
        thinking=torch.tensor(thinking),
        thoughts=torch.tensor(thoughts),
        positions=torch.tensor(positions),
    )


@st.composite
def scores(draw: Draw, view: CacheView) -> Tensor:
    """Scores [R, H, L] for the slots of a view: small whole numbers, many of them equal.

    Args:
        view: the rows to score.
    """
    random = torch.Generator().manual_seed(draw(_SEEDS))
    spread = draw(st.integers(0, 8))
    return torch.randint(-spread, spread + 1, view.positions.shape, generator=random).float()


def budgets(view: CacheView) -> st.SearchStrategy[int]:
    """Budgets for an evictor: from the number of protected entries to more than there are slots.

    Args:
        view: the rows the budget is for.
    """
    protected = int(view.protected.sum(dim=-1).max())
    return st.integers(max(1, protected), view.positions.shape[-1] + 1)


def _drawn(draw: Draw, axis: Axis) -> int:
    return axis if isinstance(axis, int) else draw(axis)


def _with_copies(keys: Tensor, eighths: int, random: torch.Generator) -> Tensor:
    """Make about a third of the keys copies, up to `eighths`, of another of their row and head."""
    slots = keys.shape[2]
    source = torch.randint(slots, (slots,), generator=random)
    copied = torch.rand(slots, generator=random) < 1 / 3
    noise = torch.randint(-eighths, eighths + 1, keys.shape, generator=random) / 8
    return torch.where(copied[:, None], keys[:, :, source] + noise, keys)
