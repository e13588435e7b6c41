"""Attention counted some steps later is the attention of the steps, whatever comes between."""

import math
from collections.abc import Callable

import pytest
import torch
from filled_stores import SHAPE, Original, decode, empty, feed
from torch import Tensor

from skipkv._types import SUM, Needs
from skipkv.runtime.store.slots import COUNTED_TOGETHER
from skipkv.runtime.store.store import SlotStore

PROMPT = 3
MANY = 2 * COUNTED_TOGETHER + 5


def decoded(
    *, lanes: int = 2, steps: int = 5, fixed: bool = False
) -> tuple[SlotStore, list[Original]]:
    """A store of three sequences, of which the first ones have just decoded."""
    store = empty(sequences=3, capacity=64, needs=Needs(attention=True))
    originals = [Original(seed) for seed in range(3)]
    feed(store, originals, [PROMPT] * 3)  # nothing counts the attention of these prompts
    decode(store, originals, first=0, last=lanes, steps=steps, fixed=fixed)
    return store, originals


def received(original: Original, steps: int) -> Tensor:
    """What each entry has received in decode steps after the prompt: [layers H L], in float64."""
    total = PROMPT + steps
    found = torch.zeros(SHAPE.layers, SHAPE.heads, total, dtype=torch.float64)
    for position in range(PROMPT, total):
        queries = original.queries[:, :, :, position].double()  # [layers H G D]
        keys = original.keys[:, :, : position + 1].double()
        weights = (queries @ keys.mT / math.sqrt(SHAPE.dim)).softmax(dim=-1)
        found[:, :, : position + 1] += weights.sum(dim=2)
    return found


def expect(store: SlotStore, lane: int, original: Original, steps: int) -> None:
    [group] = store.groups
    sums = group.records[SUM][:, lane].double()
    expected = received(original, steps)
    assert torch.allclose(sums[..., : expected.shape[-1]], expected, atol=1e-5)
    assert not sums[..., expected.shape[-1] :].any()


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("steps", [1, COUNTED_TOGETHER, COUNTED_TOGETHER + 1, MANY])
def test_no_step_is_left_out_or_counted_twice(steps: int, fixed: bool) -> None:
    store, originals = decoded(steps=steps, fixed=fixed)
    for _ in range(2):
        store.settle()
        for lane in range(2):
            expect(store, lane, originals[lane], steps)
        expect(store, 2, originals[2], 0)


def other_lanes(store: SlotStore, originals: list[Original]) -> None:
    decode(store, originals, first=0, last=1, steps=2)


CHANGES: dict[str, tuple[Callable[..., object], list[tuple[int, int, int]]]] = {
    "put from elsewhere": (lambda store, _: store.put([0], [2]), [(0, 2, 0), (1, 1, 5)]),
    "put elsewhere": (lambda store, _: store.put([2], [0]), [(2, 0, 5), (1, 1, 5)]),
    "clear": (lambda store, _: store.clear(0), [(1, 1, 5)]),
    "a prompt": (lambda store, o: feed(store, o, [2], first=2), [(0, 0, 5), (1, 1, 5)]),
    "a further turn": (lambda store, o: feed(store, o, [2, 2]), [(0, 0, 5), (1, 1, 5)]),
    "save and load": (lambda store, _: store.load(2, store.save(1)), [(2, 1, 5), (0, 0, 5)]),
    "steps of other lanes": (other_lanes, [(0, 0, 7), (1, 1, 5)]),
    "more room": (lambda store, _: store.reserve([99]), [(0, 0, 5), (1, 1, 5)]),
}
"""What is done -> lanes whose sums are known then, each with its sequence and its steps."""


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_lanes_or_entries_waits_until_it_is_counted(name: str) -> None:
    store, originals = decoded()
    change, known = CHANGES[name]
    change(store, originals)
    store.settle()
    for lane, sequence, steps in known:
        expect(store, lane, originals[sequence], steps)


def test_a_lane_that_is_written_anew_has_what_was_saved() -> None:
    store, originals = decoded()
    saved = store.save(2)
    decode(store, originals, first=0, last=2, steps=3)
    store.load(0, saved)
    store.settle()
    expect(store, 0, originals[2], 0)
    expect(store, 1, originals[1], 8)


def test_a_lane_that_was_cleared_has_received_nothing() -> None:
    store, _ = decoded()
    store.clear(0)
    store.settle()
    assert not store.groups[0].records[SUM][:, 0].any()
