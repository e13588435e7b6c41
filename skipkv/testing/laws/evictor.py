"""The laws of evictors."""

from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from skipkv._types import CacheView
from skipkv.evictors import Evictor
from skipkv.evictors.protocol import most_of, pools_heads
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
from skipkv.testing.laws.scorer import SEVERAL, one_row
from skipkv.testing.laws.shown import shown
from skipkv.testing.strategies import budgets, scores, views_for


def _drawn(case: Case, views: Any) -> tuple[CacheView, Tensor, int]:
    view = case.draw("view", views)
    values = case.draw("scores", scores(view))
    return view, values, case.draw("budget", budgets(view))


def _choosing(case: Case, views: Any) -> tuple[CacheView, Tensor, int]:
    """The same, with a budget that some head exceeds, so that something must go, if possible."""
    view = case.draw("view", views)
    values = case.draw("scores", scores(view))
    least = max(1, int(view.protected.sum(dim=-1).max()))
    most = max(least, int(view.occupied.sum(dim=-1).max()) - 1)
    return view, values, case.draw("budget", st.integers(least, most))


def _first(wrong: Tensor) -> list[int]:
    return list(wrong.nonzero()[0].tolist())


def _needs(evictor: Any, case: Case) -> None:
    view, values, budget = _choosing(case, full_views(evictor))
    everywhere = torch.ones_like(view.occupied)

    def ask(shown_view: CacheView) -> Tensor:
        keep: Tensor = evictor.keep(values, shown_view, budget)
        return keep

    check_needs(evictor, view, everywhere, "keep", ask)


def _answer(evictor: Any, case: Case) -> None:
    view, values, budget = _drawn(case, full_views(evictor))
    keep = evictor.keep(values, view, budget)
    check_tensor(keep, "[R, H, L]", view.positions, torch.bool, "keep")


def _budget(evictor: Any, case: Case) -> None:
    view, values, budget = _drawn(case, views_for(evictor))
    kept = (evictor.keep(values, view, budget) & view.occupied).sum(dim=-1)
    most, whole = most_of(evictor, budget), budget * kept.shape[1]
    if most < budget:
        raise Broken(f"most_per_head({budget}) is {most}, and must be at least the budget.")
    if (kept > most).any():
        place = _first(kept > most)
        raise Broken(f"{int(kept[tuple(place)])} entries kept in row and head {place}.")
    if (kept.sum(dim=1) > whole).any():
        [row] = _first(kept.sum(dim=1) > whole)
        raise Broken(f"{int(kept[row].sum())} entries kept in row {row}, of {whole} for its heads.")


def _only_entries(evictor: Any, case: Case) -> None:
    view, values, budget = _drawn(case, views_for(evictor))
    wrong = evictor.keep(values, view, budget) & ~view.occupied
    if wrong.any():
        raise Broken(f"the empty slot {_first(wrong)} was kept.")


def _protected(evictor: Any, case: Case) -> None:
    view, values, budget = _drawn(case, views_for(evictor))
    keep = evictor.keep(values, view, budget)
    wrong = view.protected & ~keep
    if wrong.any():
        raise Broken(f"the protected entry at {_first(wrong)} was dropped; kept: {shown(keep)}.")


def _room(evictor: Any, case: Case) -> None:
    view, values, budget = _drawn(case, views_for(evictor))
    held = view.occupied.sum(dim=-1, keepdim=True)
    roomy = held <= most_of(evictor, budget)
    if pools_heads(evictor):
        heads = view.occupied.shape[1]
        within = held.sum(dim=1, keepdim=True) <= heads * budget
        roomy = (roomy.all(dim=1, keepdim=True) & within).expand_as(held)
    wrong = roomy & view.occupied & ~evictor.keep(values, view, budget)
    if wrong.any():
        raise Broken(f"the entry at {_first(wrong)} was dropped, and its head had room for all.")


def _deterministic(evictor: Any, case: Case) -> None:
    view, values, budget = _choosing(case, views_for(evictor))
    before = evictor.keep(values, view, budget).clone()
    other = case.draw("other view, shown in between", views_for(evictor))
    evictor.keep(torch.zeros(other.positions.shape), other, other.positions.shape[2])
    again = evictor.keep(values, view, budget)
    check_same(before, again, torch.ones_like(before), "asked a second time")


def _pure(evictor: Any, case: Case) -> None:
    view, values, budget = _drawn(case, full_views(evictor))
    before, given = snapshot(view), values.clone()
    evictor.keep(values, view, budget)
    check_unchanged(view, before, "keep")
    if not torch.equal(values, given):
        raise Broken(f"keep changed the scores in place to {shown(values)}.")


def _rows(evictor: Any, case: Case) -> None:
    view, values, budget = _choosing(case, views_for(evictor, rows=SEVERAL))
    rows = case.draw("row", one_row(view.seen.shape[0]))
    found = evictor.keep(values[rows], alone(view, rows), budget)
    expected = evictor.keep(values, view, budget)[rows]
    check_same(expected, found, torch.ones_like(found), "with that row alone in the view")


def _heads(evictor: Any, case: Case) -> None:
    view, values, budget = _choosing(case, views_for(evictor, heads=SEVERAL))
    heads = case.draw("heads, in this order", st.permutations(range(view.positions.shape[1])))
    permuted = evictor.keep(values[:, heads], heads_of(view, heads), budget)
    expected = evictor.keep(values, view, budget)[:, heads]
    check_same(expected, permuted, torch.ones_like(permuted), "with the heads in that order")


def _empty_slots(evictor: Any, case: Case) -> None:
    view, values, budget = _choosing(case, views_for(evictor))
    more = case.draw("more empty slots", st.integers(0, 4))
    size = case.draw("what empty slots hold", st.sampled_from([100.0, 3e38]))
    other = with_other_empty_slots(view, more, size)
    noisy = torch.nn.functional.pad(values, (0, more)).masked_fill(~other.occupied, torch.nan)
    changed = evictor.keep(noisy, other, budget)[..., : view.positions.shape[2]]
    expected = evictor.keep(values, view, budget)
    check_same(expected, changed, view.occupied, "with other empty slots, scored NaN")


LAWS = (
    protocol_law(Evictor, "the evictor"),
    Law(
        name="answer",
        says="keep returns bool [R, H, L]: for every slot whether it stays.",
        why="the cache is compacted by it, slot by slot.",
        check=_answer,
        basic=True,
    ),
    Law(
        name="pure",
        says="keep changes neither the view nor the scores.",
        why="the tensors of a view may be the cache itself.",
        check=_pure,
        basic=True,
    ),
    Law(
        name="needs",
        says="An evictor reads nothing that its attribute `needs` does not declare.",
        why="the runtime records only what is declared; everything else is None, unless another "
        "part happens to declare it.",
        check=_needs,
        basic=True,
    ),
    Law(
        name="budget",
        says="At most `budget` entries of every row and head are kept; of an evictor with a method "
        "`most_per_head(budget)`, at most that many of a head and `H * budget` of a row.",
        why="it is what bounds the memory. The runtime ends such a sequence with an error.",
        check=_budget,
    ),
    Law(
        name="only entries",
        says="No empty slot is kept.",
        why="the model would attend to the contents of an empty slot as to a token.",
        check=_only_entries,
    ),
    Law(
        name="protected",
        says="Every entry of view.protected is kept.",
        why="the user asked for window, sinks or prompt; and scorers do not score the window.",
        check=_protected,
    ),
    Law(
        name="room",
        says="A row and head with no more entries than `budget` keeps all of them; where heads "
        "share their budgets, a row with no more than `H * budget`, and `most_per_head(budget)` in "
        "a head.",
        why="under a budget above its length a generation must equal that of the full cache; and "
        "rows with few entries come in one view with full ones.",
        check=_room,
    ),
    Law(
        name="deterministic",
        says="The same scores and view get the same answer, whatever was asked before.",
        why="one part serves all sequences, so state in it changes later sequences; a generation "
        "could not be repeated.",
        check=_deterministic,
    ),
    Law(
        name="rows",
        says="What is kept of a row depends on that row alone.",
        why="rows of a view are other layers and other users' sequences: an answer must not "
        "depend on the sequences decoded with it.",
        check=_rows,
    ),
    Law(
        name="heads",
        says="With the heads of a row in another order, the answer is in that order.",
        why="heads have no order; an evictor that depends on one fits a single checkpoint.",
        check=_heads,
    ),
    Law(
        name="empty slots",
        says="The contents, the scores and the number of empty slots change nothing.",
        why="empty slots hold what evicted entries left there, and their number depends on the "
        "longest row of the batch; scorers may give them any value, even NaN.",
        check=_empty_slots,
    ),
)


def check_evictor(
    evictor: Evictor, *, claims: Mapping[str, str] | None = None, examples: int = 50
) -> None:
    """Hold an evictor to the laws of its protocol; views are as the runtime would build them.

    Args:
        evictor: any evictor. Most laws show it views with what it declares in `needs`, and no
            more.
        claims: laws that it breaks on purpose, each with the reason. A claimed law that it keeps
            is an error too.
        examples: views tried per law.

    Raises:
        ConformanceError: a law is broken; the message shows the smallest case in which it is.
        ConfigError: `claims` names something that is not a law, or gives no reason.

    Example:
        >>> from skipkv.evictors import KeepAll, TopK
        >>> check_evictor(TopK(), examples=5)
        >>> check_evictor(KeepAll(), claims={"budget": "it is the full cache"}, examples=50)
    """
    hold_all(LAWS, evictor, claims, examples)
