"""Entries held: the closed form against counting step by step."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from skipkv import Engine, EventRecord, presets
from skipkv.evaluation.held import mean_entries_held
from skipkv.runtime import Completion, Stats
from skipkv.testing import toy_model, toy_tokenizer


def completion(prompt: int, new: int, events: list[tuple[int, int]]) -> Completion:
    nothing = torch.empty(1, 1, 0, dtype=torch.long)
    return Completion(
        index=0, sample=0, prompt_tokens=prompt, tokens=(), text="", stop_reason="eos",
        stats=Stats(new_tokens=new, events=len(events), evicted=0, peak_entries=0,
                    peak_kv_bytes=0, seconds=0.0),
        trace=tuple(EventRecord(seen=s, entries=0, evicted=e, kept=nothing) for s, e in events),
    )  # fmt: skip


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
    found = mean_entries_held(completion(prompt, new, events), heads)
    assert abs(found - sum(held) / len(held)) < 1e-9


def test_a_single_token_is_decoded_from_the_prompt_alone():
    assert mean_entries_held(completion(30, 1, [(30, 20)]), 2) == 20.0


def test_a_policy_holds_between_its_budget_and_an_interval_more():
    model, tokenizer = toy_model(), toy_tokenizer()
    engine = Engine(model, tokenizer, presets.streaming_llm(32, interval=8))
    [done] = engine.generate(["one plus two"], max_new_tokens=200, trace=True)
    heads = model.config.num_hidden_layers * model.config.num_key_value_heads
    assert 30 < mean_entries_held(done, heads) < 40
