"""What the observations count, against loops; and that page and experiments fit."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import observations
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import batch, groups
from observed.fragments import fates, left_behind
from observed.similar import counted

from skipkv import SentenceTable

modest = settings(max_examples=60, deadline=None)
PAGE = Path(__file__).parents[2] / "docs" / "observations.md"


def fates_by_loop(kept: list[list[int]], bounds: Sequence[int]) -> list[float]:
    """Shares of whole, broken and missing spans; a list of positions per head."""
    tally = [0, 0, 0]
    for positions in kept:
        for first, end in itertools.pairwise(bounds):
            left = sum(first <= position < end for position in positions)
            tally[0 if left == end - first else 2 if left == 0 else 1] += 1
    return [count / sum(tally) for count in tally]


@modest
@given(st.data())
def test_a_sentence_is_whole_in_pieces_or_gone_in_each_head(data: st.DataObject) -> None:
    bounds = sorted(data.draw(st.sets(st.integers(0, 20), min_size=2, max_size=8)))
    heads = [sorted(data.draw(st.sets(st.integers(0, 22), max_size=20)), key=int) for _ in range(4)]
    most = max(1, *map(len, heads))
    kept = torch.tensor([head + [-1] * (most - len(head)) for head in heads])
    found = fates(kept.reshape(2, 2, most), bounds)
    assert found.tolist() == pytest.approx(fates_by_loop(heads, bounds))


class _Words:
    def pieces(self, tokens: list[int]) -> list[str]:
        return [("word ", "end.\n")[token] for token in tokens]


def test_only_decoded_sentences_that_end_before_the_window_count() -> None:
    event = SimpleNamespace(seen=10, kept=torch.tensor([[[0, 2, 3, 6, 8, 9]]]))
    # positions 0 and 1 are the prompt's; sentences lie at 2-3, 4-5, 6-7 and reach the window at 8-9
    completion = SimpleNamespace(trace=[event], prompt_tokens=2, tokens=[0, 1] * 4)
    share = left_behind(completion, _Words(), window=2)
    assert share is not None
    assert share.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert left_behind(SimpleNamespace(trace=[]), _Words(), window=2) is None


@modest
@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_pairs_and_repeats_of_sentences_are_those_of_their_kinds(kinds: list[str]) -> None:
    unit = dict(zip("abc", torch.eye(3), strict=True))
    table = SentenceTable.empty(3).extended(
        ends=torch.arange(1, len(kinds) + 1),
        embeddings=torch.stack([unit[k] for k in kinds]) if kinds else torch.zeros(0, 3),
        thoughts=torch.zeros(len(kinds), dtype=torch.long),
    )
    found = counted(table)
    later = [kinds[i + 1 :] for i in range(len(kinds))]
    assert found["sentences"] == len(kinds)
    assert found["pairs"] == sum(rest.count(k) for k, rest in zip(kinds, later, strict=True))
    repeated = sum(k in rest for k, rest in zip(kinds, later, strict=True))
    assert found["repeated"] == pytest.approx(repeated / max(1, len(kinds)))


def test_what_problems_bring_is_taken_from_the_gap_between_wrong_and_right_traces() -> None:
    full = [{"x": value} for value in (1.0, 2.0, 5.0, 6.0)]
    own = [{"x": value} for value in (1.0, 2.0, 6.0, 7.0)]
    taken = {"right": [True, True, False, False], "wrong": [False, False, True, True]}
    gap = groups._gap(own, full, taken)
    assert gap["plain"]["x"][0] == pytest.approx(5.0)
    assert gap["beyond_problems"]["x"][0] == pytest.approx(1.0)


def test_an_answer_without_padding_is_the_one_of_batch_1() -> None:
    setting = SimpleNamespace(model=(None, None), prompts=[[1], [2]])
    found = batch._graded(setting, 64, [[0, 0]], [True, False])
    assert found == {(0, 0): True, (1, 0): False}


def test_the_page_has_a_place_and_a_picture_for_every_experiment() -> None:
    text = PAGE.read_text()
    for name in observations.EXPERIMENTS:
        begin, end = (text.index(f"<!-- {name}:{mark} -->") for mark in ("begin", "end"))
        assert begin < end
        assert f"(images/observation-{name}.png)" in text
