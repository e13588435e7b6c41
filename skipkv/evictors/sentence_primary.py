"""Drop redundant sentences before anything else."""

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.evictors._segments import Segments
from skipkv.evictors.top_k import best


@attrs.frozen(kw_only=True)
class SentencePrimary:
    """Drops entries of sentences that a later sentence repeats; only then anything else.

    Tokens are dropped for how they score, sentences for what they say: a thought with holes in it
    misleads more than one that is missing. No entry outside the redundant sentences is dropped
    while an unprotected entry inside one remains, whatever the scores are.

    With `whole`, redundant sentences go one at a time, each with all its unprotected entries of
    that row and head, lowest mean score first (of equal ones the earlier), until the row and head
    is within its budget; so it may end below it. If none is left and there are still too many
    entries, the rest goes token by token. Without `whole`, the entries of redundant sentences too
    go token by token, lowest score first, and exactly `budget` remain in every row and head that
    held more.

    Args:
        threshold: cosine similarity above which a later sentence repeats an earlier one; in (0, 1).
        whole: drop redundant sentences whole; False is the published rule.
        prompt: sentences of the prompt may be redundant too, as published; False leaves them out.

    Raises:
        ConfigError: `threshold` outside its range.

    Source: SkipKV (arXiv 2512.07993), section 4.1.

    Differs: there the order follows from a penalty near 1 on scores that are far smaller; here it
    holds by construction.

    Example:
        >>> SentencePrimary(threshold=0.97).needs
        Needs(queries=0, attention=False, sentences=True)
    """

    threshold: float = attrs.field(default=0.95, validator=is_a(float))
    whole: bool = attrs.field(default=True, validator=is_a(bool))
    prompt: bool = attrs.field(default=True, validator=is_a(bool))

    def __attrs_post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"SentencePrimary(threshold={self.threshold}) must lie in (0, 1): it is a cosine "
                "similarity, and above it a sentence counts as repeated. SkipKV uses 0.95 to 0.99."
            )

    @property
    def needs(self) -> Needs:
        """The sentence table."""
        return Needs(sentences=True)

    def keep(
        self, scores: Float[Tensor, "R H L"], view: CacheView, budget: int
    ) -> Bool[Tensor, "R H L"]:
        """Protected entries, then those of sentences nothing repeats, then redundant ones."""
        tables = view.sentences or ()
        values = [table.redundancy(self.threshold, prompt=self.prompt) for table in tables]
        redundant = (view.per_entry(values) > 0) & ~view.protected
        tier = torch.where(view.protected, 2, (~redundant).int())
        if not self.whole:
            return best(scores, view, budget, tier)
        remaining = view.occupied & ~self._dropped(scores, view, redundant, budget)
        return best(scores, view, budget, tier.masked_fill(~remaining, -1)) & remaining

    def _dropped(
        self,
        scores: Float[Tensor, "R H L"],
        view: CacheView,
        redundant: Bool[Tensor, "R H L"],
        budget: int,
    ) -> Bool[Tensor, "R H L"]:
        """Entries of the redundant sentences that go, as few sentences as bring the budget."""
        segments = Segments.of(view)
        sizes = segments.count(redundant)
        worth = segments.mean(scores, redundant).masked_fill(sizes == 0, torch.inf)
        order = worth.argsort(dim=-1, stable=True)
        sizes = sizes.gather(-1, order)
        gone_before = sizes.cumsum(dim=-1) - sizes
        excess = view.occupied.sum(dim=-1, keepdim=True) - budget
        goes = torch.empty_like(redundant).scatter_(-1, order, gone_before < excess)
        return segments.spread(goes) & redundant
