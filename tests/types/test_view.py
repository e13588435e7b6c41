"""What a view tells of sentences and of the window, against loops over rows, heads and slots."""

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv._types import CacheView, SentenceTable

modest = settings(max_examples=80, deadline=None)


def table_of(lengths: list[int]) -> SentenceTable:
    return SentenceTable(
        ends=torch.tensor(lengths, dtype=torch.long).cumsum(0),
        embeddings=torch.zeros(len(lengths), 2),
        thoughts=torch.zeros(len(lengths), dtype=torch.long),
    )


@st.composite
def views(draw: st.DrawFn) -> tuple[CacheView, list[list[int]]]:
    """A view of some rows of some sequences, and the lengths of the sequences' closed sentences."""
    sequences = draw(st.integers(1, 3))
    lengths = [draw(st.lists(st.integers(1, 4), max_size=5)) for _ in range(sequences)]
    seen = [max(1, sum(closed) + draw(st.integers(0, 3))) for closed in lengths]
    heads, slots = draw(st.integers(1, 2)), draw(st.integers(1, 8))
    rows = draw(st.lists(st.integers(0, sequences - 1), min_size=1, max_size=5))
    positions = torch.full((len(rows), heads, slots), -1)
    for row, sequence in enumerate(rows):
        for head in range(heads):
            held = draw(st.sets(st.integers(0, seen[sequence] - 1), max_size=slots))
            positions[row, head, : len(held)] = torch.tensor(sorted(held), dtype=torch.long)
    view = CacheView(
        keys=torch.zeros(*positions.shape, 2),
        values=torch.zeros(*positions.shape, 2),
        positions=positions,
        protected=torch.zeros(positions.shape, dtype=torch.bool),
        seen=torch.tensor([seen[sequence] for sequence in rows]),
        sequences=torch.tensor(rows),
        sentences=[table_of(closed) for closed in lengths],
    )
    return view, lengths


def sentence_at(position: int, lengths: list[int]) -> int:
    start = 0
    for sentence, length in enumerate(lengths):
        if start <= position < start + length:
            return sentence
        start += length
    return -1


def looped(view: CacheView, value: object) -> list[object]:
    """`value(sequence, position)` at every slot, by loops over rows, heads and slots."""
    return [
        [[value(int(sequence), int(p)) for p in head] for head in row]  # type: ignore[operator]
        for sequence, row in zip(view.sequences, view.positions, strict=True)
    ]


@modest
@given(drawn=views())
def test_sentence_ids_are_those_a_loop_finds(drawn: tuple[CacheView, list[list[int]]]) -> None:
    view, lengths = drawn
    assert view.sentence_ids.tolist() == looped(view, lambda s, p: sentence_at(p, lengths[s]))


@modest
@given(drawn=views())
def test_each_entry_gets_the_value_of_its_sentence_and_others_zero(
    drawn: tuple[CacheView, list[list[int]]],
) -> None:
    view, lengths = drawn
    values = [10.0 * s + torch.arange(1, len(closed) + 1) for s, closed in enumerate(lengths)]

    def value(sequence: int, position: int) -> float:
        sentence = sentence_at(position, lengths[sequence])
        return 0.0 if sentence < 0 else float(values[sequence][sentence])

    assert view.per_entry(values).tolist() == looped(view, value)


@modest
@given(drawn=views(), window=st.integers(0, 5))
def test_the_window_holds_the_entries_of_the_most_recent_tokens(
    drawn: tuple[CacheView, list[list[int]]], window: int
) -> None:
    view, _ = drawn
    expected = [
        [[p >= 0 and p >= int(seen) - window for p in head.tolist()] for head in row]
        for seen, row in zip(view.seen, view.positions, strict=True)
    ]
    assert view.within_window(window).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_any_float_are_spread_as_float32(dtype: torch.dtype) -> None:
    view = one_row(torch.tensor([[[0, 1, 2, -1]]]), [table_of([2])])
    spread = view.per_entry([torch.tensor([0.5], dtype=dtype)])
    assert spread.dtype == torch.float32
    assert spread.tolist() == [[[0.5, 0.5, 0.0, 0.0]]]


def test_positions_may_be_narrow() -> None:
    view = one_row(torch.tensor([[[0, 1, 2, -1]]], dtype=torch.int32), [table_of([2])])
    assert view.sentence_ids.tolist() == [[[0, 0, -1, -1]]]
    assert view.per_entry([torch.tensor([2.0])]).tolist() == [[[2, 2, 0, 0]]]


def test_ends_may_be_narrow() -> None:
    table = table_of([1, 1])
    narrow = attrs.evolve(table, ends=table.ends.int())
    view = one_row(torch.tensor([[[0, 1, 2, -1]]]), [narrow, narrow])
    second = attrs.evolve(view, sequences=torch.tensor([1], dtype=torch.int32))
    assert second.sentence_ids.tolist() == view.sentence_ids.tolist() == [[[0, 1, -1, -1]]]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0]])
def test_values_must_be_as_many_as_sentences(values: list[float]) -> None:
    view = one_row(torch.tensor([[[0, 1, 2, -1]]]), [table_of([1, 1])])
    with pytest.raises(ValueError, match=r"\[2\] for its sequences, got \["):
        view.per_entry([torch.tensor(values)])
    with pytest.raises(ValueError, match=r"\[2\] for its sequences, got \[\]"):
        view.per_entry([])


def test_reading_sentences_that_nobody_recorded_says_how_to_ask_for_them() -> None:
    view = one_row(torch.tensor([[[0]]]), None)
    with pytest.raises(ValueError, match=r"needs = Needs\(sentences=True\)"):
        _ = view.sentence_ids


def one_row(positions: torch.Tensor, sentences: list[SentenceTable] | None) -> CacheView:
    return CacheView(
        keys=torch.zeros(*positions.shape, 1),
        values=torch.zeros(*positions.shape, 1),
        positions=positions,
        protected=positions < -1,
        seen=torch.tensor([3]),
        sequences=torch.tensor([0]),
        sentences=sentences,
    )
