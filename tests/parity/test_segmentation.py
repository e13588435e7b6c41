"""Sentences and their labels as the published implementation finds them (golden vectors).

What differs on purpose: published coordinates count the padding of a batch, and here padding never
enters; and of a prompt's check tokens the published code registers the first only, so that later
sentences of the prompt are labelled 'Others' whatever they hold. Here all sentences are judged
alike.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skipkv._types import Cut, Thought, TokenStream
from skipkv.segmenters import Delimiter, MarkerWords

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"
META: dict[str, Any] = json.loads((GOLDENS / "meta_sent.json").read_text())["segmentation"]
GOLDEN = load_file(GOLDENS / "segmentation.safetensors")
every_row = pytest.mark.parametrize(
    ("case", "row"), [(case, row) for case in META for row in range(META[case]["B"])]
)


def stream_of(case: str, row: int) -> TokenStream:
    """A row without its padding; each token is written as its id, and a check token as one word."""
    ids = GOLDEN[f"{case}.ids"][row][GOLDEN[f"{case}.mask"][row].bool()].tolist()
    return TokenStream(ids=ids, pieces=[f" t{i}" for i in ids])


def segmenter_of(case: str) -> Delimiter:
    checks = MarkerWords(reflection=[f"t{i}" for i in META[case]["check_ids"]], transition=[])
    return Delimiter(ids=META[case]["punct_ids"], classify=checks)


def published(case: str, row: int, moment: str) -> tuple[list[tuple[int, int]], list[int]]:
    """The published ranges (start, last) of a row, without padding, and their labels."""
    pad = META[case]["pads"][row]
    ranges = GOLDEN[f"{case}.{moment}.ranges"].tolist()
    labels = GOLDEN[f"{case}.{moment}.labels"].tolist()
    of_row = [
        (r[1] - pad, r[2] - pad, k) for r, k in zip(ranges, labels, strict=True) if r[0] == row
    ]
    return [(start, last) for start, last, _ in of_row], [label for *_, label in of_row]


def ranges_of(cuts: list[Cut]) -> list[tuple[int, int]]:
    starts = [0, *(cut.end for cut in cuts)]
    return [(start, cut.end - 1) for start, cut in zip(starts, cuts, strict=False)]


def label_with_the_quirk(case: str, row: int, start: int, last: int) -> int:
    """1 where a check token lies in the range, of those in the prompt only the first counting."""
    ids, prompt = stream_of(case, row).ids, META[case]["prompt"] - META[case]["pads"][row]
    checks = [i for i, token in enumerate(ids) if token in META[case]["check_ids"]]
    counted = [i for i in checks if i < prompt][:1] + [i for i in checks if i >= prompt]
    return int(any(start <= i <= last for i in counted))


@every_row
def test_ranges_are_the_published_ones_without_the_padding(case: str, row: int) -> None:
    stream = stream_of(case, row)
    prompt = META[case]["prompt"] - META[case]["pads"][row]
    segmenter = segmenter_of(case)
    assert ranges_of(list(segmenter.cut(stream[:prompt]))) == published(case, row, "prefill")[0]
    assert ranges_of(list(segmenter.cut(stream))) == published(case, row, "final")[0]


@every_row
def test_fed_as_it_was_decoded_the_ranges_are_the_published_ones(case: str, row: int) -> None:
    stream = stream_of(case, row)
    prompt = META[case]["prompt"] - META[case]["pads"][row]
    cuts: list[Cut] = []
    for seen in range(prompt, len(stream) + 1):
        start = cuts[-1].end if cuts else 0
        found = segmenter_of(case).cut(stream[start:seen])
        cuts += [Cut(start + cut.end, cut.thought) for cut in found]
    assert ranges_of(cuts) == published(case, row, "final")[0]
    open_from = GOLDEN[f"{case}.final.last_sentence_start"][row] - META[case]["pads"][row]
    assert cuts[-1].end == int(open_from)


@every_row
def test_labels_are_the_published_ones_but_for_the_quirk_at_prompts(case: str, row: int) -> None:
    ranges, labels = published(case, row, "final")
    assert [label_with_the_quirk(case, row, *r) for r in ranges] == labels
    cuts = segmenter_of(case).cut(stream_of(case, row))
    prompt = META[case]["prompt"] - META[case]["pads"][row]
    for (start, _), cut, label in zip(ranges, cuts, labels, strict=True):
        ours = cut.thought is Thought.REFLECTION
        assert ours >= bool(label)
        assert ours == bool(label) or start < prompt


@every_row
def test_delimiters_lie_where_the_published_code_saw_punctuation(case: str, row: int) -> None:
    positions = GOLDEN[f"{case}.final.punct_positions"]
    of_row = positions[positions[:, 0] == row, 1] - META[case]["pads"][row]
    ends = [cut.end for cut in segmenter_of(case).cut(stream_of(case, row))]
    assert torch.equal(torch.tensor(ends), of_row.long() + 1)
