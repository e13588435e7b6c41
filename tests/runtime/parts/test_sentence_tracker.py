"""The sentence tracker, against a loop over each sentence's tokens."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipkv._types import Cut, SentenceTable, Thought, TokenStream
from skipkv.errors import PartError
from skipkv.runtime.parts import sentences
from skipkv.runtime.parts.sentences import SentenceTracker
from skipkv.segmenters import Delimiter, FixedLength

modest = settings(max_examples=60, deadline=None)
SIZE = 5
LATEST = 64  # tokens a segmenter may take to close a sentence, with nothing lost
PIECES = {0: " x", 1: ".\n", 2: " Wait", 3: " Alternatively"}
MARKERS = {2: Thought.REFLECTION, 3: Thought.TRANSITION}  # the first that is said counts
STREAMS = st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=1, max_size=60)


@attrs.frozen(kw_only=True)
class Late:
    """Closes sentences at token 1, but only once `delay` more tokens are there."""

    delay: int

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        known = len(stream) - self.delay
        return [Cut(i) for i, token in enumerate(stream.ids, start=1) if token == 1 and i <= known]


@attrs.frozen(kw_only=True)
class Wrong:
    """Returns the same cuts whatever it is given."""

    cuts: Any

    def cut(self, stream: TokenStream) -> Any:
        return self.cuts


def hidden_states(count: int, seed: int = 0) -> Tensor:
    # far from 0 on average, as hidden states are
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)) + 0.5


def fed(segmenter: Any, ids: Sequence[int], cuts: Sequence[int], hidden: Tensor) -> SentenceTracker:
    """A tracker that was fed `ids` in pieces which end at `cuts`."""
    tracker = SentenceTracker(segmenter, SIZE, "cpu")
    bounds = [0, *sorted(cuts), len(ids)]
    for start, end in pairwise(bounds):
        piece = ids[start:end]
        tracker.feed(piece, [PIECES[i] for i in piece], hidden[start:end])
    return tracker


def expect(table: SentenceTable, ends: Sequence[int], hidden: Tensor) -> None:
    """Ends as given, and embeddings as a loop in float64 finds them."""
    assert table.ends.tolist() == list(ends)
    start = 0
    for end, embedding in zip(ends, table.embeddings, strict=True):
        mean = sum(hidden[i].double() for i in range(start, end)) / (end - start)
        assert torch.allclose(embedding.double(), mean / mean.norm(), atol=1e-5)
        start = end
    assert table.embeddings.dtype == torch.float32


def pieces_of(data: Any, ids: Sequence[int]) -> list[int]:
    return data.draw(st.lists(st.integers(0, len(ids)), max_size=5), label="cut at")


@modest
@given(ids=STREAMS, data=st.data())
def test_a_stream_fed_in_any_pieces_gives_the_sentences_of_the_whole(
    ids: list[int], data: Any
) -> None:
    hidden = hidden_states(len(ids))
    tracker = fed(Delimiter(ids={1}), ids, pieces_of(data, ids), hidden)
    ends = [i for i, token in enumerate(ids, start=1) if token == 1]
    expect(tracker.table, ends, hidden)
    starts = [0, *ends]
    for start, end, thought in zip(starts, ends, tracker.table.thoughts.tolist(), strict=False):
        said = [kind for token, kind in MARKERS.items() if token in ids[start:end]]
        assert thought == (said or [Thought.EXECUTION])[0]


@modest
@given(ids=STREAMS, delay=st.integers(0, 8), data=st.data())
def test_sentences_closed_late_have_the_embeddings_of_their_own_tokens(
    ids: list[int], delay: int, data: Any
) -> None:
    hidden = hidden_states(len(ids))
    tracker = fed(Late(delay=delay), ids, pieces_of(data, ids), hidden)
    ends = [i for i, t in enumerate(ids, start=1) if t == 1 and i <= len(ids) - delay]
    expect(tracker.table, ends, hidden)


@pytest.mark.parametrize("late", [0, 1, LATEST - 1, LATEST])
@pytest.mark.parametrize("before", [0, 10, 200])
def test_a_cut_may_come_64_tokens_late(before: int, late: int) -> None:
    """However long the sentence, and with a second one behind it."""
    ids = [0] * before + [0, 1] + [0] * late + [0, 1] + [0] * late
    hidden = hidden_states(len(ids))
    tracker = fed(Late(delay=late), ids, range(len(ids)), hidden)
    expect(tracker.table, [before + 2, before + late + 4], hidden)


@modest
@given(data=st.data(), delay=st.integers(0, 3), at_once=st.sampled_from([1, 700, 2**21]))
def test_sequences_fed_together_are_each_as_if_fed_alone(
    data: Any, delay: int, at_once: int
) -> None:
    streams = data.draw(st.lists(STREAMS, min_size=1, max_size=4), label="streams")
    broken = data.draw(st.none() | st.integers(0, len(streams) - 1), label="broken")
    segmenters: list[Any] = [Late(delay=delay) for _ in streams]
    if broken is not None:
        segmenters[broken] = Wrong(cuts=[Cut(1), Cut(1)])
    together = [SentenceTracker(segmenter, SIZE, "cpu") for segmenter in segmenters]
    alone = [SentenceTracker(segmenter, SIZE, "cpu") for segmenter in segmenters]
    states = [hidden_states(len(ids), seed=i) for i, ids in enumerate(streams)]
    half = [len(ids) // 2 for ids in streams]
    for parts in ([slice(0, h) for h in half], [slice(h, None) for h in half]):
        ids = [stream[part] for stream, part in zip(streams, parts, strict=True)]
        hidden = [h[part] for h, part in zip(states, parts, strict=True)]
        pieces = [[PIECES[i] for i in some] for some in ids]
        errors = sentences.feed(together, ids, pieces, hidden, at_once=at_once)
        assert [error is not None for error in errors] == [i == broken for i in range(len(ids))]
        for number, tracker in enumerate(alone):
            if number != broken:
                tracker.feed(ids[number], pieces[number], hidden[number])
    for one, other in zip(together, alone, strict=True):
        assert one.table.ends.tolist() == other.table.ends.tolist()
        assert one.table.thoughts.tolist() == other.table.thoughts.tolist()
        assert torch.equal(one.table.embeddings, other.table.embeddings)


@modest
@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6), every=st.integers(1, 200))
def test_hidden_states_held_are_bounded_however_long_the_open_sentence(
    sizes: list[int], every: int
) -> None:
    tracker = SentenceTracker(FixedLength(tokens=every), SIZE, "cpu")
    for size in sizes:
        tracker.feed([0] * size, [" x"] * size, hidden_states(size))
        tensors = [t for t in vars(tracker).values() if isinstance(t, Tensor)]
        held = max(t.untyped_storage().nbytes() // (8 * SIZE) for t in tensors)
        assert held <= LATEST + size
        assert max(t.shape[0] for t in tensors if t.ndim == 2) <= LATEST


@pytest.mark.parametrize("ids", [[0] * 300, [1] * 300])
def test_a_stream_without_delimiters_and_one_of_nothing_else_are_followed(ids: list[int]) -> None:
    hidden = hidden_states(len(ids))
    tracker = fed(Delimiter(ids={1}), ids, range(0, len(ids), 37), hidden)
    expect(tracker.table, range(1, len(ids) + 1) if ids[0] == 1 else [], hidden)


def test_half_precision_hidden_states_are_summed_without_loss() -> None:
    hidden = hidden_states(2000).bfloat16()
    tracker = fed(FixedLength(tokens=2000), [0] * 2000, range(0, 2000, 128), hidden)
    expect(tracker.table, [2000], hidden)


def test_a_table_handed_out_does_not_change_behind_its_holder() -> None:
    tracker = SentenceTracker(FixedLength(tokens=2), SIZE, "cpu")
    tracker.feed([0, 0], ["a", "b"], hidden_states(2))
    first = tracker.table
    tracker.feed([0, 0], ["a", "b"], hidden_states(2))
    assert len(first) == 1
    assert len(tracker.table) == 2


@pytest.mark.parametrize(
    "cuts",
    [[Cut(2), Cut(2)], [Cut(3), Cut(1)], [Cut(5)], [Cut(1), Cut(9)]],
    ids=["twice", "backwards", "beyond", "last beyond"],
)
def test_cuts_that_do_not_increase_or_lie_beyond_the_stream_name_the_segmenter(
    cuts: list[Cut],
) -> None:
    tracker = SentenceTracker(Wrong(cuts=cuts), SIZE, "cpu")
    with pytest.raises(PartError, match=r"Wrong\(.*cut a stream of 4 tokens at .*increase"):
        tracker.feed([0] * 4, [" x"] * 4, hidden_states(4))


class Raising:
    """A segmenter with a fault of its own."""

    def __repr__(self) -> str:
        return "Raising()"

    def cut(self, stream: TokenStream) -> Sequence[Cut]:
        raise KeyError(len(stream))


def test_a_segmenter_that_raises_is_named() -> None:
    tracker = SentenceTracker(Raising(), SIZE, "cpu")
    with pytest.raises(PartError, match=r"Raising\(\)\.cut raised KeyError: 4") as caught:
        tracker.feed([0] * 4, [" x"] * 4, hidden_states(4))
    assert "raise KeyError(len(stream))" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("cuts", [None, 3, [2], ["x"]])
def test_a_segmenter_that_returns_no_cuts_is_named(cuts: Any) -> None:
    tracker = SentenceTracker(Wrong(cuts=cuts), SIZE, "cpu")
    with pytest.raises(PartError, match=r"Wrong\(.*must return.*Cut"):
        tracker.feed([0] * 4, [" x"] * 4, hidden_states(4))


@pytest.mark.parametrize("states", [1, 5])
def test_other_hidden_states_than_tokens_are_refused_before_memory_is_written(states: int) -> None:
    tracker = SentenceTracker(FixedLength(tokens=2), SIZE, "cpu")
    tracker.feed([0] * 3, [" x"] * 3, hidden_states(3))
    with pytest.raises(ValueError, match=f"70 tokens came with {states} hidden states"):
        tracker.feed([0] * 70, [" x"] * 70, hidden_states(states))
