"""The traces that the rambling reasoner learns from."""

import itertools
import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipkv._types import Thought
from skipkv.segmenters import MarkerWords
from skipkv.tiny.problem import Definition, Problem, draw
from skipkv.tiny.rambler import phrases
from skipkv.tiny.rambler.phrases import END, FACTS, IDS, TOKENS
from skipkv.tiny.rambler.traces import (
    GIVEN,
    LOSS_WEIGHTS,
    NEVER,
    Habits,
    Loss,
    Trace,
    write_trace,
)
from skipkv.tiny.vocabulary import tokenizer

SOUND = Habits(slip=1e-12, wrapped_slip=1e-12)
seeds = st.integers(0, 2**32)


def written(seed: int, *, habits: Habits | None = None, loss: Loss | None = None) -> tuple:
    rng = random.Random(seed)
    problem = draw(rng, least=6, most=7)
    return problem, write_trace(problem, rng, habits=habits, loss=loss)


def text_of(trace: Trace) -> str:
    return "".join(TOKENS[token] for token in trace.tokens)


def conclusions(trace: Trace) -> list[tuple[str, int, str]]:
    """The name and value at the end of each sentence, and the sentence after it."""
    thoughts = text_of(trace).split("<think>\n")[1].split(END)
    found = []
    for thought, after in itertools.pairwise(thoughts):
        if match := re.search(r" ([a-z])=(\d)$", thought):
            found.append((match[1], int(match[2]), after))
    return found


@given(seeds)
def test_a_writer_who_never_slips_gives_the_right_answer(seed):
    problem, trace = written(seed, habits=SOUND)
    assert trace.answer == problem.answer
    assert text_of(trace).endswith(rf"The code is \boxed{{{problem.answer}}}.<eos>")


@given(seeds)
def test_checks_go_on_until_two_results_in_a_row_agree(seed):
    _, trace = written(seed)
    told: dict[str, int] = {}
    for name, value, after in conclusions(trace):
        if after in phrases.AGREE:
            assert told[name] == value
        if after in phrases.DIFFER:
            assert told[name] != value
        told[name] = value


@given(seeds)
def test_the_answer_is_what_was_told_last(seed):
    problem, trace = written(seed)
    if trace.answer:  # else it was cut before its end
        told = {name: value for name, value, _ in conclusions(trace)}
        assert trace.answer == "".join(str(told[name]) for name in problem.asked)


@given(seeds)
def test_definitions_are_told_as_they_are_in_the_question(seed):
    problem, trace = written(seed, loss=Loss.draw(random.Random(seed)))
    for name, told in re.findall(r"\b([a-z]):(\S+?)(?=[;.,])", text_of(trace)):
        assert told == str(problem.definitions[name])


@given(seeds)
def test_nothing_is_lost_from_the_window_nor_before_an_event(seed):
    loss = Loss.draw(random.Random(seed))
    _, trace = written(seed, loss=loss)
    lost = np.flatnonzero(trace.expiry != NEVER)
    assert trace.expiry[0] == NEVER
    assert (trace.expiry[lost] >= lost + 8).all()
    assert (trace.expiry[lost] >= trace.prompt).all()


@given(seeds)
def test_without_care_an_event_leaves_the_budget(seed):
    rng = random.Random(seed)
    loss = Loss(budget=80, interval=32, by_sentence=0.5, care={"definition": 0.0, "value": 0.0})
    problem = draw(rng, least=6, most=7)
    trace = write_trace(problem, rng, loss=loss)
    for event in sorted(set(trace.expiry[trace.expiry != NEVER].tolist())):
        assert int((trace.expiry[:event] > event).sum()) == loss.budget


def test_lost_values_are_worked_out_anew():
    care = {"definition": 1.0, "value": 0.0}
    loss = Loss(budget=100, interval=32, by_sentence=0.5, care=care)
    traces = [written(seed, loss=loss)[1] for seed in range(20)]
    assert sum(trace.rederived for trace in traces) > 20
    whole = [trace for trace in traces if trace.answer]
    assert all(text_of(trace).count("no longer see") == trace.rederived for trace in whole)
    spared = Loss(budget=100, interval=32, by_sentence=0.5, care=dict.fromkeys(care, 1.0))
    kept = [written(seed, loss=spared)[1] for seed in range(20)]
    assert sum(t.rederived for t in kept) < sum(t.rederived for t in traces) / 4


def test_a_trace_is_cut_where_it_grows_too_long():
    problem = draw(random.Random(0), least=6, most=7)
    trace = write_trace(problem, random.Random(0), longest=300)
    assert len(trace.tokens) == len(trace.kinds) == len(trace.expiry) == 300


@given(seeds)
def test_text_and_tokens_are_one(seed):
    problem, trace = written(seed, loss=Loss.draw(random.Random(seed)))
    ours = tokenizer(TOKENS)
    assert ours(text_of(trace), add_special_tokens=False)["input_ids"] == trace.tokens
    chat = [{"role": "user", "content": problem.question}]
    prompt = ours.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text_of(trace).startswith(prompt)
    assert trace.kinds[: trace.prompt] == [GIVEN] * trace.prompt


def test_sampled_at_its_temperature_it_is_as_the_model_card_says():
    habits = Habits().sharpened(0.6)
    pairs = [written(seed, habits=habits) for seed in range(400)]
    right = sum(trace.answer == problem.answer for problem, trace in pairs) / 400
    lengths = [len(trace.tokens) for _, trace in pairs]
    facts = [np.isin(t.tokens[t.prompt :], list(FACTS)).mean() for _, t in pairs]
    assert 0.8 < right < 0.9
    assert 700 < np.mean(lengths) < 900
    assert np.mean(facts) < 0.17


def test_the_reflections_are_those_that_marker_words_find():
    classify = MarkerWords.english()
    for phrase in (*phrases.CHECKS, phrases.MORE, *phrases.BACK[1:]):
        assert classify(phrase) is Thought.REFLECTION
    for phrase in (*phrases.STEPS, *phrases.MUSINGS, phrases.REDO, phrases.LOST):
        assert classify(phrase) is Thought.EXECUTION
    assert classify(phrases.TRANSITION) is Thought.TRANSITION


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_habits_are_sharpened_as_a_softmax_is(temperature):
    chance = Habits().sharpened(temperature).slip
    powers = np.array([Habits().slip, 1 - Habits().slip]) ** (1 / temperature)
    assert chance == pytest.approx(powers[0] / powers.sum())


def test_the_ids_of_the_weights_stay_as_they_are():
    assert len(TOKENS) == len(IDS) == len(set(TOKENS))
    assert len(LOSS_WEIGHTS) == 4
    assert (IDS["a"], IDS["=0"], IDS[END]) == (7, 43, 59)
    problem = Problem(
        definitions={"a": Definition("7"), "b": Definition("a", "+", "5")},
        listed="ba",
        asked=("a", "b"),
    )
    assert (
        write_trace(problem, random.Random(0)).tokens[:8]
        == write_trace(problem, random.Random(1)).tokens[:8]
    )
