"""Entries held on average: the closed form against counting step by step."""

from hypothesis import given
from hypothesis import strategies as st

from skipkv import Engine, presets
from skipkv.runtime.requests.sequence import Sequence
from skipkv.testing import toy_model, toy_tokenizer


def mean(prompt: int, new: int, events: list[tuple[int, int]], heads: int) -> float:
    sequence = Sequence(prompt_tokens=prompt)
    for seen, evicted in events:
        sequence.drop(evicted, seen=seen)
    return sequence.mean_entries(new, heads)


@given(
    st.integers(1, 20),
    st.integers(2, 30),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=4),
)
def test_every_step_counts_what_is_there_when_it_attends(prompt, new, events):
    heads = 2
    events = [(seen, evicted) for seen, evicted in events if seen <= prompt + new - 1]
    steps = range(prompt + 1, prompt + new)  # tokens there are after each decode step's append
    held = [t - sum(e / heads for seen, e in events if seen < t) for t in steps]
    assert abs(mean(prompt, new, events, heads) - sum(held) / len(held)) < 1e-9


def test_a_single_token_is_decoded_from_the_prompt_alone():
    assert mean(30, 1, [(30, 20)], 2) == 20.0


def test_a_policy_holds_between_its_budget_and_an_interval_more():
    engine = Engine(toy_model(), toy_tokenizer(), presets.streaming_llm(32, interval=8))
    [done] = engine.generate(["one plus two"], max_new_tokens=200)
    assert 30 < done.stats.mean_entries < 40
