"""The problems of the embedded reasoner: chains of sums that use facts from long before."""

import random

import attrs

from skipkv.tiny.vocabulary import NAMES

TRAIN, TEST = "train", "test"


@attrs.frozen
class Definition:
    """The definition of a name: a digit, or a sum or difference of a name and a name or digit.

    Args:
        left: a digit if `operator` is empty, else a name.
        operator: "+", "-", or "" for a digit alone.
        right: a name or a digit.
    """

    left: str
    operator: str = ""
    right: str = ""

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}"


@attrs.frozen(kw_only=True)
class Problem:
    r"""A chain of definitions, and the two names whose values make the code.

    All sums are modulo 10, so that every value is one digit.

    Args:
        definitions: the definition of each name, in the order in which they can be worked out.
        listed: the names in the order of the question.
        asked: the two names whose values, one after the other, are the answer.

    Example:
        >>> problem = Problem(
        ...     definitions={"a": Definition("7"), "b": Definition("a", "+", "5")},
        ...     listed="ba",
        ...     asked=("a", "b"),
        ... )
        >>> problem.question
        'b:a+5; a:7. Start at a, find a and b.'
        >>> problem.answer
        '72'
    """

    definitions: dict[str, Definition]
    listed: str
    asked: tuple[str, str]

    @property
    def question(self) -> str:
        """The question as text."""
        given = "; ".join(f"{name}:{self.definitions[name]}" for name in self.listed)
        first, second = self.asked
        return f"{given}. Start at {next(iter(self.definitions))}, find {first} and {second}."

    @property
    def values(self) -> dict[str, int]:
        """Every name's digit."""
        values: dict[str, int] = {}
        for name, definition in self.definitions.items():
            values[name] = _worked_out(definition, values)
        return values

    @property
    def answer(self) -> str:
        """The code: two digits, the first of them not 0."""
        values = self.values
        return "".join(str(values[name]) for name in self.asked)


def problems(count: int, *, seed: int = 0, split: str = TEST) -> list[Problem]:
    """Problems drawn at random; the same seed gives the same problems.

    Args:
        count: number of problems.
        seed: any number.
        split: "test" or "train". The two never share a stream of random numbers. There are about
            10^20 problems, so that in practice no problem is drawn twice.

    Example:
        >>> from skipkv import tiny
        >>> tiny.problems(2, seed=1) == tiny.problems(3, seed=1)[:2]
        True
    """
    # one random stream per problem, independent of how many were drawn before
    return [draw(random.Random(f"{split}/{seed}/{number}")) for number in range(count)]


def draw(rng: random.Random, *, least: int = 9, most: int = 13) -> Problem:
    """One problem of `least` to `most` names, neighbours in the alphabet.

    A definition uses any earlier name, not just the last one. So early values are needed late.
    """
    length = rng.randint(least, most)
    start = rng.randrange(len(NAMES) - length + 1)
    names = NAMES[start : start + length]
    definitions = {names[0]: Definition(str(rng.randint(1, 9)))}
    for number, name in enumerate(names[1:], start=1):
        last = names[number - 1]
        left = last if rng.random() < 0.3 else rng.choice(names[:number])
        others = [other for other in names[:number] if other != left]
        right = rng.choice(others) if others and rng.random() < 0.5 else str(rng.randint(1, 9))
        definitions[name] = Definition(left, rng.choice("+-"), right)
    listed = "".join(rng.sample(names, length))
    problem = Problem(definitions=definitions, listed=listed, asked=(names[0], names[-1]))
    values = problem.values
    # no leading zero, so that the code is a number; the first name's digit is never 0
    early = [name for name in names[: (length + 1) // 2] if values[name] != 0]
    return attrs.evolve(problem, asked=(rng.choice(early), names[-1]))


def _worked_out(definition: Definition, values: dict[str, int]) -> int:
    if not definition.operator:
        return int(definition.left)
    right = int(definition.right) if definition.right.isdigit() else values[definition.right]
    sign = 1 if definition.operator == "+" else -1
    return (values[definition.left] + sign * right) % 10
