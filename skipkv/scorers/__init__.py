"""Scorers value cache entries; higher means keep.

One scorer per file, named for it. To add one: write a frozen attrs class with `score(view)`, inherit
`ScorerAlgebra`, declare what it reads in `needs`, export it here, and test it on a few tensors.
"""

from skipkv.scorers.algebra import Combined, ScorerAlgebra, Weighted
from skipkv.scorers.protocol import Scorer
from skipkv.scorers.recency import Recency

__all__ = ["Combined", "Recency", "Scorer", "ScorerAlgebra", "Weighted"]
