"""The slot store against a model in plain Python, over random sequences of operations."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from filled_stores import (
    SHAPE,
    Original,
    decode,
    empty,
    feed,
    held,
    over_layers,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from skipkv._types import SUM, Needs
from skipkv.runtime.store.decode import DecodeForward
from skipkv.runtime.store.slots import span

SEQUENCES = 3
EVERY_HEAD = [(layer, head) for layer in range(SHAPE.layers) for head in range(SHAPE.heads)]


class Modelled:
    """A sequence as the plain model knows it."""

    def __init__(self, seed: int) -> None:
        self.original = Original(seed)
        self.seen = 0
        # per layer and head: position -> attention received
        self.entries: dict[tuple[int, int], dict[int, float]] = {at: {} for at in EVERY_HEAD}

    def lengths(self, layers: Sequence[int]) -> list[int]:
        return [len(entries) for (layer, _), entries in self.entries.items() if layer in layers]

    def decode(self) -> None:
        """Add the next token, which attends to all entries of its head and to itself."""
        for (layer, head), entries in self.entries.items():
            entries[self.seen] = 0.0
            query = self.original.queries[layer, head, :, self.seen].double()
            keys = self.original.keys[layer, head, list(entries)].double()
            weights = (query @ keys.mT / math.sqrt(SHAPE.dim)).softmax(dim=-1)
            for position, received in zip(entries, weights.sum(dim=0).tolist(), strict=True):
                entries[position] += received
        self.seen += 1

    def copied(self) -> "Modelled":
        other = copy.copy(self)
        other.entries = copy.deepcopy(self.entries)
        return other


class SlotStoreMachine(RuleBasedStateMachine):
    """Prompts, steps, compactions, moves, clearings and reservations, in any order."""

    @initialize(
        queries=st.sampled_from([0, 1, 3]),
        attention=st.booleans(),
        capacities=st.sampled_from([{(0, 1): 6}, {(1,): 8, (0,): 6}]),
    )
    def start(self, queries: int, attention: bool, capacities: dict[tuple[int, ...], int]) -> None:
        self.needs = Needs(queries=queries, attention=attention)
        self.capacities = dict(capacities)
        self.store = empty(sequences=SEQUENCES, capacity=capacities, needs=self.needs)
        self.seeds = iter(range(10_000))
        self.model = [Modelled(next(self.seeds)) for _ in range(SEQUENCES)]

    def room(self, models: Sequence[Modelled]) -> int:
        """Tokens that all heads of these have room for."""
        return min(
            capacity - max(max(model.lengths(layers)) for model in models)
            for layers, capacity in self.capacities.items()
        )

    @rule(data=st.data())
    def append(self, data: Any) -> None:
        first = data.draw(st.integers(0, SEQUENCES - 1), label="first")
        most = st.integers(1, SEQUENCES - first)
        counts = []
        for sequence in range(first, first + data.draw(most, label="rows")):
            room = self.room([self.model[sequence]])
            counts.append(data.draw(st.integers(0, min(3, room)), label="count"))
        if not any(counts):
            return
        columns = max(counts) + data.draw(st.integers(0, 2), label="padding")
        originals = [sequence.original for sequence in self.model]
        forward, _ = feed(self.store, originals, counts, first=first, columns=columns)
        if isinstance(forward, DecodeForward):
            for model in self.model[first : forward.last]:
                model.decode()
            return
        for sequence, count in enumerate(counts, start=first):
            model = self.model[sequence]
            for entries in model.entries.values():
                entries.update({model.seen + i: 0.0 for i in range(count)})
            model.seen += count
        if self.needs.attention:
            self.attend(forward, counts, first, data.draw(st.integers(0, 99), label="seed"))

    def attend(self, forward: Any, counts: list[int], first: int, seed: int) -> None:
        """Every real column of a prompt gives every entry it sees a small whole number."""
        random = torch.Generator().manual_seed(seed)
        columns = forward.columns
        for layer in range(SHAPE.layers):
            part, at = forward.of[layer]
            shape = len(counts), SHAPE.heads, SHAPE.groups, columns, part.width
            weights = torch.randint(0, 4, shape, generator=random).float()
            weights = weights * part.mask(at)[:, :, None]
            cut = columns // 2
            for tile in (slice(0, cut), slice(cut, columns + 5)):
                part.add_attention(at, weights[..., tile, :], tile)
            for row, count in enumerate(counts):
                for head in range(SHAPE.heads):
                    entries = self.model[first + row].entries[layer, head]
                    received = weights[row, head, :, columns - count :].sum(dim=(0, 1))
                    for slot, position in enumerate(entries):
                        entries[position] += float(received[slot])

    @rule(data=st.data(), fixed=st.booleans())
    def decode(self, data: Any, fixed: bool) -> None:
        first = data.draw(st.integers(0, SEQUENCES - 1), label="first")
        last = data.draw(st.integers(first + 1, SEQUENCES), label="last")
        models = self.model[first:last]
        room = self.room(models)
        if not room or not all(model.seen for model in models):
            return
        steps = data.draw(st.integers(1, room), label="steps")
        originals = [sequence.original for sequence in self.model]
        forward = decode(self.store, originals, first=first, last=last, steps=steps, fixed=fixed)
        assert forward.current == (
            fixed or all(part.width < part.group.capacity for part in forward.groups)
        )
        for model in models:
            for _ in range(steps):
                model.decode()

    @rule(data=st.data(), seed=st.integers(0, 2**16), density=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    def compact(self, data: Any, seed: int, density: float) -> None:
        everyone = st.permutations(range(SEQUENCES))
        number = data.draw(st.integers(1, SEQUENCES), label="sequences")
        sequences = data.draw(everyone, label="order")[:number]
        random = torch.Generator().manual_seed(seed)
        self.store.settle()
        for group in self.store.groups:
            depth = group.shape.layers
            step = data.draw(st.integers(1, depth), label="layers at once")
            width = max(max(self.model[s].lengths(group.layers)) for s in sequences)
            most = data.draw(st.sampled_from([None, width]), label="most")
            for start in range(0, depth, step):
                some = slice(start, start + step)
                occupied = group.positions(some, sequences, width) >= 0
                keep = (torch.rand(occupied.shape, generator=random) < density) & occupied
                answer = group.compact(some, sequences, keep.flatten(0, 1), most=most)
                self.expect_kept(group.layers[some], sequences, keep, answer)
        self.store.compacted(sequences)

    def expect_kept(
        self, layers: Sequence[int], sequences: Sequence[int], keep: Any, answer: Any
    ) -> None:
        """Drop the entries in the model too, and compare what the store says it kept."""
        kept, stayed = answer
        for depth, layer in enumerate(layers):
            for i, sequence in enumerate(sequences):
                row = depth * len(sequences) + i
                for head in range(SHAPE.heads):
                    entries = self.model[sequence].entries[layer, head]
                    mask = keep[depth, i, head]
                    stays = dict(
                        item for item, stay in zip(entries.items(), mask, strict=False) if stay
                    )
                    self.model[sequence].entries[layer, head] = stays
                    told = stayed[row, head].tolist()
                    assert kept[row, head] == len(stays)
                    assert told == [*stays] + [-1] * (len(told) - len(stays))

    @rule(
        places=st.lists(st.integers(0, SEQUENCES - 1), min_size=1, unique=True),
        sources=st.lists(st.integers(0, SEQUENCES - 1), min_size=SEQUENCES, max_size=SEQUENCES),
    )
    def put(self, places: list[int], sources: list[int]) -> None:
        sources = sources[: len(places)]
        self.store.put(places, sources)
        copies = [self.model[source].copied() for source in sources]
        for target, copied in zip(places, copies, strict=True):
            self.model[target] = copied

    @rule(sequence=st.integers(0, SEQUENCES - 1))
    def clear(self, sequence: int) -> None:
        self.store.clear(sequence)
        self.model[sequence] = Modelled(next(self.seeds))
        for group in self.store.groups:
            assert not group.keys[:, sequence].any()
            assert not group.values[:, sequence].any()

    @rule(sequence=st.integers(0, SEQUENCES - 1), place=st.integers(0, SEQUENCES - 1))
    def save_and_load(self, sequence: int, place: int) -> None:
        saved = self.store.save(sequence)
        copied = self.model[sequence].copied()
        self.store.clear(sequence)
        self.model[sequence] = Modelled(next(self.seeds))
        self.store.load(place, saved)
        self.model[place] = copied

    @rule(more=st.integers(-3, 4), beyond=st.none() | st.integers(0, 40))
    def reserve(self, more: int, beyond: int | None) -> None:
        wanted = [capacity + more for capacity in self.capacities.values()]
        limit = None if beyond is None else max(wanted) + beyond
        assert self.store.lacks_room(wanted) == (more > 0)
        self.store.reserve(wanted, limit=limit)
        if more > 0:
            for (layers, capacity), needed, group in zip(
                self.capacities.items(), wanted, self.store.groups, strict=True
            ):
                doubled = max(needed, 2 * capacity)
                ends = limit is not None and limit <= 1.25 * doubled
                assert group.capacity == (limit if ends else doubled)
                self.capacities[layers] = group.capacity

    @invariant()
    def every_head_holds_the_original_tensors_of_its_positions(self) -> None:
        keys = over_layers(self.store, lambda group: group.keys)
        values = over_layers(self.store, lambda group: group.values)
        for sequence, model in enumerate(self.model):
            for (layer, head), entries in model.entries.items():
                stored = held(self.store, layer, sequence, head)
                assert stored == list(entries)
                assert stored == sorted(set(stored))
                at = layer, sequence, head, slice(len(stored))
                assert torch.equal(keys[at], model.original.keys[layer, head, stored])
                assert torch.equal(values[at], model.original.values[layer, head, stored])

    @invariant()
    def a_lane_has_the_positions_of_all_its_layers(self) -> None:
        for sequence, model in enumerate(self.model):
            for (layer, head), entries in model.entries.items():
                found = self.store.positions(sequence)[layer, head]
                assert found[found >= 0].tolist() == list(entries)

    @invariant()
    def slots_after_the_entries_are_free(self) -> None:
        for group in self.store.groups:
            occupied = torch.arange(group.capacity) < group.lengths[..., None]
            everything = slice(0, group.shape.layers), range(SEQUENCES)
            found = group.positions(*everything, group.capacity)
            assert (found >= 0).equal(occupied)
            assert (found[~occupied] == -1).all()
            if self.needs.attention:
                assert not group.records[SUM][~occupied].any()

    @invariant()
    def the_host_knows_what_the_device_holds(self) -> None:
        store, model = self.store, self.model
        for group in store.groups:
            lengths = [m.lengths(group.layers) for m in model]
            assert group.widths == [max(held) for held in lengths]
            assert group.even == [len(set(held)) == 1 for held in lengths]
        assert store.widths == [max(m.lengths(range(SHAPE.layers))) for m in model]
        assert store.tokens_seen == store.seen.tolist() == [m.seen for m in model]
        dropped = [4 * m.seen - sum(m.lengths(range(SHAPE.layers))) for m in model]
        assert store.dropped.tolist() == dropped

    @invariant()
    def memory_changes_only_when_reserved(self) -> None:
        store = self.store
        assert [group.capacity for group in store.groups] == list(self.capacities.values())
        slots = sum(len(layers) * capacity for layers, capacity in self.capacities.items())
        elements = slots * SEQUENCES * SHAPE.heads * SHAPE.dim
        assert store.kv_bytes == 2 * 4 * elements
        assert store.peak_bytes == store.kv_bytes

    @invariant()
    def attention_follows_its_entries(self) -> None:
        if not self.needs.attention:
            assert not any(group.records for group in self.store.groups)
            return
        store = copy.deepcopy(
            self.store
        )  # the store itself may count it later, some steps together
        store.settle()
        sums = over_layers(store, lambda group: group.records[SUM])
        for sequence, model in enumerate(self.model):
            for (layer, head), entries in model.entries.items():
                received = sums[layer, sequence, head, : len(entries)]
                assert received.tolist() == pytest.approx(list(entries.values()), abs=1e-4)

    @invariant()
    def the_newest_queries_are_known_oldest_first(self) -> None:
        order = [2, 0]
        for group in self.store.groups:
            recent = group.recent_queries(slice(0, group.shape.layers), order)
            if recent is None:
                assert self.needs.queries == 0
                continue
            for i, sequence in enumerate(order):
                model, window = self.model[sequence], self.needs.queries
                known = min(window, model.seen)
                queries = model.original.queries[list(group.layers)]
                expected = queries[..., model.seen - known : model.seen, :]
                assert torch.equal(recent[:, i, ..., window - known :, :], expected)
                assert not recent[:, i, ..., : window - known, :].any()


SlotStoreMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None
)
TestTheStoreAgreesWithAPlainModel = SlotStoreMachine.TestCase


@pytest.mark.parametrize("sequences", [[0, 1, 2], [1, 2], [2], [0, 2], [2, 1]])
def test_a_span_indexes_its_sequences_and_copies_nothing_where_they_are_neighbours(
    sequences: list[int],
) -> None:
    tensor = torch.arange(4)
    assert tensor[span(sequences)].tolist() == sequences
    shared = tensor[span(sequences)].untyped_storage().data_ptr() == tensor.data_ptr()
    assert shared == (sequences == sorted(range(min(sequences), max(sequences) + 1)))
