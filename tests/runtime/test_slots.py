"""The slot store against a model in plain Python, over random sequences of operations."""

import copy
from typing import Any

import pytest
import torch
from filled_stores import SHAPE, Original, all_positions, decode, empty, feed, held
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from skipkv._types import SUM, Needs
from skipkv.runtime.decode import DecodeForward
from skipkv.runtime.slots import span

SEQUENCES = 3
EVERY_HEAD = [(layer, head) for layer in range(SHAPE.layers) for head in range(SHAPE.heads)]


class Modelled:
    """A sequence as the plain model knows it."""

    def __init__(self, seed: int) -> None:
        self.original = Original(seed)
        self.seen = 0
        # per layer and head: position -> attention received
        self.entries: dict[tuple[int, int], dict[int, float]] = {at: {} for at in EVERY_HEAD}

    @property
    def lengths(self) -> list[int]:
        return [len(entries) for entries in self.entries.values()]

    def copied(self) -> "Modelled":
        other = copy.copy(self)
        other.entries = copy.deepcopy(self.entries)
        return other


class SlotStoreMachine(RuleBasedStateMachine):
    """Prompts, steps, compactions, moves, clearings and reservations, in any order."""

    @initialize(queries=st.sampled_from([0, 1, 3]), attention=st.booleans())
    def start(self, queries: int, attention: bool) -> None:
        self.needs = Needs(queries=queries, attention=attention)
        self.capacity = self.peak = 6
        self.store = empty(sequences=SEQUENCES, capacity=self.capacity, needs=self.needs)
        self.seeds = iter(range(10_000))
        self.model = [Modelled(next(self.seeds)) for _ in range(SEQUENCES)]

    @rule(data=st.data())
    def append(self, data: Any) -> None:
        first = data.draw(st.integers(0, SEQUENCES - 1), label="first")
        most = st.integers(1, SEQUENCES - first)
        counts = []
        for sequence in range(first, first + data.draw(most, label="rows")):
            room = self.capacity - max(self.model[sequence].lengths)
            counts.append(data.draw(st.integers(0, min(3, room)), label="count"))
        if not any(counts):
            return
        columns = max(counts) + data.draw(st.integers(0, 2), label="padding")
        originals = [sequence.original for sequence in self.model]
        forward, _ = feed(self.store, originals, counts, first=first, columns=columns)
        for sequence, count in enumerate(counts, start=first):
            model = self.model[sequence]
            for entries in model.entries.values():
                entries.update({model.seen + i: 0.0 for i in range(count)})
            model.seen += count
        if self.needs.attention:
            self.attend(forward, counts, first, data.draw(st.integers(0, 99), label="seed"))

    def attend(self, forward: Any, counts: list[int], first: int, seed: int) -> None:
        """Every real column gives every entry it sees a small whole number."""
        random = torch.Generator().manual_seed(seed)
        columns = forward.columns
        shape = len(counts), SHAPE.heads, SHAPE.groups, columns, forward.width
        rows = slice(first, first + len(counts))
        for layer in range(SHAPE.layers):
            weights = torch.randint(0, 4, shape, generator=random).float()
            if isinstance(forward, DecodeForward):
                occupied = all_positions(self.store)[layer, rows, :, : forward.width] >= 0
                weights = weights * occupied[:, :, None, None]
                forward.add_attention(layer, weights.squeeze(3))
            else:
                weights = weights * forward.mask(layer)[:, :, None]
                cut = columns // 2
                for tile in (slice(0, cut), slice(cut, columns + 5)):
                    forward.add_attention(layer, weights[..., tile, :], tile)
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
        room = self.capacity - max(max(model.lengths) for model in models)
        if not room or not all(model.seen for model in models):
            return
        steps = data.draw(st.integers(1, room), label="steps")
        originals = [sequence.original for sequence in self.model]
        forward = decode(self.store, originals, first=first, last=last, steps=steps, fixed=fixed)
        assert forward.current == (fixed or forward.width < self.capacity)
        for model in models:
            for entries in model.entries.values():
                entries.update({model.seen + i: 0.0 for i in range(steps)})
            model.seen += steps

    @rule(data=st.data(), seed=st.integers(0, 2**16), density=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    def compact(self, data: Any, seed: int, density: float) -> None:
        everyone = st.permutations(range(SEQUENCES))
        number = data.draw(st.integers(1, SEQUENCES), label="sequences")
        sequences = data.draw(everyone, label="order")[:number]
        step = data.draw(st.integers(1, SHAPE.layers), label="layers at once")
        width = max(max(self.model[s].lengths) for s in sequences)
        most = data.draw(st.sampled_from([None, width]), label="most")
        random = torch.Generator().manual_seed(seed)
        for start in range(0, SHAPE.layers, step):
            layers = slice(start, start + step)
            occupied = self.store.positions(layers, sequences, width) >= 0
            keep = (torch.rand(occupied.shape, generator=random) < density) & occupied
            kept, stayed = self.store.compact(layers, sequences, keep.flatten(0, 1), most=most)
            for depth, layer in enumerate(range(start, start + step)):
                for i, sequence in enumerate(sequences):
                    row = depth * number + i
                    for head in range(SHAPE.heads):
                        entries = self.model[sequence].entries[layer, head]
                        stays = dict(
                            item
                            for item, stay in zip(
                                entries.items(), keep[depth, i, head], strict=False
                            )
                            if stay
                        )
                        self.model[sequence].entries[layer, head] = stays
                        told = stayed[row, head].tolist()
                        assert kept[row, head] == len(stays)
                        assert told == [*stays] + [-1] * (len(told) - len(stays))
        self.store.compacted(sequences)

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
        assert not self.store.keys[:, sequence].any()
        assert not self.store.values[:, sequence].any()

    @rule(more=st.integers(-3, 4), beyond=st.none() | st.integers(0, 40))
    def reserve(self, more: int, beyond: int | None) -> None:
        wanted = self.capacity + more
        limit = None if beyond is None else wanted + beyond
        self.store.reserve(wanted, limit=limit)
        if more > 0:
            doubled = max(wanted, 2 * self.capacity)
            ends = limit is not None and limit <= 1.25 * doubled
            assert self.store.capacity == (limit if ends else doubled)
            self.capacity = self.store.capacity

    @invariant()
    def every_head_holds_the_original_tensors_of_its_positions(self) -> None:
        for sequence, model in enumerate(self.model):
            for (layer, head), entries in model.entries.items():
                stored = held(self.store, layer, sequence, head)
                assert stored == list(entries)
                assert stored == sorted(set(stored))
                at = layer, sequence, head, slice(len(stored))
                assert torch.equal(self.store.keys[at], model.original.keys[layer, head, stored])
                assert torch.equal(
                    self.store.values[at], model.original.values[layer, head, stored]
                )

    @invariant()
    def slots_after_the_entries_are_free(self) -> None:
        occupied = torch.arange(self.capacity) < self.store.lengths[..., None]
        found = all_positions(self.store)
        assert (found >= 0).equal(occupied)
        assert (found[~occupied] == -1).all()
        if self.store.records.get(SUM) is not None:
            assert not self.store.records[SUM][~occupied].any()

    @invariant()
    def the_host_knows_what_the_device_holds(self) -> None:
        store, model = self.store, self.model
        assert store.widths == [max(m.lengths) for m in model]
        assert store.even == [len(set(m.lengths)) == 1 for m in model]
        assert store.tokens_seen == store.seen.tolist() == [m.seen for m in model]

    @invariant()
    def memory_changes_only_when_reserved(self) -> None:
        store = self.store
        assert store.capacity == self.capacity
        elements = SHAPE.layers * SEQUENCES * SHAPE.heads * self.capacity * SHAPE.dim
        assert store.kv_bytes == store.keys.nbytes + store.values.nbytes == 2 * 4 * elements
        assert store.peak_bytes == store.kv_bytes

    @invariant()
    def attention_follows_its_entries(self) -> None:
        if self.store.records.get(SUM) is None:
            assert not self.needs.attention
            return
        for sequence, model in enumerate(self.model):
            for (layer, head), entries in model.entries.items():
                received = self.store.records[SUM][layer, sequence, head, : len(entries)]
                assert received.tolist() == list(entries.values())

    @invariant()
    def the_newest_queries_are_known_oldest_first(self) -> None:
        order = [2, 0]
        recent = self.store.recent_queries(slice(0, SHAPE.layers), order)
        if recent is None:
            assert self.needs.queries == 0
            return
        for i, sequence in enumerate(order):
            model, window = self.model[sequence], self.needs.queries
            known = min(window, model.seen)
            expected = model.original.queries[..., model.seen - known : model.seen, :]
            assert torch.equal(recent[:, i, ..., window - known :, :], expected)
            assert not recent[:, i, ..., : window - known, :].any()


SlotStoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=12, deadline=None
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
