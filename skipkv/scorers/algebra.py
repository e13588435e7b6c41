"""The algebra of scorers: sums, multiples and rescaled values of scorers are scorers."""

import math
from typing import TYPE_CHECKING

import attrs
import torch
from attrs.validators import deep_iterable, instance_of
from jaxtyping import Float
from torch import Tensor

from skipkv._calls import broken, culprit, remembered_of, scores_of
from skipkv._types import CacheView, Memory, Needs, needs_of
from skipkv._validators import is_a
from skipkv.errors import ConfigError

if TYPE_CHECKING:
    from skipkv.scorers.protocol import Scorer

Remembered = dict[Memory, Float[Tensor, "R H L"]]


class ScorerAlgebra:
    """Gives a scorer the operators `+`, `-`, unary `-`, scalar `*` and `normalized()`.

    Inherit from it to have them on a scorer of your own; one that does not can still stand on the
    other side of an operator, or be wrapped: `Weighted(scorer=MyScorer(), weight=0.5)`. What is
    not a scorer cannot be added, and what is not a number cannot weigh: both are a `TypeError`.

    The `repr` of a composition can be pasted back and gives an equal one.

    Example:
        >>> from skipkv.scorers import KeyNorm, Recency
        >>> 0.5 * Recency() - KeyNorm()
        0.5 * Recency() - KeyNorm()
    """

    def __add__(self, other: object) -> "Combined":
        if not _is_scorer(other):
            return NotImplemented
        return Combined(terms=(*_terms(self), *_terms(other)))

    def __radd__(self, other: object) -> "Combined":
        if not _is_scorer(other):
            return NotImplemented
        return Combined(terms=(*_terms(other), *_terms(self)))

    def __sub__(self, other: object) -> "Combined":
        if not _is_scorer(other):
            return NotImplemented
        return Combined(terms=(*_terms(self), *_terms(other, -1.0)))

    def __rsub__(self, other: object) -> "Combined":
        if not _is_scorer(other):
            return NotImplemented
        return Combined(terms=(*_terms(other), *_terms(self, -1.0)))

    def __mul__(self, weight: float | int) -> "Weighted | Combined":
        if not isinstance(weight, int | float):
            return NotImplemented
        terms = _terms(self, float(weight))
        return terms[0] if len(terms) == 1 else Combined(terms=terms)

    __rmul__ = __mul__

    def __neg__(self) -> "Weighted | Combined":
        return self * -1.0

    def normalized(self) -> "Normalized":
        """This scorer with its values rescaled to [0, 1] in each row and head."""
        return Normalized(scorer=self)  # type: ignore[arg-type]


@attrs.frozen(kw_only=True, repr=False)
class Weighted(ScorerAlgebra):
    """A scorer times a number.

    Source: this library.

    Args:
        scorer: any scorer; it need not inherit `ScorerAlgebra`.
        weight: finite; negative to hold the scorer's values against an entry.

    Raises:
        ConfigError: `weight` is not finite.

    Example:
        >>> from skipkv.scorers import Recency
        >>> Weighted(scorer=Recency(), weight=0.5)
        0.5 * Recency()
    """

    scorer: "Scorer"
    weight: float = attrs.field(validator=is_a(float))

    def __attrs_post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ConfigError(
                f"Weighted(weight={self.weight}) must be finite: scores are. To keep entries for "
                "certain, protect them (Budget.window, Budget.sinks)."
            )

    @property
    def needs(self) -> Needs:
        """What the scorer needs."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """`weight` times the scorer's values; what is wrong with them is the scorer's error."""
        return self.weight * scores_of(self.scorer, view)

    def remember(self, view: CacheView) -> Remembered:
        """What the scorer remembers."""
        return remembered_of(self.scorer, view)

    def culprit(self, view: CacheView) -> object:
        """The scorer, or what it is made of, unless its values are finite and too large to weigh.

        Args:
            view: a view in which this one's values are not finite.
        """
        return self if _is_finite(self.scorer, view) else culprit(self.scorer, view)

    def __repr__(self) -> str:
        if isinstance(self.scorer, Weighted | Combined) or not isinstance(
            self.scorer, ScorerAlgebra
        ):
            # `2 * a_sum` would multiply out, and a plain scorer cannot be multiplied
            return f"Weighted(scorer={self.scorer!r}, weight={_written(self.weight)})"
        if self.weight == -1:
            return f"-{self.scorer!r}"
        return f"{_written(self.weight)} * {self.scorer!r}"


@attrs.frozen(kw_only=True, repr=False)
class Combined(ScorerAlgebra):
    """A sum of weighted scorers; what `+` and `-` make.

    Source: this library.

    Args:
        terms: at least one.

    Raises:
        ConfigError: there are no terms.

    Example:
        >>> from skipkv.scorers import KeyNorm, Recency
        >>> Combined(terms=(2 * Recency(), -KeyNorm()))
        2 * Recency() - KeyNorm()
    """

    terms: tuple[Weighted, ...] = attrs.field(
        validator=deep_iterable(instance_of(Weighted), instance_of(tuple))
    )

    def __attrs_post_init__(self) -> None:
        if not self.terms:
            raise ConfigError(
                "Combined(terms=()) must have at least one term: an empty sum scores nothing."
            )

    @property
    def needs(self) -> Needs:
        """The union of what the terms need."""
        union = Needs()
        for term in self.terms:
            union |= term.needs
        return union

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The sum of the terms' values."""
        total = self.terms[0].score(view)
        for term in self.terms[1:]:
            total = total + term.score(view)
        return total

    def remember(self, view: CacheView) -> Remembered:
        """What the terms remember.

        Raises:
            PartError: two terms remember something else under one name.
        """
        found: dict[Memory, Tensor] = {}
        for term in self.terms:
            for memory, values in term.remember(view).items():
                first = found.setdefault(memory, values)
                if first is not values and not (first == values)[view.occupied].all():
                    raise broken(
                        term.scorer,
                        f" and another term both write {memory!r}, and not the same, so one would "
                        "read what the other remembers. Give their memories different names.",
                    )
        return found

    def culprit(self, view: CacheView) -> object:
        """The first term whose values are not finite; the sum itself where only it overflows.

        Args:
            view: a view in which the sum's values are not finite.
        """
        terms = (term for term in self.terms if not _is_finite(term, view))
        return next((term.culprit(view) for term in terms), self)

    def __repr__(self) -> str:
        if len(self.terms) == 1:
            return f"Combined(terms=({self.terms[0]!r},))"
        first, *others = self.terms
        # a plain scorer lacks the operators, but may stand to the right of one that has them
        bare = first.weight == 1 and isinstance(first.scorer, ScorerAlgebra)
        text = repr(first.scorer) if bare and not _composed(first) else repr(first)
        for term in others:
            sign = "-" if term.weight < 0 else "+"
            size = attrs.evolve(term, weight=abs(term.weight))
            bare = size.weight == 1 and not _composed(term)
            text += f" {sign} {size.scorer!r}" if bare else f" {sign} {size!r}"
        return text


@attrs.frozen(kw_only=True)
class Normalized(ScorerAlgebra):
    """A scorer's values stretched to [0, 1] over the entries of each row and head.

    Scorers differ in scale by orders of magnitude. Weights between them are comparable once each
    scorer spans the same range. A head whose entries all have the same value gets 0.

    Source: this library.

    Args:
        scorer: the scorer to rescale.

    Example:
        >>> from skipkv.scorers import KeyNorm, Recency
        >>> 0.5 * KeyNorm().normalized() + 0.5 * Recency()
        0.5 * Normalized(scorer=KeyNorm()) + 0.5 * Recency()
    """

    scorer: "Scorer"

    @property
    def needs(self) -> Needs:
        """The needs of the scorer."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """(value - lowest) / (highest - lowest), both over the entries of the row and head."""
        scores = scores_of(self.scorer, view)
        empty = ~view.occupied
        lowest = scores.masked_fill(empty, torch.inf).amin(dim=-1, keepdim=True)
        highest = scores.masked_fill(empty, -torch.inf).amax(dim=-1, keepdim=True)
        span = highest - lowest
        return ((scores - lowest) / span).masked_fill(empty | (span <= 0), 0.0)

    def remember(self, view: CacheView) -> Remembered:
        """What the scorer remembers."""
        return remembered_of(self.scorer, view)


def _is_finite(scorer: object, view: CacheView) -> bool:
    """Whether a scorer's values are, wherever there is an entry."""
    return bool((torch.isfinite(scores_of(scorer, view)) | ~view.occupied).all())


def _composed(term: Weighted) -> bool:
    """Whether the term's scorer is itself a multiple or a sum, which operators would flatten."""
    return isinstance(term.scorer, Weighted | Combined)


def _is_scorer(value: object) -> bool:
    return not isinstance(value, type) and callable(getattr(value, "score", None))


def _terms(scorer: object, weight: float = 1.0) -> tuple[Weighted, ...]:
    """`weight * scorer` as a flat tuple of weighted leaves."""
    if isinstance(scorer, Combined):
        return tuple(attrs.evolve(term, weight=weight * term.weight) for term in scorer.terms)
    if isinstance(scorer, Weighted):
        return (attrs.evolve(scorer, weight=weight * scorer.weight),)
    return (Weighted(scorer=scorer, weight=weight),)  # type: ignore[arg-type]


def _written(weight: float | int) -> str:
    """The shortest text that reads back as `weight`."""
    short = f"{weight:g}"
    return short if float(short) == weight else repr(weight)
