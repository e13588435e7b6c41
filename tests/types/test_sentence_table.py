"""The sentence table against the definitions, written out as loops."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipkv._types import SentenceTable

modest = settings(max_examples=80, deadline=None)
THRESHOLDS = (0.5, 0.9, 0.95)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@st.composite
def embedding_rows(draw: st.DrawFn, max_sentences: int = 14) -> Tensor:
    """Unit vectors about few topics, so that many sentences repeat others more or less closely.

    In the plane, at angles whose cosines are at least 0.005 away from every threshold in use, so
    that rounding moves no similarity across one.
    """
    degrees = st.sampled_from([0, 3, 10, 15, 40, 90, 180, 200])
    angles = torch.tensor(draw(st.lists(degrees, max_size=max_sentences)), dtype=torch.float64)
    return torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], dim=-1)


def table_of(embeddings: Tensor, lengths: list[int] | None = None) -> SentenceTable:
    count = len(embeddings)
    ends = torch.tensor(lengths or [2] * count, dtype=torch.long).cumsum(0)[:count]
    return SentenceTable(
        ends=ends, embeddings=embeddings, thoughts=torch.zeros(count, dtype=torch.long)
    )


def split(embeddings: Tensor, cuts: list[int]) -> list[Tensor]:
    bounds = [0, *sorted(min(cut, len(embeddings)) for cut in cuts), len(embeddings)]
    return [embeddings[a:b] for a, b in pairwise(bounds)]


def extended(table: SentenceTable, embeddings: Tensor) -> SentenceTable:
    start = int(table.ends[-1]) if len(table) else 0
    count = len(embeddings)
    return table.extended(
        ends=start + 2 * torch.arange(1, count + 1),
        embeddings=embeddings,
        thoughts=torch.zeros(count, dtype=torch.long),
    )


def redundancy_by_definition(embeddings: Tensor, threshold: float) -> list[float]:
    """Of each sentence, the similarity to the last later one above the threshold; else 0."""
    rows = embeddings.double()
    values = []
    for earlier in range(len(rows)):
        value = 0.0
        for later in range(earlier + 1, len(rows)):
            similarity = float(sum(a * b for a, b in zip(rows[earlier], rows[later], strict=True)))
            if similarity > threshold:
                value = similarity
        values.append(value)
    return values


@modest
@given(
    embeddings=embedding_rows(),
    cuts=st.lists(st.integers(0, 14), max_size=4),
    threshold=st.sampled_from(THRESHOLDS),
    dtype=st.sampled_from(DTYPES),
)
def test_redundancy_is_what_the_definition_says_however_the_table_grew(
    embeddings: Tensor, cuts: list[int], threshold: float, dtype: torch.dtype
) -> None:
    embeddings = embeddings.to(dtype)
    table = table_of(embeddings[:0])
    for part in split(embeddings, cuts):
        table = extended(table, part)
        table.redundancy(threshold)
    found = table.redundancy(threshold)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(
        redundancy_by_definition(embeddings, threshold), abs=1e-5
    )


@modest
@given(embeddings=embedding_rows(), cuts=st.lists(st.integers(0, 14), max_size=3))
def test_asking_only_at_the_end_gives_the_same_as_asking_at_every_step(
    embeddings: Tensor, cuts: list[int]
) -> None:
    asked = silent = table_of(embeddings[:0].float())
    for part in split(embeddings.float(), cuts):
        asked, silent = extended(asked, part), extended(silent, part)
        asked.redundancy(0.9)
    torch.testing.assert_close(asked.redundancy(0.9), silent.redundancy(0.9))


@modest
@given(embeddings=embedding_rows(), cuts=st.lists(st.integers(0, 14), max_size=4))
def test_a_redundant_sentence_stays_redundant(embeddings: Tensor, cuts: list[int]) -> None:
    table = table_of(embeddings[:0].float())
    redundant: set[int] = set()
    for part in split(embeddings.float(), cuts):
        table = extended(table, part)
        now = set(table.redundancy(0.9).nonzero()[:, 0].tolist())
        assert redundant <= now
        redundant = now


@modest
@given(embeddings=embedding_rows(), threshold=st.sampled_from(THRESHOLDS))
def test_the_last_sentence_is_never_redundant(embeddings: Tensor, threshold: float) -> None:
    found = table_of(embeddings.float()).redundancy(threshold)
    assert (found[-1:] == 0).all()


@modest
@given(embeddings=embedding_rows(), cuts=st.lists(st.integers(0, 14), max_size=3))
def test_two_thresholds_do_not_disturb_each_other(embeddings: Tensor, cuts: list[int]) -> None:
    both = one = table_of(embeddings[:0].float())
    for step, part in enumerate(split(embeddings.float(), cuts)):
        both, one = extended(both, part), extended(one, part)
        one.redundancy(0.95)
        both.redundancy(0.5)
        if step % 2:
            both.redundancy(0.95)
    assert torch.equal(both.redundancy(0.95), one.redundancy(0.95))


def test_an_older_table_knows_nothing_of_what_was_added_to_it() -> None:
    row = torch.tensor([[1.0, 0.0]])
    old = table_of(row)
    assert old.redundancy(0.9).tolist() == [0.0]
    new = extended(old, row)
    assert new.redundancy(0.9).tolist() == [1.0, 0.0]
    assert old.redundancy(0.9).tolist() == [0.0]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_was_compared_once_is_not_compared_again(threshold: float) -> None:
    embeddings = torch.tensor([[1.0, 0.0]] * 3)
    table = table_of(embeddings)
    assert table.redundancy(threshold).tolist() == [1.0, 1.0, 0.0]
    embeddings.zero_()  # comparing again would find nothing
    assert table.redundancy(threshold).tolist() == [1.0, 1.0, 0.0]
    longer = extended(table, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert longer.redundancy(threshold).tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]


def test_writing_into_the_answer_does_not_change_the_next_one() -> None:
    table = table_of(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    table.redundancy(0.9).zero_()
    assert table.redundancy(0.9).tolist() == [1.0, 0.0]


def test_similarities_are_compared_in_float32_whatever_the_embeddings_are_in() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 512, generator=generator)
    rows = torch.nn.functional.normalize(rows[:1] + 0.15 * rows, dim=-1).bfloat16()
    exact = redundancy_by_definition(rows, 0.5)
    assert table_of(rows).redundancy(0.5).tolist() == pytest.approx(exact, abs=1e-6)


@modest
@given(
    lengths=st.lists(st.integers(1, 4), max_size=6),
    positions=st.lists(st.integers(-1, 30), min_size=1, max_size=12),
    dtype=st.sampled_from([torch.int32, torch.int64]),
)
def test_a_position_lies_in_the_sentence_a_loop_finds(
    lengths: list[int], positions: list[int], dtype: torch.dtype
) -> None:
    table = table_of(torch.zeros(len(lengths), 2), lengths)
    expected = []
    for position in positions:
        start, found = 0, -1
        for sentence, length in enumerate(lengths):
            if start <= position < start + length:
                found = sentence
            start += length
        expected.append(found)
    grid = torch.tensor(positions, dtype=dtype).reshape(1, -1)
    found_ids = table.sentence_of(grid)
    assert found_ids.dtype == dtype
    assert found_ids.tolist() == [expected]


def test_positions_need_not_lie_side_by_side_in_memory() -> None:
    table = table_of(torch.zeros(2, 2), [2, 2])
    assert table.sentence_of(torch.arange(6).reshape(3, 2).T).tolist() == [[0, 1, -1], [0, 1, -1]]


def test_a_table_of_no_sentence_holds_nothing() -> None:
    table = SentenceTable.empty(5)
    assert len(table) == 0
    assert table.embeddings.shape == (0, 5)
    assert table.redundancy(0.9).shape == (0,)
    assert table.sentence_of(torch.tensor([[0, 7, -1]])).tolist() == [[-1, -1, -1]]


def test_a_table_of_one_sentence_has_nothing_redundant() -> None:
    table = extended(SentenceTable.empty(2), torch.tensor([[1.0, 0.0]]))
    assert len(table) == 1
    assert table.redundancy(0.0).tolist() == [0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_table_can_be_extended_in_any_dtype(dtype: torch.dtype) -> None:
    table = extended(SentenceTable.empty(2), torch.tensor([[1.0, 0.0]] * 2, dtype=dtype))
    assert table.redundancy(0.9).tolist() == [1.0, 0.0]


def test_extending_keeps_what_was_there_and_adds_behind() -> None:
    table = table_of(torch.eye(2)).extended(
        ends=torch.tensor([9]), embeddings=torch.ones(1, 2), thoughts=torch.tensor([2])
    )
    assert table.ends.tolist() == [2, 4, 9]
    assert table.embeddings.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert table.thoughts.tolist() == [0, 0, 2]


def test_sentences_that_begin_in_the_prompt_can_be_left_out() -> None:
    same = torch.tensor([1.0, 0.0])
    table = SentenceTable.empty(hidden_size=2, prompt=5).extended(
        ends=torch.tensor([3, 6, 8, 9]),
        embeddings=same.expand(4, 2),
        thoughts=torch.zeros(4, dtype=torch.long),
    )
    assert table.redundancy(0.9).tolist() == [1.0, 1.0, 1.0, 0.0]
    # the second begins at position 3, the prompt's last token but one
    assert table.redundancy(0.9, prompt=False).tolist() == [0.0, 0.0, 1.0, 0.0]
    assert table.redundancy(0.9).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert table.extended(table.ends[:0], table.embeddings[:0], table.thoughts[:0]).prompt == 5
