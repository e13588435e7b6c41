"""Redundant sentences as the published implementation finds them (golden vectors).

Published ranges count the padding of a batch; here padding never enters, so it is taken off first.
Events of the published code fall on padded lengths for the same reason.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from skipkv._types import SentenceTable, Thought, TokenStream
from skipkv.segmenters import Delimiter, MarkerWords

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"
META: dict[str, Any] = json.loads((GOLDENS / "meta_sent.json").read_text())
GOLDEN = load_file(GOLDENS / "sentences.safetensors")
SIMILARITY, CHAIN = META["sentence_similarity"], META["sentence_chain"]
TOLERANCE = 1e-5


def rows_of(cases: dict[str, Any]) -> list[tuple[str, int]]:
    return [(case, row) for case in cases for row in range(cases[case]["B"])]


def redundancy_of(map_ranges: Tensor, map_values: Tensor, ranges: Tensor) -> Tensor:
    """The published removal map as one value per sentence, 0 where it has none."""
    values = torch.zeros(len(ranges))
    for removed, value in zip(map_ranges.tolist(), map_values, strict=True):
        values[ranges.tolist().index(removed)] = value
    return values


def assert_same_redundancy(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("case", "row"), rows_of(SIMILARITY))
def test_redundancy_follows_the_published_map_step_by_step(case: str, row: int) -> None:
    threshold, embeddings = SIMILARITY[case]["threshold"], GOLDEN[f"{case}.row{row}.reprs"]
    table = SentenceTable.empty(embeddings.shape[1])
    for step in range(SIMILARITY[case]["n_steps"]):
        at = f"{case}.step{step}.row{row}"
        ranges = GOLDEN[f"{at}.ranges"]
        new = slice(len(table), len(ranges))
        table = table.extended(
            ends=ranges[new, 1].long() + 1,
            embeddings=embeddings[new],
            thoughts=torch.zeros(len(ranges) - len(table), dtype=torch.long),
        )
        expected = redundancy_of(GOLDEN[f"{at}.map_ranges"], GOLDEN[f"{at}.map_values"], ranges)
        assert_same_redundancy(table.redundancy(threshold), expected)


@pytest.mark.parametrize(("case", "row"), rows_of(SIMILARITY))
def test_similarities_of_new_sentences_are_the_published_ones(case: str, row: int) -> None:
    embeddings = GOLDEN[f"{case}.row{row}.reprs"]
    compared = 0
    for step in range(SIMILARITY[case]["n_steps"]):
        sim = GOLDEN.get(f"{case}.step{step}.row{row}.sim")
        if sim is None:  # no sentence to compare with
            continue
        known, new = sim.shape
        ours = embeddings[:known] @ embeddings[known - new : known].T
        earlier = torch.arange(known)[:, None] < torch.arange(known - new, known)
        torch.testing.assert_close(ours * earlier, sim, rtol=0, atol=TOLERANCE)
        compared += 1
    assert compared


@pytest.mark.parametrize(("case", "row"), rows_of(CHAIN))
def test_from_tokens_and_hidden_states_to_the_published_map(case: str, row: int) -> None:
    meta = CHAIN[case]
    pad = meta["pads"][row]
    ids = GOLDEN[f"{case}.ids"][row, pad:].tolist()
    hidden = GOLDEN[f"{case}.hidden"][row, pad:].float()
    stream = TokenStream(ids=ids, pieces=[f" t{i}" for i in ids])
    checks = MarkerWords(reflection=[f"t{i}" for i in meta["check_ids"]], transition=[])
    segmenter = Delimiter(ids=meta["punct_ids"], classify=checks)
    table = SentenceTable.empty(hidden.shape[1])
    for event in range(meta["n_events"]):
        at = f"{case}.event{event}"
        start, seen = int(table.ends[-1]) if len(table) else 0, int(GOLDEN[f"{at}.length"]) - pad
        cuts = segmenter.cut(stream[start:seen])
        ends = [start + cut.end for cut in cuts]
        means = [hidden[a:b].mean(0) for a, b in zip([start, *ends], ends, strict=False)]
        table = table.extended(
            ends=torch.tensor(ends, dtype=torch.long),
            embeddings=torch.nn.functional.normalize(torch.stack(means), dim=-1),
            thoughts=torch.tensor([cut.thought for cut in cuts], dtype=torch.long),
        )
        ranges = GOLDEN[f"{at}.row{row}.repr_ranges"]
        assert torch.equal(table.ends, ranges[:, 1].long() - pad + 1)
        expected = redundancy_of(
            GOLDEN[f"{at}.row{row}.map_ranges"], GOLDEN[f"{at}.row{row}.map_values"], ranges
        )
        assert_same_redundancy(table.redundancy(meta["threshold"]), expected)
        checks_so_far = int((table.thoughts == Thought.REFLECTION).sum())
        assert checks_so_far == int(GOLDEN[f"{at}.row{row}.n_check"])
    reprs = GOLDEN[f"{case}.row{row}.reprs"]
    torch.testing.assert_close(table.embeddings, reprs, rtol=0, atol=TOLERANCE)


def test_every_case_of_the_golden_file_is_looked_at() -> None:
    cases = {re.match(r"\w+", name)[0] for name in GOLDEN}  # type: ignore[index]
    assert cases == {*SIMILARITY, *CHAIN}
