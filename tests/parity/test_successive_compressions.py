"""Successive compressions with redundant sentences, cases m1 to m5 and m7 of the golden data.

At each step the cache holds what the published code kept and the tokens since. Its list of repeated
sentences goes into the sentence table as already known, so that parts see what it saw. Rows with
padding are left out: there the published code keeps the padding, which never enters a cache here.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from skipkv._types import CacheView, SentenceTable
from skipkv.evictors import SentencePrimary, TopK
from skipkv.scorers import KeyRedundancy, SentenceRedundancy, WindowAttention

WINDOW = 8
THRESHOLD = 0.95
STEPS = [
    (case, row, step)
    for case, rows, steps in [
        ("m1", [0], 3), ("m2", [0, 1], 3), ("m3", [0], 3), ("m4", [0], 2), ("m5", [0], 4),
        ("m7", [0], 3),
    ]
    for row in rows
    for step in range(steps)
]  # fmt: skip
IDS = [f"{case}-row{row}-step{step}" for case, row, step in STEPS]


class Step:
    """What one row's cache and sentences were at one published compression, and what came of it."""

    def __init__(
        self, tensors: dict[str, Tensor], meta: dict[str, Any], case: str, row: int, step: int
    ) -> None:
        def of(name: str, at: int = step) -> Tensor:
            return tensors[f"{case}.step{at}.{name}"]

        keys = tensors[f"{case}.K_all"][row].float()  # [H, T, D]
        heads, seen = keys.shape[0], meta["current_pos"][step]
        before = of("kept_global", step - 1)[row].long() if step else keys.new_empty(heads, 0)
        first = meta["current_pos"][step - 1] if step else 0
        new = torch.arange(first, seen).expand(heads, -1)
        positions = torch.cat([before.long(), new], dim=1)  # [H, L]
        assert positions.shape[1] == meta["kv_len"][step]

        self.budget: int = meta["budget"]
        self.direction: str = meta["retain_direction"]
        self.final = of("final")[row]
        self.kept = of("kept")[row].long()
        self.view = CacheView(
            keys=keys.gather(1, positions[..., None].expand(-1, -1, keys.shape[2]))[None],
            values=torch.zeros(1, *positions.shape, keys.shape[2]),
            positions=positions[None],
            protected=(positions >= seen - WINDOW)[None],
            seen=torch.tensor([seen]),
            sequences=torch.tensor([0]),
            queries=of("Q")[row].float().unflatten(0, (heads, -1))[None],
            sentences=[self._table(of, row)],
        )
        closed = self.view.sentence_ids[0, :, :-WINDOW]  # the published spans end at the window
        same = (closed[..., :, None] == self.view.sentence_ids[0][..., None, :]).sum(-1)
        self.alone = (same == 1) & (closed >= 0)
        """Entries before the window whose sentence has no other entry left in that head."""

    @staticmethod
    def _table(of: Callable[[str], Tensor], row: int) -> SentenceTable:
        completed = of("completed").long()
        spans = completed[completed[:, 0] == row][:, 1:]
        assert (spans[1:, 0] == spans[:-1, 1] + 1).all()
        assert spans[0, 0] == 0  # they partition the positions
        known = torch.zeros(len(spans))
        try:
            ranges, values = of("remove_ranges").long(), of("remove_values")
        except KeyError:  # nothing is repeated yet
            ranges, values = torch.empty(0, 3), torch.empty(0)
        for (where, start, _), value in zip(ranges.tolist(), values.tolist(), strict=True):
            if where == row:
                known[(spans[:, 0] == start).nonzero()[0]] = value
        return SentenceTable(
            ends=spans[:, 1] + 1,
            embeddings=torch.zeros(len(spans), 1),
            thoughts=torch.zeros(len(spans), dtype=torch.long),
            known={THRESHOLD: known},
        )

    def r_kv(self) -> Any:
        return 0.1 * WindowAttention(window=WINDOW) - 0.9 * KeyRedundancy(keep=self.direction)

    def skipkv(self) -> Any:
        return self.r_kv() - SentenceRedundancy(threshold=THRESHOLD)


@pytest.fixture
def at(golden: Any, meta: dict[str, Any]) -> Callable[[str, int, int], Step]:
    tensors = golden("skipkv_multi.safetensors")
    return lambda case, row, step: Step(tensors, meta["skipkv_multi"][case], case, row, step)


def slots(keep: Tensor) -> list[set[int]]:
    return [set(head.nonzero()[:, 0].tolist()) for head in keep]


def listed(kept: Tensor) -> list[set[int]]:
    return [set(head) for head in kept.tolist()]


def published_penalty(step: Step, case: str) -> Tensor:
    """The sentence penalty the published code subtracts: none from the last survivor of a sentence,
    and none in m7, where it has lost track of all sentences after the first compression."""
    penalty = SentenceRedundancy(threshold=THRESHOLD).score(step.view)[0, :, :-WINDOW]
    if case == "m7" and step.view.seen[0] > step.view.positions.shape[2]:
        return torch.zeros_like(penalty)
    return penalty.masked_fill(step.alone, 0.0)


@pytest.mark.parametrize(("case", "row", "number"), STEPS, ids=IDS)
def test_scores_equal_the_published_ones_but_for_last_survivors(
    at: Any, case: str, row: int, number: int
) -> None:
    """The published code spares the last survivor of a redundant sentence in a head; here it is
    redundant like the others. Everywhere else the scores are the same."""
    step = at(case, row, number)
    ours = step.skipkv().score(step.view)[0, :, :-WINDOW]
    penalty = SentenceRedundancy(threshold=THRESHOLD).score(step.view)[0, :, :-WINDOW]
    published = ours + penalty - published_penalty(step, case)
    torch.testing.assert_close(published, step.final, atol=1e-6, rtol=0)
    if case != "m7":
        torch.testing.assert_close(ours[~step.alone], step.final[~step.alone], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("case", "row", "number"), STEPS, ids=IDS)
def test_the_same_entries_are_kept_under_the_published_penalties(
    at: Any, case: str, row: int, number: int
) -> None:
    step = at(case, row, number)
    scores = step.r_kv().score(step.view)
    scores[0, :, :-WINDOW] -= published_penalty(step, case)
    keep = TopK().keep(scores, step.view, step.budget)
    assert slots(keep[0]) == listed(step.kept)


@pytest.mark.parametrize(("case", "row", "number"), STEPS, ids=IDS)
def test_skipkv_as_a_composition_keeps_what_was_published_but_for_last_survivors(
    at: Any, case: str, row: int, number: int
) -> None:
    step = at(case, row, number)
    keep = TopK().keep(step.skipkv().score(step.view), step.view, step.budget)
    penalty = SentenceRedundancy(threshold=THRESHOLD).score(step.view)[0, :, :-WINDOW]
    spared = (penalty != published_penalty(step, case)).any(dim=-1)  # in this head, some entry
    for head, (ours, theirs) in enumerate(zip(slots(keep[0]), listed(step.kept), strict=True)):
        if not spared[head]:
            assert ours == theirs
            continue
        # what we drop beyond theirs are spared entries, for as many others
        gone = theirs - ours
        assert len(gone) == len(ours - theirs)
        assert all(penalty[head, slot] > 0 for slot in gone)


@pytest.mark.parametrize(("case", "row", "number"), STEPS, ids=IDS)
def test_the_sentence_primary_rule_keeps_what_the_penalty_keeps(
    at: Any, case: str, row: int, number: int
) -> None:
    """The published rule by construction, and as a penalty near 1 on small scores: the same set."""
    step = at(case, row, number)
    scores = step.skipkv().score(step.view)
    by_penalty = TopK().keep(scores, step.view, step.budget)
    by_construction = SentencePrimary(threshold=THRESHOLD, whole=False)
    assert slots(by_construction.keep(scores, step.view, step.budget)[0]) == slots(by_penalty[0])


def test_the_golden_data_hold_last_survivors_and_repeated_sentences(at: Any) -> None:
    """Else the tests above would compare nothing of what they are for."""
    spared = repeated = 0
    for case, row, number in STEPS:
        step = at(case, row, number)
        penalty = SentenceRedundancy(threshold=THRESHOLD).score(step.view)[0, :, :-WINDOW]
        repeated += int((penalty > 0).sum())
        spared += int(((penalty > 0) & step.alone).sum())
    assert repeated > 100
    assert spared > 0


def test_m7_a_sentence_repeated_later_goes_though_all_before_it_are_gone(at: Any) -> None:
    """In the published code a head that has lost all its sentences never learns of new ones, so
    that the penalty on positions 77 to 84 is ignored. Here it counts."""
    step = at("m7", 0, 1)
    keep = TopK().keep(step.skipkv().score(step.view), step.view, step.budget)[0]
    positions = step.view.positions[0]
    repeated = (positions >= 77) & (positions <= 84)
    assert repeated.any(dim=-1).all()
    assert not (keep & repeated).any()
    theirs = torch.zeros_like(keep).scatter_(-1, step.kept, True)
    assert (theirs & repeated).any()
