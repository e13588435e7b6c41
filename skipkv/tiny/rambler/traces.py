"""Training traces of the rambling reasoner: thoughts that err, check themselves and lose facts."""

import math
import random

import attrs
import numpy as np
from numpy.typing import NDArray

from skipkv.tiny.problem import Definition, Problem
from skipkv.tiny.rambler import phrases
from skipkv.tiny.rambler.phrases import DEFINITION, END, GOAL, IDS, VALUE
from skipkv.tiny.vocabulary import ASSISTANT, END_THINK, EOS, NAMES, THINK, USER

NEVER = np.iinfo(np.int16).max
GIVEN, SURE, CHOICE, LOOKUP, LOSS_WEIGHTS = 0, 1, 2, 3, (0.0, 1.0, 0.4, 3.0)
"""The kinds of tokens: the prompt's, those that follow from what is before, the random ones, and
the facts looked up; and the loss weight of each kind."""


@attrs.frozen(kw_only=True)
class Habits:
    """How often a writer errs and doubts: probabilities.

    Args:
        slip: a result is one too large, if the sum stays below ten and above minus one.
        wrapped_slip: the same for a sum that modulo 10 changes.
        check: a step is followed by a check; the check goes on until two results in a row agree.
        wrapped_check: the same after a sum that modulo 10 changes.
        more: two agreeing results are followed by one more check.
        back: a step is followed by a look at an old one.
        doubtful_back: the same after two results that did not agree.
        muse: a step is followed by a thought without a number.
        turn: a step is followed by a thought about the goal.
        rederive: a value that can no longer be seen is worked out anew, and not guessed.
    """

    slip: float = 0.05
    wrapped_slip: float = 0.27
    check: float = 0.35
    wrapped_check: float = 0.7
    more: float = 0.25
    back: float = 0.15
    doubtful_back: float = 0.5
    muse: float = 0.85
    turn: float = 0.12
    rederive: float = 0.7

    def sharpened(self, temperature: float) -> "Habits":
        """The habits of a model that learned these and is sampled at a temperature."""

        def sharp(chance: float) -> float:
            odds = math.exp(math.log(chance / (1 - chance)) / temperature)
            return odds / (1 + odds)

        return Habits(**{field: sharp(value) for field, value in attrs.asdict(self).items()})


@attrs.frozen(kw_only=True)
class Loss:
    """The entries that a trace loses while it is written.

    Args:
        budget: entries visible after an event.
        interval: tokens between two events.
        by_sentence: how far the tokens of a sentence are lost together, 0 to 1.
        care: for definitions and for values, the chance that an event spares a visible telling
            of one, 0 to 1.
    """

    budget: int
    interval: int
    by_sentence: float
    care: dict[str, float]

    @classmethod
    def draw(cls, rng: random.Random) -> "Loss":
        """Chosen at random, independent of any eviction method."""
        definitions = rng.choice([1.0, 1.0, rng.random(), 0.0])
        values = rng.choice([1.0, rng.random(), 0.0])
        return cls(
            budget=round(math.exp(rng.uniform(math.log(60), math.log(600)))),
            interval=rng.randint(16, 96),
            by_sentence=rng.random(),
            care={"definition": definitions, "value": min(values, definitions)},
        )


@attrs.frozen
class Trace:
    """A prompt and its thoughts.

    Args:
        tokens: token ids, [T].
        prompt: number of tokens of the prompt.
        kinds: the kind of each token, [T].
        expiry: the first position that no longer sees each token, [T]; NEVER for most.
        answer: the code at its end; empty if the trace was cut before it.
        checks: number of results that were compared with an earlier one.
        rederived: number of values that were worked out anew because they were lost.
    """

    tokens: list[int]
    prompt: int
    kinds: list[int]
    expiry: NDArray[np.int16]
    answer: str
    checks: int
    rederived: int


def write_trace(
    problem: Problem,
    rng: random.Random,
    *,
    habits: Habits | None = None,
    loss: Loss | None = None,
    longest: int = 1408,
) -> Trace:
    """A prompt in the form of the chat template, thoughts and an answer, cut at `longest` tokens.

    The writer believes what it wrote last. It may err, and it only knows that it did when a check
    gives something else. Two results in a row that agree end the checks. With `loss`, entries
    become invisible while it writes; a value that it needs and does not see is derived again.
    """
    writer = _Writer(problem, rng, habits or Habits(), loss, longest)
    writer.question()
    for name in problem.definitions:
        writer.name(name)
    writer.answer()
    return writer.trace(longest)


class _Writer:
    def __init__(
        self, problem: Problem, rng: random.Random, habits: Habits, loss: Loss | None, longest: int
    ) -> None:
        self._problem = problem
        self._rng = rng
        self._habits = habits
        self._tokens: list[int] = []
        self._kinds: list[int] = []
        self._prompt = 0
        self._believed: dict[str, int] = {}
        # the positions of each visible telling of a name's definition and value
        self._told: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        self._checks = self._rederived = 0
        self._code = ""
        self._eviction = _Eviction(loss, rng, longest) if loss else None
        self._expiry = (
            self._eviction.expiry if self._eviction else np.full(longest, NEVER, dtype=np.int16)
        )

    def trace(self, longest: int) -> Trace:
        """What was written."""
        answer = self._code if len(self._tokens) <= longest else ""
        return Trace(
            self._tokens[:longest], self._prompt, self._kinds[:longest],
            self._expiry[: len(self._tokens)], answer, self._checks, self._rederived,
        )  # fmt: skip

    # ---- the prompt and the answer

    def question(self) -> None:
        """Write the prompt."""
        self._write(GIVEN, USER)
        for number, name in enumerate(self._problem.listed):
            if number:
                self._write(GIVEN, "; ")
            self._definition(name, kind=GIVEN)
        self._write(GIVEN, ". ", "Start at ", next(iter(self._problem.definitions)), ", find ")
        self._goal(GIVEN)
        self._write(GIVEN, ".\n", ASSISTANT, THINK, "\n")
        self._prompt = len(self._tokens)
        if self._eviction:
            self._eviction.begin(self._prompt)

    def answer(self) -> None:
        """Write the last thought, and the answer after the thoughts."""
        asked = self._problem.asked
        self._recover(asked)
        before, after = phrases.ANSWER.split(VALUE)
        self._phrase(before)
        self._values(asked)
        self._phrase(VALUE + after)
        self._code = "".join(str(self._believed[name]) for name in asked)
        self._write(SURE, *self._code, END, END_THINK, "\n\n")
        self._write(SURE, "The code is ", r"\boxed{", *self._code, "}.", EOS)

    # ---- thoughts

    def name(self, name: str) -> None:
        """Work a name out, and whatever comes to mind after it."""
        rng, habits = self._rng, self._habits
        wraps = self._work(name, rng.choice(phrases.STEPS))
        doubtful = False
        if rng.random() < (habits.wrapped_check if wraps else habits.check):
            doubtful = self._settle(name, rng.choice(phrases.CHECKS))
            if rng.random() < habits.more:
                doubtful |= self._settle(name, phrases.MORE)
        if rng.random() < (habits.doubtful_back if doubtful else habits.back):
            self._look_back()
        if rng.random() < habits.muse:
            self._sentence(rng.choice(phrases.MUSINGS))
        if rng.random() < habits.turn:
            self._turn()

    def _work(self, name: str, opening: str) -> bool:
        """Work a name out in one sentence; returns whether modulo 10 changed the sum."""
        definition = self._problem.definitions[name]
        self._recover(_operands(definition))
        self._phrase(opening.removesuffix(DEFINITION))
        self._definition(name, kind=LOOKUP)
        if operands := _operands(definition):
            self._phrase(self._rng.choice(phrases.GIVEN).removesuffix(VALUE))
            self._values(operands)
        total = _total(definition, self._believed)
        wraps = not 0 <= total <= 9
        slip = self._habits.wrapped_slip if wraps else self._habits.slip
        if definition.operator and self._rng.random() < slip:
            total += 1
        self._phrase(VALUE + self._rng.choice(phrases.CONCLUSION).removesuffix(VALUE))
        self._believe(name, total % 10)
        self._write(SURE, END)
        return wraps

    def _settle(self, name: str, opening: str) -> bool:
        """Check a name until two results in a row agree; returns whether any two did not."""
        doubtful = False
        while len(self._tokens) < len(self._expiry):
            before = self._believed[name]
            self._work(name, opening)
            self._checks += 1
            if self._believed[name] == before:
                self._sentence(self._rng.choice(phrases.AGREE))
                break
            doubtful = True
            self._sentence(self._rng.choice(phrases.DIFFER))
            opening = self._rng.choice(phrases.CHECKS)
        return doubtful

    def _look_back(self) -> None:
        """Check an old name; where its value changed, the names that use it are done anew."""
        done = list(self._believed)
        name = self._rng.choice(done)
        before = self._believed[name]
        self._settle(name, self._rng.choice(phrases.BACK))
        if self._believed[name] == before:
            return
        changed = {name}
        for later in done:
            if changed & set(_operands(self._problem.definitions[later])):
                before = self._believed[later]
                self._work(later, phrases.REDO)
                if self._believed[later] != before:
                    changed.add(later)

    def _recover(self, names: tuple[str, ...], depth: int = 0) -> None:
        """Work out anew what is needed and no longer seen."""
        if not self._eviction or depth > 2:
            return
        for name in names:
            if self._seen("value", name) or not self._seen("definition", name):
                continue
            if self._rng.random() < self._habits.rederive:
                self._recover(_operands(self._problem.definitions[name]), depth + 1)
                self._work(name, phrases.LOST)
                self._rederived += 1

    def _turn(self) -> None:
        self._phrase(phrases.TRANSITION.removesuffix(GOAL))
        self._goal(LOOKUP)
        self._write(SURE, END)

    # ---- their pieces

    def _definition(self, name: str, *, kind: int) -> None:
        definition = self._problem.definitions[name]
        first = len(self._tokens)
        self._write(CHOICE if kind else GIVEN, name)
        self._write(SURE if kind else GIVEN, ":")
        parts = (definition.left, definition.operator, definition.right)
        self._write(kind, *(part for part in parts if part))
        self._tell("definition", name, first)

    def _values(self, names: tuple[str, ...]) -> None:
        """Look values up, which tells them once more."""
        for number, name in enumerate(names):
            if number:
                self._write(SURE, " and ")
            first = len(self._tokens)
            self._write(SURE, name)
            self._write(LOOKUP, f"={self._believed[name]}")
            self._tell("value", name, first)

    def _believe(self, name: str, value: int) -> None:
        if self._believed.get(name) != value:
            self._told[("value", name)] = []
        self._believed[name] = value
        first = len(self._tokens)
        self._write(SURE, name, f"={value}")
        self._tell("value", name, first)

    def _goal(self, kind: int) -> None:
        first, second = self._problem.asked
        self._write(kind, first)
        self._write(SURE if kind else GIVEN, " and ")
        self._write(kind, second)

    def _sentence(self, phrase: str) -> None:
        self._phrase(phrase)
        self._write(SURE, END)

    def _phrase(self, phrase: str) -> None:
        """Write a phrase; its first two words tell it from others, and are chance."""
        words = [word for word in phrases.pieces(phrase) if not word.startswith("{")]
        self._write(CHOICE, *words[:2])
        self._write(SURE, *words[2:])

    def _tell(self, what: str, name: str, first: int) -> None:
        self._told.setdefault((what, name), []).append(tuple(range(first, len(self._tokens))))

    def _seen(self, what: str, name: str) -> bool:
        last = len(self._expiry) - 1
        return any(
            all(self._expiry[min(position, last)] == NEVER for position in telling)
            for telling in self._told[(what, name)]
        )

    def _write(self, kind: int, *tokens: str) -> None:
        self._tokens.extend([IDS[token] for token in tokens])
        self._kinds.extend([kind] * len(tokens))
        if self._eviction and self._prompt:
            self._eviction.follow(len(self._tokens), tokens[-1] == END, self._told)


class _Eviction:
    """Makes entries invisible, chosen at random, as a trace grows."""

    def __init__(self, loss: Loss, rng: random.Random, longest: int) -> None:
        self._loss = loss
        self._rng = rng
        self._chance = np.random.default_rng(rng.getrandbits(32))
        self.expiry = np.full(longest, NEVER, dtype=np.int16)
        # what decides who goes first: own chance, and the chance of the sentence
        self._own = self._chance.random(longest, dtype=np.float32)
        self._shared = np.zeros(longest, dtype=np.float32)
        self._next = longest
        self._sentence = 0

    def begin(self, prompt: int) -> None:
        """The prompt is written: events begin."""
        self._shared[:prompt] = np.repeat(self._chance.random(prompt // 5 + 1), 5)[:prompt]
        self._sentence = prompt
        self._next = prompt + self._rng.randrange(self._loss.interval)

    def follow(
        self, length: int, ended: bool, told: dict[tuple[str, str], list[tuple[int, ...]]]
    ) -> None:
        """Tokens were written: events that are due, then the sentence that may have ended."""
        while self._next < min(length, len(self.expiry)):
            self._event(self._next, told)
            self._next += self._loss.interval
        if ended:
            self._shared[self._sentence : length] = self._rng.random()
            self._sentence = length

    def _event(self, at: int, told: dict[tuple[str, str], list[tuple[int, ...]]]) -> None:
        loss, rng = self._loss, self._rng
        alive = self.expiry[:at] == NEVER
        excess = int(alive.sum()) - loss.budget
        if excess <= 0:
            return
        free = alive.copy()
        free[max(0, at - 8) :] = False
        free[0] = False  # attention's sink
        if any(loss.care.values()):
            if rng.random() < loss.care["definition"]:
                free[self._sentence :] = False
            for (what, _), tellings in told.items():
                if rng.random() >= loss.care[what]:
                    continue
                visible = [
                    telling
                    for telling in tellings[-6:]
                    if telling[-1] < at and all(alive[position] for position in telling)
                ]
                if visible:
                    spared = visible[-1] if rng.random() < 0.5 else rng.choice(visible)
                    free[list(spared)] = False
        candidates = np.flatnonzero(free)
        fate = (1 - loss.by_sentence) * self._own[candidates]
        fate += loss.by_sentence * self._shared[candidates]
        order = np.argsort(fate)
        self.expiry[candidates[order[:excess]]] = at


def _operands(definition: Definition) -> tuple[str, ...]:
    """The names whose values a definition uses, each once."""
    if not definition.operator:
        return ()
    names = [name for name in (definition.left, definition.right) if name in NAMES]
    return tuple(dict.fromkeys(names))


def _total(definition: Definition, values: dict[str, int]) -> int:
    """The sum before modulo 10."""
    if not definition.operator:
        return int(definition.left)
    right = definition.right
    other = int(right) if right.isdigit() else values[right]
    return values[definition.left] + (other if definition.operator == "+" else -other)
