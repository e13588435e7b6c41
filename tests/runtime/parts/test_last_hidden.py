"""The ring of hidden states, against lists that forget nothing."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.runtime.parts.last_hidden import LastHidden
from skipkv.runtime.store.decode import DecodeForward

SEQUENCES, SIZE = 3, 2


class Forward(DecodeForward):
    """What the ring reads of a forward pass over sequences that have seen so many tokens."""

    def __init__(self, first: int, seen: list[int], *, fixed: bool) -> None:
        self.first, self.last = first, first + len(seen)
        self.fixed = fixed
        self.newest = seen[0] - 1 if len(set(seen)) == 1 and not fixed else None
        self.positions = torch.tensor(seen)[:, None] - 1

    def step(self) -> None:
        self.positions = self.positions + 1
        if self.newest is not None:
            self.newest += 1


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kept=st.integers(1, 7), waiting=st.integers(1, 5))
def test_the_newest_states_are_those_of_the_last_steps(data: Any, kept: int, waiting: int) -> None:
    ring = LastHidden(SEQUENCES, kept=kept, hidden_size=SIZE, device="cpu", waiting=waiting)
    prompts = data.draw(st.lists(st.integers(1, 9), min_size=SEQUENCES, max_size=SEQUENCES))
    seen, states = list(prompts), [[] for _ in prompts]  # type: ignore[var-annotated]
    number = 0.0
    for _ in range(data.draw(st.integers(1, 6), label="stretches")):
        first = data.draw(st.integers(0, SEQUENCES - 1), label="first")
        last = data.draw(st.integers(first + 1, SEQUENCES), label="last")
        forward = Forward(first, seen[first:last], fixed=data.draw(st.booleans()))
        for _ in range(data.draw(st.integers(1, 9), label="steps")):
            forward.step()
            number += 1
            ring.add(forward, torch.full((last - first, SIZE), number))
            for sequence in range(first, last):
                seen[sequence] += 1
                states[sequence].append(number)
        if data.draw(st.booleans(), label="put"):
            lanes = st.lists(st.integers(0, SEQUENCES - 1), min_size=2, max_size=2, unique=True)
            targets, sources = data.draw(lanes), data.draw(lanes)
            ring.put(targets, sources)
            moved = [(seen[source], list(states[source])) for source in sources]
            for target, (count, held) in zip(targets, moved, strict=True):
                seen[target], states[target] = count, held
        sequence = data.draw(st.integers(0, SEQUENCES - 1), label="read")
        count = data.draw(st.integers(0, min(kept, len(states[sequence]))), label="count")
        found = ring.newest(sequence, count, seen=seen[sequence])
        assert found[:, 0].tolist() == states[sequence][len(states[sequence]) - count :]


def test_states_of_any_float_are_kept_in_float32() -> None:
    ring = LastHidden(1, kept=2, hidden_size=SIZE, device="cpu")
    forward = Forward(0, [1], fixed=False)
    forward.step()
    ring.add(forward, torch.ones(1, SIZE, dtype=torch.bfloat16))
    assert ring.newest(0, 1, seen=2).dtype == torch.float32
