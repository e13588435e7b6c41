"""The laws of scorers."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from hypothesis import strategies as st

from skipkv._calls import remembered_of, written_of
from skipkv._types import needs_of
from skipkv.errors import PartError
from skipkv.scorers import Scorer
from skipkv.testing.laws.common import (
    alone,
    check_needs,
    check_same,
    check_tensor,
    check_unchanged,
    full_views,
    heads_of,
    protocol_law,
    snapshot,
    with_other_empty_slots,
)
from skipkv.testing.laws.law import Broken, Case, Law, hold_all
from skipkv.testing.laws.shown import shown
from skipkv.testing.strategies import new_entries, views_for

# Rows or heads, where a law is about there being others.
SEVERAL = st.integers(2, 3)


def _needs(scorer: Any, case: Case) -> None:
    view = case.draw("view", full_views(scorer))
    check_needs(scorer, view, view.occupied, "score", scorer.score)


def _answer(scorer: Any, case: Case) -> None:
    view = case.draw("view", full_views(scorer))
    check_tensor(scorer.score(view), "[R, H, L]", view.positions, torch.float32, "score")


def _finite(scorer: Any, case: Case) -> None:
    view = case.draw("view", views_for(scorer))
    scores = scorer.score(view)
    wrong = view.occupied & ~torch.isfinite(scores)
    if wrong.any():
        raise Broken(f"score gave the entry at {wrong.nonzero()[0].tolist()} {shown(scores)}.")


def _deterministic(scorer: Any, case: Case) -> None:
    view = case.draw("view", views_for(scorer))
    other = case.draw("other view, scored in between", views_for(scorer))
    before = scorer.score(view).clone()
    scorer.score(other)
    check_same(before, scorer.score(view), view.occupied, "scored a second time")


def _pure(scorer: Any, case: Case) -> None:
    view = case.draw("view", full_views(scorer))
    before = snapshot(view)
    scorer.score(attrs.evolve(view, keys=view.keys))
    check_unchanged(view, before, "score")


def _rows(scorer: Any, case: Case) -> None:
    view = case.draw("view", views_for(scorer, rows=SEVERAL))
    rows = case.draw("row", one_row(view.seen.shape[0]))
    found = scorer.score(alone(view, rows))
    check_same(
        scorer.score(view)[rows], found, view.occupied[rows], "with that row alone in the view"
    )


def _heads(scorer: Any, case: Case) -> None:
    view = case.draw("view", views_for(scorer, heads=SEVERAL))
    heads = case.draw("heads, in this order", st.permutations(range(view.positions.shape[1])))
    permuted = scorer.score(heads_of(view, heads))
    check_same(
        scorer.score(view)[:, heads],
        permuted,
        view.occupied[:, heads],
        "with the heads in that order",
    )


def _empty_slots(scorer: Any, case: Case) -> None:
    view = case.draw("view", views_for(scorer))
    more = case.draw("more empty slots", st.integers(0, 4))
    size = case.draw("what empty slots hold", st.sampled_from([100.0, 3e38]))
    slots = view.positions.shape[2]
    changed = scorer.score(with_other_empty_slots(view, more, size))[..., :slots]
    check_same(scorer.score(view), changed, view.occupied, "with other empty slots")


def _precision(scorer: Any, case: Case) -> None:
    view = case.draw("view", views_for(scorer))
    half = in_precision(view, torch.bfloat16)
    single = in_precision(half, torch.float32)
    scores = scorer.score(half)
    check_tensor(scores, "[R, H, L]", view.positions, torch.float32, "score, of a bfloat16 view,")
    check_same(scorer.score(single), scores, view.occupied, "with the same view in bfloat16")


def _memory(scorer: Any, case: Case) -> None:
    if not callable(getattr(scorer, "remember", None)):
        return
    view = case.draw("view", views_for(scorer, rows=SEVERAL))
    before = snapshot(view)
    try:
        found = remembered_of(scorer, attrs.evolve(view, keys=view.keys))
    except PartError as error:
        raise Broken(str(error)) from None
    check_unchanged(view, before, "remember")
    rows = case.draw("row", one_row(view.seen.shape[0]))
    by_itself = remembered_of(scorer, alone(view, rows))
    longer = remembered_of(scorer, with_other_empty_slots(view, 2, 100.0))
    slots = view.positions.shape[2]
    for memory, values in found.items():
        if (view.occupied & ~torch.isfinite(values)).any():
            raise Broken(f"remember, for {memory!r}, gave an entry {shown(values)}.")
        here = view.occupied[rows]
        check_same(
            values[rows], by_itself[memory], here, "remembered with that row alone in the view"
        )
        changed = longer[memory][..., :slots]
        check_same(values, changed, view.occupied, "remembered with other empty slots")


def _written(scorer: Any, case: Case) -> None:
    needs = needs_of(scorer)
    if not callable(getattr(scorer, "on_write", None)) or not needs.written:
        return
    drawn = case.draw("keys, values, hidden, layer", new_entries(model=needs.model))
    keys, values, hidden, layer = drawn
    before = [tensor.clone() for tensor in drawn[:3]]
    try:
        found = written_of(scorer, *drawn)
    except PartError as error:
        raise Broken(str(error)) from None
    for name, now, old in zip(("keys", "values", "hidden"), drawn, before, strict=False):
        if not torch.equal(now, old):
            raise Broken(f"on_write changed {name} in place.")
    row = case.draw("row", one_row(len(keys)))
    token = case.draw("token", one_row(keys.shape[2]))
    one = (keys[row][:, :, token], values[row][:, :, token], hidden[row][:, token])
    by_itself = written_of(scorer, *one, layer)
    for record, said in found.items():
        if not torch.isfinite(said).all():
            raise Broken(f"on_write, for {record!r}, gave {shown(said)}.")
        here = said[row][:, :, token]
        everywhere = torch.ones_like(here, dtype=torch.bool)
        check_same(here, by_itself[record], everywhere, "written with that token alone")


def one_row(count: int) -> Any:
    """One of so many rows, as an index that keeps the axis; shrinks to the first."""
    return st.integers(0, count - 1).map(lambda row: [row])


def in_precision(view: Any, dtype: torch.dtype) -> Any:
    """The view as a model of this dtype leaves it."""
    return attrs.evolve(
        view,
        keys=view.keys.to(dtype),
        values=view.values.to(dtype),
        queries=None if view.queries is None else view.queries.to(dtype),
    )


LAWS = (
    protocol_law(Scorer, "the scorer"),
    Law(
        name="answer",
        says="score returns float32 [R, H, L], a value for every slot.",
        why="scores are added to those of other scorers and ranked by the evictor, slot by slot.",
        check=_answer,
        basic=True,
    ),
    Law(
        name="pure",
        says="score changes nothing in the view.",
        why="the tensors of a view may be the cache itself.",
        check=_pure,
        basic=True,
    ),
    Law(
        name="needs",
        says="A scorer reads nothing that its attribute `needs` does not declare.",
        why="the runtime records only what is declared; everything else is None, unless another "
        "part happens to declare it.",
        check=_needs,
        basic=True,
    ),
    Law(
        name="finite",
        says="Every entry's score is a finite number.",
        why="NaN has no order, so chance would decide what is kept; and infinity minus infinity is "
        "NaN. The runtime ends such a sequence with an error.",
        check=_finite,
    ),
    Law(
        name="deterministic",
        says="The same view gets the same scores, whatever was scored before.",
        why="one part serves all sequences, so state in it changes later sequences; a generation "
        "could not be repeated.",
        check=_deterministic,
    ),
    Law(
        name="rows",
        says="A row's scores depend on that row alone.",
        why="rows of a view are other layers and other users' sequences: an answer must not "
        "depend on the sequences decoded with it.",
        check=_rows,
    ),
    Law(
        name="heads",
        says="With the heads of a row in another order, the scores are in that order.",
        why="heads have no order; a scorer that depends on one fits a single checkpoint.",
        check=_heads,
    ),
    Law(
        name="empty slots",
        says="The contents and the number of empty slots change no score.",
        why="empty slots hold what evicted entries left there, and their number depends on the "
        "longest row of the batch.",
        check=_empty_slots,
    ),
    Law(
        name="precision",
        says="Scores of a bfloat16 view are computed in float32.",
        why="models run in bfloat16, which has three digits: sums over many entries would be "
        "wrong, and many scores equal.",
        check=_precision,
    ),
    Law(
        name="memory",
        says="What remember returns is finite, for declared memories, and of each row alone; it "
        "changes nothing in the view.",
        why="it is written beside the entries of every layer and sequence, and read at the next "
        "event.",
        check=_memory,
    ),
    Law(
        name="written",
        says="What on_write returns is finite, for declared records, and of each token alone; it "
        "changes none of its arguments.",
        why="a prompt comes in pieces of any size, beside padding and other prompts.",
        check=_written,
    ),
)


def check_scorer(
    scorer: Scorer, *, claims: Mapping[str, str] | None = None, examples: int = 50
) -> None:
    """Hold a scorer to the laws of its protocol; views are as the runtime would build them.

    Args:
        scorer: any scorer. Most laws show it views with what it declares in `needs`, and no more.
        claims: laws that it breaks on purpose, each with the reason. A claimed law that it keeps
            is an error too.
        examples: views tried per law.

    Raises:
        ConformanceError: a law is broken; the message shows the smallest view on which it is.
        ConfigError: `claims` names something that is not a law, or gives no reason.

    Example:
        >>> from skipkv.scorers import KeyNorm, Random
        >>> check_scorer(KeyNorm(), examples=5)
        >>> check_scorer(Random(), claims={"heads": "noise differs from head to head"}, examples=5)
    """
    hold_all(LAWS, scorer, claims, examples)
