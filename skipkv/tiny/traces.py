"""Training traces of the embedded reasoner: a chain of thoughts for every problem."""

import random

import attrs

from skipkv.tiny.problem import Problem
from skipkv.tiny.vocabulary import ASSISTANT, DIGITS, END_THINK, EOS, NAMES, THINK, USER

START, GOAL = "start", "goal"
"""The facts that say where to start and what is asked; the others are ("value", name) and
("definition", name)."""

Fact = str | tuple[str, str]

# The thought after a step is random, but not uniform: the digits of the step make some thoughts
# likely, so that greedy decoding reflects as often as training traces do.
_LIKELY, _UNLIKELY = 0.85, 0.12
CHOICE_WEIGHT = 0.4
"""Loss weight of random tokens: the first words of a thought."""
LOOKUP_WEIGHT = 3.0
"""Loss weight of values looked up: they are few, and all later tokens depend on them."""


@attrs.define
class Trace:
    """A prompt and its thoughts, token by token, with the facts that later tokens depend on.

    Args:
        tokens: the words, the prompt's first.
        prompt: number of tokens of the prompt.
        weights: loss weight of each token; 0 in the prompt.
        sentences: (first position, position after the last, is it an execution) of each sentence.
        copies: (fact, positions that state it).
        needs: (fact, position that looks it up).
    """

    tokens: list[str] = attrs.field(factory=list)
    prompt: int = 0
    weights: list[float] = attrs.field(factory=list)
    sentences: list[tuple[int, int, bool]] = attrs.field(factory=list)
    copies: list[tuple[Fact, tuple[int, ...]]] = attrs.field(factory=list)
    needs: list[tuple[Fact, int]] = attrs.field(factory=list)

    def write(self, *tokens: str, weight: float = 1.0) -> tuple[int, ...]:
        """Append tokens; returns their positions."""
        first = len(self.tokens)
        self.tokens.extend(tokens)
        self.weights.extend([weight] * len(tokens))
        return tuple(range(first, len(self.tokens)))


def write_trace(problem: Problem, rng: random.Random) -> Trace:
    """A prompt in the form of the chat template, a chain of thoughts, and the answer.

    Each name is worked out in one execution sentence. Reflections follow some of them: the same
    step in the same words, in other words or shortened, or the step of an operand. Sometimes a
    transition states the goal again.
    """
    writer = _Writer(problem, rng)
    writer.question()
    writer.trace.prompt = len(writer.trace.tokens)
    writer.trace.weights = [0.0] * writer.trace.prompt
    for name in problem.definitions:
        writer.step(name)
    writer.answer()
    return writer.trace


class _Writer:
    def __init__(self, problem: Problem, rng: random.Random) -> None:
        self.trace = Trace()
        self._problem = problem
        self._values = problem.values
        self._rng = rng

    # ---- the prompt and the answer

    def question(self) -> None:
        write = self.trace.write
        write(USER)
        for number, name in enumerate(self._problem.listed):
            if number:
                write("; ")
            write(name, ":")
            self._definition(name, look_up=False)
        write(". ", "Start at ")
        self._start()
        write(", find ")
        self._goal()
        write(".\n", ASSISTANT, THINK, "\n")

    def answer(self) -> None:
        write, (first, second) = self.trace.write, self._problem.asked
        begin = len(self.trace.tokens)
        self._need(GOAL)
        write("So ")
        self._value(first)
        write(" and ")
        self._value(second)
        write(", the code is ", *self._problem.answer, ".\n\n")
        self._sentence(begin, execution=True)
        write(END_THINK, "\n\n", "The code is ", r"\boxed{", *self._problem.answer, "}.", EOS)

    # ---- thoughts

    def step(self, name: str) -> None:
        """Write the step of a name, and perhaps a reflection or a transition."""
        digit, rng = self._values[name], self._rng
        self._execution(name)
        if rng.random() >= (_LIKELY if self._wraps(name) else _UNLIKELY):
            if rng.random() < (_LIKELY if digit == 5 else 0.02):
                self._transition()
            return
        usual = (self._same_words, self._shortened, self._other_words)[digit % 3]
        unusual = rng.choice((self._same_words, self._shortened, self._other_words))
        (usual if rng.random() < _LIKELY else unusual)(name)
        if rng.random() < (_LIKELY if digit in (1, 4, 7) else _UNLIKELY / 2):
            left = self._problem.definitions[name].left
            if left in NAMES:
                self._operand(left)
            else:
                self._same_words(name)

    def _execution(self, name: str) -> None:
        begin = len(self.trace.tokens)
        self.trace.write(name, weight=CHOICE_WEIGHT)
        self._work(name)
        self._sentence(begin, execution=True)

    def _same_words(self, name: str) -> None:
        begin = len(self.trace.tokens)
        self.trace.write("Wait, ", name, weight=CHOICE_WEIGHT)
        self._work(name)
        self._sentence(begin, execution=False)

    def _shortened(self, name: str) -> None:
        begin = len(self.trace.tokens)
        self.trace.write("Wait, ", "let me ", weight=CHOICE_WEIGHT)
        self.trace.write("double-check: ")
        self._sum(name)
        self.trace.write(", so ")
        self._conclusion(name)
        self._sentence(begin, execution=False)

    def _other_words(self, name: str) -> None:
        begin = len(self.trace.tokens)
        self.trace.write("Hmm, ", "let me ", "verify ", weight=CHOICE_WEIGHT)
        self.trace.write(name, " again: ")
        self._sum(name, inverted=True)
        self.trace.write(", yes ")
        self._conclusion(name)
        self._sentence(begin, execution=False)

    def _operand(self, name: str) -> None:
        begin = len(self.trace.tokens)
        self.trace.write("Hmm, ", "check ", weight=CHOICE_WEIGHT)
        self.trace.write(name, " again: ", name)
        self._work(name)
        self._sentence(begin, execution=False)

    def _transition(self) -> None:
        begin = len(self.trace.tokens)
        self.trace.write("Alternatively, ", weight=CHOICE_WEIGHT)
        self.trace.write("from ")
        self._need(START)
        self._start()
        self.trace.write(" we need ")
        self._need(GOAL)
        self._goal()
        self.trace.write(".\n\n")
        self._sentence(begin, execution=False)

    # ---- their pieces

    def _work(self, name: str) -> None:
        """Write what follows a name: its definition, its operands' values, the sum, its value."""
        write, definition = self.trace.write, self._problem.definitions[name]
        write(":")
        self._definition(name, look_up=True)
        if definition.operator:
            write(". ")
            for operand in (definition.left, definition.right):
                if operand in NAMES:
                    self._value(operand)
                    write(", ")
            self._sum(name)
        write(", so ")
        self._conclusion(name)

    def _definition(self, name: str, *, look_up: bool) -> None:
        definition = self._problem.definitions[name]
        fact = ("definition", name)
        if look_up:
            self._need(fact)
        tokens = [t for t in (definition.left, definition.operator, definition.right) if t]
        self.trace.copies.append((fact, self.trace.write(*tokens)))

    def _value(self, name: str) -> None:
        """Look a value up, which states it once more."""
        self.trace.write(name)
        self._need(("value", name))
        told = self.trace.write(f"={self._values[name]}", weight=LOOKUP_WEIGHT)
        self.trace.copies.append((("value", name), told))

    def _conclusion(self, name: str) -> None:
        self.trace.write(name)
        told = self.trace.write(f"={self._values[name]}")
        self.trace.copies.append((("value", name), told))
        self.trace.write(".\n\n")

    def _sum(self, name: str, *, inverted: bool = False) -> None:
        definition = self._problem.definitions[name]
        result = str(self._values[name])
        if not definition.operator:
            self.trace.write(result)
            return
        left = str(self._values[definition.left])
        right = definition.right
        right = right if right in DIGITS else str(self._values[right])
        if not inverted:
            self.trace.write(left, definition.operator, right, "=" + result)
        elif definition.operator == "+":
            self.trace.write(right, "+", left, "=" + result)
        else:
            self.trace.write(result, "+", right, "=" + left)

    def _start(self) -> None:
        self.trace.copies.append((START, self.trace.write(next(iter(self._values)))))

    def _goal(self) -> None:
        first, second = self._problem.asked
        told = (*self.trace.write(first), *self.trace.write(" and ", second)[1:])
        self.trace.copies.append((GOAL, told))

    def _need(self, fact: Fact) -> None:
        self.trace.needs.append((fact, len(self.trace.tokens)))

    def _sentence(self, begin: int, *, execution: bool) -> None:
        self.trace.sentences.append((begin, len(self.trace.tokens), execution))

    def _wraps(self, name: str) -> bool:
        """Whether the sum is not a digit, so that modulo 10 changes it."""
        definition = self._problem.definitions[name]
        if not definition.operator:
            return False
        left, right = self._values[definition.left], definition.right
        other = int(right) if right in DIGITS else self._values[right]
        return not 0 <= (left + other if definition.operator == "+" else left - other) <= 9
