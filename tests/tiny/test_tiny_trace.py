"""The traces: every line of thought is true, and says what it depends on."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from skipkv import Thought
from skipkv.segmenters import MarkerWords
from skipkv.tiny.problem import draw
from skipkv.tiny.traces import GOAL, LOOKUP_WEIGHT, START, Trace, write_trace

SEEDS = st.integers(0, 10**6)


def drawn(seed: int) -> tuple[str, Trace]:
    rng = random.Random(seed)
    problem = draw(rng)
    return problem, write_trace(problem, rng)


def thoughts(trace: Trace) -> list[str]:
    text = "".join(trace.tokens).partition("<think>\n")[2].partition("</think>")[0]
    return text.removesuffix("\n\n").split("\n\n")


@given(SEEDS)
def test_every_value_told_is_the_value(seed):
    problem, trace = drawn(seed)
    for thought in thoughts(trace):
        for name, digit in re.findall(r"([a-z])=(\d)", thought):
            assert problem.values[name] == int(digit), thought


@given(SEEDS)
def test_every_sum_is_right_modulo_ten(seed):
    _, trace = drawn(seed)
    for thought in thoughts(trace):
        for left, operator, right, result in re.findall(r"(\d)([+-])(\d)=(\d)", thought):
            assert eval(left + operator + right) % 10 == int(result), thought


@given(SEEDS)
def test_every_definition_repeated_is_the_one_given(seed):
    problem, trace = drawn(seed)
    for thought in thoughts(trace):
        for name, said in re.findall(r"([a-z]):([a-z0-9+-]+)[.,]", thought):
            assert str(problem.definitions[name]) == said, thought


@given(SEEDS)
def test_each_name_is_worked_out_once_and_in_order(seed):
    problem, trace = drawn(seed)
    worked = [thought[0] for thought in thoughts(trace) if re.match(r"[a-z]:", thought)]
    assert worked == list(problem.definitions)


@given(SEEDS)
def test_the_marker_words_know_the_kinds_of_thought(seed):
    """What the runtime takes for an execution is one: each name once, and the answer."""
    problem, trace = drawn(seed)
    classify = MarkerWords.english()
    kinds = [classify(thought) for thought in thoughts(trace)]
    assert kinds.count(Thought.EXECUTION) == len(problem.definitions) + 1
    marked = [execution for _, _, execution in trace.sentences]
    assert [kind is Thought.EXECUTION for kind in kinds] == marked


@given(SEEDS)
def test_the_trace_ends_in_the_boxed_answer(seed):
    problem, trace = drawn(seed)
    assert "".join(trace.tokens).endswith(
        f"\n\n</think>\n\nThe code is \\boxed{{{problem.answer}}}.<eos>"
    )


@given(SEEDS)
def test_sentences_tile_the_thinking(seed):
    _, trace = drawn(seed)
    assert trace.sentences[0][0] == trace.prompt
    for (_, end, _), (begin, _, _) in zip(trace.sentences, trace.sentences[1:], strict=False):
        assert end == begin
    assert all(trace.tokens[end - 1] == ".\n\n" for _, end, _ in trace.sentences)


@given(SEEDS)
def test_what_is_looked_up_was_told_before(seed):
    _, trace = drawn(seed)
    for fact, position in trace.needs:
        assert any(copy == fact and told[-1] < position for copy, told in trace.copies), fact


@given(SEEDS)
def test_copies_lie_where_they_say(seed):
    problem, trace = drawn(seed)
    first = next(iter(problem.definitions))
    for fact, told in trace.copies:
        words = "".join(trace.tokens[position] for position in told)
        if fact == START:
            assert words == first
        elif fact == GOAL:
            assert words == "".join(problem.asked)
        elif fact[0] == "definition":
            assert words == str(problem.definitions[fact[1]])
        else:
            assert words == f"={problem.values[fact[1]]}"


@given(SEEDS)
def test_errors_in_the_prompt_cost_nothing_and_lookups_cost_most(seed):
    _, trace = drawn(seed)
    assert not any(trace.weights[: trace.prompt])
    assert all(0 < weight <= LOOKUP_WEIGHT for weight in trace.weights[trace.prompt :])


def test_traces_have_all_kinds_of_thought_and_a_few_hundred_tokens():
    kinds = {"Wait, let": 0, "Wait, ": 0, "Hmm, let": 0, "Hmm, check": 0, "Alternatively": 0}
    lengths, reflective, total = [], 0, 0
    for seed in range(200):
        _, trace = drawn(seed)
        lengths.append(len(trace.tokens))
        for thought in thoughts(trace):
            for opener in kinds:
                kinds[opener] += thought.startswith(opener)
        reflective += sum(not execution for _, _, execution in trace.sentences)
        total += len(trace.sentences)
    assert min(kinds.values()) > 50
    assert 300 < sum(lengths) / len(lengths) < 500
    assert 0.3 < reflective / total < 0.45
