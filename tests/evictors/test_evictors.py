"""What each evictor keeps, against loops that say it entry by entry."""

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView, SentenceTable
from skipkv.errors import ConfigError
from skipkv.evictors import KeepAll, SentencePrimary, SinkAndRecent, TopK, WholeSentence
from skipkv.testing.strategies import budgets, cache_views, scores


@attrs.frozen
class Entry:
    slot: int
    position: int
    score: float
    protected: bool
    sentence: int
    redundant: bool


def heads_of(view: CacheView, values: torch.Tensor) -> Iterator[tuple[int, int, list[Entry]]]:
    """The entries of every row and head, in order."""
    for r, h in torch.cartesian_prod(*map(torch.arange, view.positions.shape[:2])).tolist():
        table = None if view.sentences is None else view.sentences[int(view.sequences[r])]
        entries = []
        for slot, position in enumerate(view.positions[r, h].tolist()):
            if position < 0:
                continue
            sentence = -1
            redundant = False
            if table is not None and len(table) and position < int(table.ends[-1]):
                sentence = sum(end <= position for end in table.ends.tolist())
                redundant = bool(
                    (table.embeddings[sentence + 1 :] @ table.embeddings[sentence] > 0.95).any()
                )
            entries.append(
                Entry(
                    slot,
                    position,
                    float(values[r, h, slot]),
                    bool(view.protected[r, h, slot]),
                    sentence,
                    redundant,
                )
            )
        yield r, h, entries


def best(entries: list[Entry], count: int) -> set[int]:
    """Slots of the best; of equal ones the earlier."""
    ranked = sorted(entries, key=lambda entry: (-entry.score, entry.slot))
    return {entry.slot for entry in ranked[: max(count, 0)]}


def assert_kept(
    keep: torch.Tensor, view: CacheView, values: torch.Tensor, rule: Any, budget: int
) -> None:
    for r, h, entries in heads_of(view, values):
        kept = set(keep[r, h].nonzero()[:, 0].tolist())
        assert kept == rule(entries, budget), f"row {r}, head {h}"


def top_k(entries: list[Entry], budget: int) -> set[int]:
    protected = {entry.slot for entry in entries if entry.protected}
    others = [entry for entry in entries if not entry.protected]
    return protected | best(others, budget - len(protected))


@settings(max_examples=60, deadline=None)
@given(view=cache_views(), data=st.data())
def test_top_k_keeps_the_protected_and_the_best(view: CacheView, data: Any) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    assert_kept(TopK().keep(values, view, budget), view, values, top_k, budget)


def test_every_float_has_its_place() -> None:
    values = [-3.4e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 1.0, 1.0000001, 3.4e38]
    ordered = torch.tensor(values)[None, None]
    view = plain_view(ordered.shape[-1])
    for budget in range(1, len(values)):
        kept = TopK().keep(ordered, view, budget)[0, 0].tolist()
        # of the two zeros, which are equal, the earlier; the second has its place below it
        best_last = [0, 1, 2, 4, 3, 5, 6, 7, 8]
        assert {slot for slot, stays in enumerate(kept) if stays} == set(best_last[-budget:])


def plain_view(slots: int) -> CacheView:
    return CacheView(
        keys=torch.zeros(1, 1, slots, 1),
        values=torch.zeros(1, 1, slots, 1),
        positions=torch.arange(slots)[None, None],
        protected=torch.zeros(1, 1, slots, dtype=torch.bool),
        seen=torch.tensor([slots]),
        sequences=torch.tensor([0]),
    )


@settings(max_examples=20, deadline=None)
@given(view=cache_views(), data=st.data())
def test_keep_all_keeps_all(view: CacheView, data: Any) -> None:
    keep = KeepAll().keep(data.draw(scores(view)), view, data.draw(budgets(view)))
    assert torch.equal(keep, view.occupied)


@settings(max_examples=60, deadline=None)
@given(view=cache_views(), data=st.data(), sinks=st.integers(0, 4))
def test_sinks_come_first_and_the_newest_fill_the_budget(
    view: CacheView, data: Any, sinks: int
) -> None:
    def rule(entries: list[Entry], budget: int) -> set[int]:
        kept = [entry for entry in entries if entry.protected]
        kept += [entry for entry in entries if entry.position < sinks and entry not in kept]
        kept += [entry for entry in reversed(entries) if entry not in kept]
        return {entry.slot for entry in kept[:budget]}

    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = SinkAndRecent(sinks=sinks).keep(values, view, budget)
    assert_kept(keep, view, values, rule, budget)


def test_a_negative_number_of_sinks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SinkAndRecent\(sinks=-1\) must be at least 0"):
        SinkAndRecent(sinks=-1)


def sentence_primary(entries: list[Entry], budget: int) -> set[int]:
    """Redundant sentences whole, then the rest token by token."""
    kept = list(entries)
    redundant: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.redundant and not entry.protected:
            redundant.setdefault(entry.sentence, []).append(entry)
    mean = {s: sum(e.score for e in es) / len(es) for s, es in redundant.items()}
    for sentence in sorted(redundant, key=lambda s: (mean[s], s)):
        if len(kept) <= budget:
            break
        kept = [entry for entry in kept if entry not in redundant[sentence]]
    return top_k(kept, budget)


@settings(max_examples=150, deadline=None)
@given(view=cache_views(sentences=True), data=st.data())
def test_redundant_sentences_go_whole_and_only_then_single_entries(
    view: CacheView, data: Any
) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = SentencePrimary(threshold=0.95).keep(values, view, budget)
    assert_kept(keep, view, values, sentence_primary, budget)


@settings(max_examples=150, deadline=None)
@given(view=cache_views(sentences=True), data=st.data())
def test_by_the_published_rule_redundant_entries_go_one_by_one_before_all_others(
    view: CacheView, data: Any
) -> None:
    def rule(entries: list[Entry], budget: int) -> set[int]:
        kept = {entry.slot for entry in entries if entry.protected}
        for redundant in (False, True):
            group = [e for e in entries if e.redundant == redundant and not e.protected]
            kept |= best(group, budget - len(kept))
        return kept

    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = SentencePrimary(threshold=0.95, whole=False).keep(values, view, budget)
    assert_kept(keep, view, values, rule, budget)


@pytest.mark.parametrize("whole", [True, False])
@settings(max_examples=100, deadline=None)
@given(view=cache_views(sentences=True), data=st.data())
def test_nothing_outside_the_redundant_sentences_goes_while_something_inside_remains(
    whole: bool, view: CacheView, data: Any
) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = SentencePrimary(threshold=0.95, whole=whole).keep(values, view, budget)
    for r, h, entries in heads_of(view, values):
        free = [entry for entry in entries if not entry.protected]
        outside_gone = any(not e.redundant and not keep[r, h, e.slot] for e in free)
        inside_left = any(e.redundant and keep[r, h, e.slot] for e in free)
        assert not (outside_gone and inside_left)


@pytest.mark.parametrize("threshold", [0, 1, -0.5])
def test_a_threshold_that_is_no_similarity_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"SentencePrimary\(threshold=.*must lie in \(0, 1\)"):
        SentencePrimary(threshold=threshold)


def test_the_worth_of_a_sentence_is_that_of_the_entries_that_may_go() -> None:
    """Protected entries, whose scores mean nothing (a window's are 0), do not count in its mean."""
    view = view_of([2, 4, 5], 5, protected=[0])
    table = attrs.evolve(view.sentences[0], embeddings=torch.ones(3, 1))  # the last repeats both
    view = attrs.evolve(view, sentences=[table])
    values = torch.tensor([[[9.0, 1, 2, 2, 0]]])
    keep = SentencePrimary().keep(values, view, 4)
    assert keep[0, 0].tolist() == [True, False, True, True, True]


def by_sentence(entries: list[Entry]) -> dict[int, list[Entry]]:
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.sentence, []).append(entry)
    return groups


def ranked(entries: list[Entry]) -> list[list[Entry]]:
    """Unprotected entries of each closed sentence that has some, the best sentence first."""
    found = []
    for sentence, group in by_sentence(entries).items():
        free = [entry for entry in group if not entry.protected]
        if sentence >= 0 and free:
            mean = sum(entry.score for entry in free) / len(free)
            found.append((len(free) == len(group), -mean, sentence, free))
    return [free for *_, free in sorted(found, key=lambda one: one[:3])]


def whole_sentence(entries: list[Entry], budget: int) -> set[int]:
    kept = {entry.slot for entry in entries if entry.protected}
    room = budget - len(kept)
    kept |= best([e for e in entries if e.sentence < 0 and not e.protected], room)
    for sentence in ranked(entries):
        if len(sentence) <= budget - len(kept):
            kept |= {entry.slot for entry in sentence}
    for sentence in ranked(entries):
        if len(sentence) > room:
            kept |= best(sentence, budget - len(kept))
            break
    return kept


@settings(max_examples=200, deadline=None)
@given(view=cache_views(sentences=True), data=st.data())
def test_sentences_are_taken_in_turn_if_they_fit_whole(view: CacheView, data: Any) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = WholeSentence().keep(values, view, budget)
    assert_kept(keep, view, values, whole_sentence, budget)


@settings(max_examples=200, deadline=None)
@given(view=cache_views(sentences=True), data=st.data())
def test_a_closed_sentence_is_kept_whole_or_dropped_but_for_what_is_protected(
    view: CacheView, data: Any
) -> None:
    """Except, in each row and head, the best of those with more entries than the whole room."""
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = WholeSentence().keep(values, view, budget)
    for r, h, entries in heads_of(view, values):
        room = budget - sum(entry.protected for entry in entries)
        too_long = [sentence for sentence in ranked(entries) if len(sentence) > room]
        for sentence in ranked(entries):
            kept = sum(bool(keep[r, h, entry.slot]) for entry in sentence)
            assert kept in (0, len(sentence)) or sentence == too_long[0]


@settings(max_examples=100, deadline=None)
@given(view=cache_views(sentences=True), data=st.data())
def test_less_is_left_unused_than_any_dropped_sentence_would_need(
    view: CacheView, data: Any
) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    keep = WholeSentence().keep(values, view, budget)
    for r, h, entries in heads_of(view, values):
        unused = budget - int(keep[r, h].sum())
        for sentence in ranked(entries):
            assert len(sentence) > unused or any(keep[r, h, entry.slot] for entry in sentence)


@settings(max_examples=50, deadline=None)
@given(view=cache_views(), data=st.data())
def test_a_stream_without_delimiters_uses_its_whole_budget(view: CacheView, data: Any) -> None:
    values, budget = data.draw(scores(view)), data.draw(budgets(view))
    tables = [SentenceTable.empty(4)] * (int(view.sequences.max()) + 1)
    view = attrs.evolve(view, sentences=tables)
    keep = WholeSentence().keep(values, view, budget)
    assert torch.equal(keep, TopK().keep(values, view, budget))


def view_of(ends: list[int], seen: int, protected: list[int] | None = None) -> CacheView:
    """One row and head that holds all tokens of a sequence with sentences up to `ends`."""
    mask = torch.zeros(1, 1, seen, dtype=torch.bool)
    mask[..., protected or []] = True
    return CacheView(
        keys=torch.zeros(1, 1, seen, 1),
        values=torch.zeros(1, 1, seen, 1),
        positions=torch.arange(seen)[None, None],
        protected=mask,
        seen=torch.tensor([seen]),
        sequences=torch.tensor([0]),
        sentences=[
            SentenceTable(
                ends=torch.tensor(ends),
                embeddings=torch.eye(len(ends)),
                thoughts=torch.zeros(len(ends), dtype=torch.long),
            )
        ],
    )


def kept(values: list[float], view: CacheView, budget: int) -> list[int]:
    keep = WholeSentence().keep(torch.tensor([[values]], dtype=torch.float32), view, budget)
    return keep[0, 0].nonzero()[:, 0].tolist()


def test_one_sentence_longer_than_the_budget_gives_its_best_entries() -> None:
    assert kept([1, 5, 2, 4, 3, 0], view_of([6], 6), 3) == [1, 3, 4]


def test_the_open_sentence_comes_before_better_closed_ones() -> None:
    view = view_of([2, 4], 6)
    assert kept([9, 9, 8, 8, 0, 0], view, 5) == [0, 1, 4, 5]
    assert kept([9, 9, 8, 8, 0, 1], view, 1) == [5]


def test_a_sentence_with_a_protected_entry_comes_before_better_ones() -> None:
    assert kept([0, 0, 9, 9], view_of([2, 4], 4, protected=[0]), 3) == [0, 1]
    assert kept([0, 0, 9, 9], view_of([2, 4], 4, protected=[0]), 2) == [0, 1]


def test_of_sentences_with_protected_entries_the_one_whose_others_are_best_comes_first() -> None:
    assert kept([9, 1, 0, 2], view_of([2, 4], 4, protected=[0, 2]), 3) == [0, 2, 3]


def test_a_sentence_that_does_not_fit_makes_way_for_a_lesser_one_that_does() -> None:
    assert kept([5, 5, 5, 3, 3, 3, 1], view_of([3, 6, 7], 7), 4) == [0, 1, 2, 6]
