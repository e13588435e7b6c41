"""The algebra of scorers: sums, differences and multiples of scorers are scorers."""

from typing import TYPE_CHECKING

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Needs, needs_of

if TYPE_CHECKING:
    from skipkv.scorers.normalized import Normalized
    from skipkv.scorers.protocol import Scorer


class ScorerAlgebra:
    """Gives a scorer the operators `+`, `-`, unary `-`, scalar `*` and `normalized()`.

    Inherit from it to have them on a scorer of your own; one that does not can still stand on the
    other side of an operator, or be wrapped: `Weighted(scorer=MyScorer(), weight=0.5)`.

    Example:
        >>> from skipkv.scorers import KeyNorm, Recency
        >>> 0.5 * Recency() - KeyNorm()
        0.5 * Recency() - KeyNorm()
    """

    def __add__(self, other: "Scorer") -> "Combined":
        return Combined(terms=(*_terms(self), *_terms(other)))

    def __radd__(self, other: "Scorer") -> "Combined":
        return Combined(terms=(*_terms(other), *_terms(self)))

    def __sub__(self, other: "Scorer") -> "Combined":
        return Combined(terms=(*_terms(self), *_terms(other, -1.0)))

    def __rsub__(self, other: "Scorer") -> "Combined":
        return Combined(terms=(*_terms(other), *_terms(self, -1.0)))

    def __mul__(self, weight: float) -> "Weighted | Combined":
        if not isinstance(weight, int | float):
            return NotImplemented
        terms = _terms(self, float(weight))
        return terms[0] if len(terms) == 1 else Combined(terms=terms)

    __rmul__ = __mul__

    def __neg__(self) -> "Weighted | Combined":
        return self * -1.0

    def normalized(self) -> "Normalized":
        """This scorer with its values rescaled to [0, 1] in each row and head."""
        from skipkv.scorers.normalized import Normalized

        return Normalized(scorer=self)  # type: ignore[arg-type]


@attrs.frozen(kw_only=True, repr=False)
class Weighted(ScorerAlgebra):
    """A scorer times a number."""

    scorer: "Scorer"
    weight: float = attrs.field(converter=float)

    @property
    def needs(self) -> Needs:
        """What the scorer needs."""
        return needs_of(self.scorer)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """`weight` times the scorer's values."""
        return self.weight * self.scorer.score(view)

    def __repr__(self) -> str:
        if self.weight == 1:
            return repr(self.scorer)
        if self.weight == -1:
            return f"-{self.scorer!r}"
        return f"{self.weight:g} * {self.scorer!r}"


@attrs.frozen(kw_only=True, repr=False)
class Combined(ScorerAlgebra):
    """A sum of weighted scorers."""

    terms: tuple[Weighted, ...]

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

    def __repr__(self) -> str:
        text = repr(self.terms[0])
        for term in self.terms[1:]:
            sign = "-" if term.weight < 0 else "+"
            text += f" {sign} {attrs.evolve(term, weight=abs(term.weight))!r}"
        return text


def _terms(scorer: object, weight: float = 1.0) -> tuple[Weighted, ...]:
    """`weight * scorer` as a flat tuple of weighted leaves."""
    if isinstance(scorer, Combined):
        return tuple(attrs.evolve(term, weight=weight * term.weight) for term in scorer.terms)
    if isinstance(scorer, Weighted):
        return (attrs.evolve(scorer, weight=weight * scorer.weight),)
    return (Weighted(scorer=scorer, weight=weight),)  # type: ignore[arg-type]
