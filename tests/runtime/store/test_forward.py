"""Masks, storage and attention of one forward pass, against loops in float64."""

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import torch
from filled_stores import (
    APART,
    LONGEST,
    SHAPE,
    Original,
    all_positions,
    empty,
    feed,
    held,
    over_layers,
    ragged,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from skipkv._types import SUM, Needs
from skipkv.runtime.store import attention
from skipkv.runtime.store.decode import DecodeForward
from skipkv.runtime.store.forward import Forward
from skipkv.runtime.store.kernels import sdpa
from skipkv.runtime.store.store import SlotStore

modest = settings(max_examples=25, deadline=None)
KINDS = ["uniform", "even", "ragged"]


@attrs.frozen(kw_only=True, eq=False)
class Pass:
    """A forward pass just done over sequences that held something before."""

    store: SlotStore
    originals: list[Original]
    counts: list[int]
    first: int
    forward: Forward
    queries: Tensor
    received: Tensor | None  # attention before the pass

    def real_columns(self) -> Iterator[tuple[int, int, int]]:
        """Row, column and position of every token of the pass."""
        for row, count in enumerate(self.counts):
            seen = self.store.tokens_seen[self.first + row]
            for i in range(count):
                yield row, self.forward.columns - count + i, seen - count + i


@attrs.frozen(kw_only=True)
class Case:
    """What happens before a pass, and the pass; drawn first and run in the test.

    Run while drawing, a type checker that samples containers would disturb Hypothesis.
    """

    before: list[int]
    first: int
    counts: list[int]
    columns: int
    attention: bool
    apart: bool
    kind: str
    seed: int

    def run(self) -> Pass:
        store = empty(
            sequences=len(self.before),
            needs=Needs(attention=self.attention),
            capacity=APART if self.apart else 16,
        )
        originals = [Original(seed) for seed in range(len(self.before))]
        ragged(store, originals, self.before, self.seed, self.kind)
        received = None
        if self.attention:
            for group in store.groups:
                everything = slice(0, group.shape.layers), range(store.sequences)
                positions = group.positions(*everything, group.capacity)
                group.records[SUM] += torch.where(positions >= 0, 0.25, 0.0)
            received = over_layers(store, lambda group: group.records[SUM])
        forward, queries = feed(
            store, originals, self.counts, first=self.first, columns=self.columns
        )
        return Pass(
            store=store,
            originals=originals,
            counts=self.counts,
            first=self.first,
            forward=forward,
            queries=queries,
            received=received,
        )


@st.composite
def cases(draw: Any, *, decode: bool | None = None, attention: bool | None = None) -> Case:
    sequences = draw(st.integers(1, 3))
    before = draw(st.lists(st.integers(0, 6), min_size=sequences, max_size=sequences))
    first = draw(st.integers(0, sequences - 1))
    rows = draw(st.integers(1, sequences - first))
    if draw(st.booleans()) if decode is None else decode:
        counts, columns = [1] * rows, 1
    else:
        counts = draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows).filter(any))
        columns = max(counts) + draw(st.integers(0, 2))
    return Case(
        before=before,
        first=first,
        counts=counts,
        columns=columns,
        attention=draw(st.booleans()) if attention is None else attention,
        apart=draw(st.booleans()),
        kind=draw(st.sampled_from(KINDS)),
        seed=draw(st.integers(0, 99)),
    )


@modest
@given(case=cases())
def test_a_column_may_see_the_entries_of_its_own_past_and_no_others(case: Case) -> None:
    done = case.run()
    if isinstance(done.forward, DecodeForward):
        return  # the newest query sees all that is held: below
    for layer in range(SHAPE.layers):
        part, at = done.forward.of[layer]
        mask = part.mask(at).expand(-1, SHAPE.heads, -1, -1)
        assert mask.shape[-1] == part.width
        stored = all_positions(done.store)[layer, :, :, : part.width]
        for row, column, position in done.real_columns():
            for head in range(SHAPE.heads):
                slots = stored[done.first + row, head]
                expected = [0 <= entry <= position for entry in slots.tolist()]
                assert mask[row, head, column].tolist() == expected
        # a softmax over nothing would be NaN
        assert mask.any(dim=-1).all()


@modest
@given(case=cases())
def test_positions_go_on_where_the_sequence_stood(case: Case) -> None:
    done = case.run()
    assert done.forward.positions.min() >= 0
    for row, column, position in done.real_columns():
        assert done.forward.positions[row, column] == position


@modest
@given(case=cases())
def test_tokens_are_stored_in_every_head_and_padding_in_none(case: Case) -> None:
    done = case.run()
    store = done.store
    keys = over_layers(store, lambda group: group.keys)
    values = over_layers(store, lambda group: group.values)
    assert not keys.isnan().any()
    assert not values.isnan().any()
    for row, count in enumerate(done.counts):
        sequence = done.first + row
        new = list(range(store.tokens_seen[sequence] - count, store.tokens_seen[sequence]))
        original = done.originals[sequence]
        for layer in range(SHAPE.layers):
            for head in range(SHAPE.heads):
                stored = held(store, layer, sequence, head)
                assert stored[len(stored) - count :] == new
                at = layer, sequence, head, slice(len(stored))
                assert torch.equal(keys[at], original.keys[layer, head, stored])
                assert torch.equal(values[at], original.values[layer, head, stored])


@modest
@given(case=cases(decode=True))
def test_decoding_needs_no_bias_exactly_when_no_slot_in_reach_is_empty(case: Case) -> None:
    done = case.run()
    forward = done.forward
    if not isinstance(forward, DecodeForward):
        return  # nothing was held before, so the pass was a prompt's
    for layer in range(SHAPE.layers):
        part, at = forward.of[layer]
        rows = all_positions(done.store)[:, forward.first : forward.last, :, : part.width]
        bias = part.bias(at)
        assert (bias is None) == bool((rows[list(part.group.layers)] >= 0).all())
        if bias is not None:
            seen = rows[layer, :, :, None] >= 0
            bias = bias.expand(seen.shape)  # one mask for all heads, where they hold equally many
            assert torch.equal(bias == 0, seen)
            assert torch.equal(bias == -torch.inf, ~seen)


@modest
@given(case=cases(), scaled=st.booleans(), tile=st.integers(1, 3))
def test_attention_is_that_of_a_loop_in_float64(case: Case, scaled: bool, tile: int) -> None:
    """Per row, head and column, over what the head holds; with and without weights to be seen."""
    done = case.run()
    store, scale = done.store, 0.5 if scaled else None
    mass: dict[tuple[int, int, int, int], float] = {}
    for layer in range(SHAPE.layers):
        output = attend(done, layer, tile, scale)
        assert output.isfinite().all()
        for row, column, position in done.real_columns():
            sequence = done.first + row
            for head in range(SHAPE.heads):
                past = [p for p in held(store, layer, sequence, head) if p <= position]
                keys = done.originals[sequence].keys[layer, head, past].double()
                values = done.originals[sequence].values[layer, head, past].double()
                for group in range(SHAPE.groups):
                    query = done.queries[layer, row, head, group, column].double()
                    logits = keys @ query * (scale or SHAPE.dim**-0.5)
                    weights = logits.softmax(dim=0)
                    expected = weights @ values
                    found = output[row, column, head * SHAPE.groups + group].double()
                    assert torch.allclose(found, expected, atol=1e-5)
                    for entry, weight in zip(past, weights.tolist(), strict=True):
                        at = layer, sequence, head, entry
                        mass[at] = mass.get(at, 0.0) + weight
    if case.attention:
        expect_mass(done, mass)


def attend(done: Pass, layer: int, tile: int, scale: float | None) -> Tensor:
    """The layer's output, [B, T, Q, D], asked for as transformers asks."""
    rows = slice(done.first, done.first + len(done.counts))
    part, at = done.forward.of[layer]
    query = done.queries[layer].flatten(1, 2)  # [B Q T D]
    query = query.transpose(1, 2).contiguous().transpose(1, 2)  # its strides in a model
    return attention.attend(
        part,
        at,
        query,
        part.group.keys[at, rows, :, : part.width],
        part.group.values[at, rows, :, : part.width],
        scale or SHAPE.dim**-0.5,
        tile=tile,
    )


def expect_mass(done: Pass, mass: dict[tuple[int, int, int, int], float]) -> None:
    """What each entry has received is what it had and what the pass gave it."""
    assert done.received is not None
    done.store.settle()
    expected = done.received.double()
    for (layer, sequence, head, entry), weight in mass.items():
        slot = held(done.store, layer, sequence, head).index(entry)
        expected[layer, sequence, head, slot] += weight
    found = over_layers(done.store, lambda group: group.records[SUM])
    assert torch.allclose(found.double(), expected, atol=1e-5)


@modest
@given(case=cases(decode=True, attention=False), neighbour=st.integers(0, 2))
def test_a_row_attends_as_it_does_alone(case: Case, neighbour: int) -> None:
    done = case.run()
    row = neighbour % len(done.counts)
    together = attend(done, 0, 128, None)[row]
    single = attrs.evolve(case, first=done.first + row, counts=[1]).run()
    assert torch.allclose(attend(single, 0, 128, None)[0], together, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_received_is_summed_in_float32_whatever_the_cache_is_in(
    dtype: torch.dtype,
) -> None:
    store = empty(sequences=1, needs=Needs(attention=True), dtype=dtype)
    original = Original(0)
    assert SUM in store.groups[0].records
    for _ in range(12):
        forward, queries = feed(store, [original], [1])
        for layer in range(SHAPE.layers):
            part, at = forward.of[layer]
            attention.attend(
                part,
                at,
                queries[layer].flatten(1, 2),
                part.group.keys[at, :, :, : part.width],
                part.group.values[at, :, :, : part.width],
                SHAPE.dim**-0.5,
            )
    store.settle()
    assert store.groups[0].records[SUM].dtype == torch.float32
    # every query gives 1 in all
    total = torch.full((SHAPE.layers, 1, SHAPE.heads), 12.0 * SHAPE.groups)
    assert torch.allclose(store.groups[0].records[SUM].sum(dim=-1), total, atol=1e-4)


class _Waiting(TorchFunctionMode):
    """Notes calls that move data between host and device, for which an accelerator would wait."""

    NAMES = ("as_tensor", "item", "tolist", "nonzero", "cpu", "__bool__", "__int__")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to_device = "device" in kwargs or any(isinstance(arg, torch.device) for arg in args)
        copies = func.__name__ in ("tensor", "to") and to_device and not kwargs.get("non_blocking")
        if func.__name__ in self.NAMES or copies:
            self.seen.append(func.__name__)
        return func(*args, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_decode_pass_waits_for_nothing(kind: str, seen: bool, fixed: bool) -> None:
    store = empty(sequences=2, needs=Needs(attention=seen, queries=2))
    originals = [Original(0), Original(1)]
    ragged(store, originals, [6, 4], 0, kind)
    keys = [torch.randn(2, SHAPE.heads, 1, SHAPE.dim) for _ in range(SHAPE.layers)]
    query = torch.randn(2, SHAPE.heads * SHAPE.groups, 1, SHAPE.dim)
    with _Waiting() as waiting:
        kernel = sdpa if fixed else None
        forward = DecodeForward(store, first=0, last=2, kernel=kernel)
        forward.begin()
        for layer in range(SHAPE.layers):
            part, at = forward.of[layer]
            held_keys, held_values = part.write(at, keys[layer], keys[layer])
            attention.attend(part, at, query, held_keys, held_values, SHAPE.dim**-0.5)
    assert waiting.seen == []
    assert store.tokens_seen == store.seen.tolist() == [7, 5]
    assert max(store.tokens_seen) < LONGEST
