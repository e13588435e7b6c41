"""Laps: every prefill, step and event of a decode, once."""

import pytest

from skipkv import Engine, presets
from skipkv.runtime.results.timing import Timings
from skipkv.testing import toy_model, toy_tokenizer

PROMPTS = [list(range(5, 15)), list(range(20, 30))]


def test_every_prefill_step_and_event_is_a_lap() -> None:
    timings = Timings()
    engine = Engine(toy_model(), toy_tokenizer(), presets.streaming_llm(16, interval=8))
    list(engine.generate(PROMPTS, max_new_tokens=30, observers=[timings]))
    assert len(timings.prefill) == 1
    assert len(timings.steps) == 29
    # tokens 17, 25, 33 are k * 8 + 1; the prompt ends at 10
    assert len(timings.events) == 3
    assert min(timings.prefill + timings.steps + timings.events) > 0


def test_steps_between_two_readings_of_the_tokens_are_all_counted() -> None:
    timings = Timings()
    engine = Engine(toy_model(), toy_tokenizer(), presets.full())
    list(engine.generate(PROMPTS, max_new_tokens=30, observers=[timings]))
    assert len(timings.steps) == 29
    assert len(set(timings.steps)) == 2  # bursts of 16 and 13, each at its mean


def test_laps_leave_out_what_the_reader_of_the_results_does() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    timings = Timings(clock)
    engine = Engine(toy_model(), toy_tokenizer(), presets.full(), batch_size=1)
    completions = engine.generate(PROMPTS, max_new_tokens=4, observers=[timings])
    next(completions)
    now += 1000.0
    list(completions)
    assert timings.prefill == [1.0, 1.0]
    assert timings.steps == [pytest.approx(1 / 3)] * 6  # a burst of three for each


def test_a_decode_without_timings_says_the_same() -> None:
    engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(16, window=4, interval=8))
    timed = engine.generate(PROMPTS, max_new_tokens=30, observers=[Timings()])
    assert [c.tokens for c in timed] == [
        c.tokens for c in engine.generate(PROMPTS, max_new_tokens=30)
    ]


def test_a_burst_is_spread_over_its_steps() -> None:
    timings = Timings(iter([0.0, 8.0]).__next__)
    timings.resume()
    assert timings.lap("step", steps=4) == 8.0
    assert timings.steps == [2.0] * 4
