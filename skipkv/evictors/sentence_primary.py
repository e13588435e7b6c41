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
    """Drops entries of sentences that a later sentence repeats, before any other entry.

    A thought with holes in it misleads a model more than a missing one. So unprotected entries of
    redundant sentences are dropped first, whatever their scores are.

    With `whole`, redundant sentences go one at a time: all unprotected entries of the sentence in
    that row and head together. The lowest mean score goes first, and of equal ones the earlier
    sentence, until the row and head is within its budget; it may end below the budget. If no
    redundant sentence is left and there are still too many entries, the others go token by token.

    Without `whole`, entries of redundant sentences go token by token too, the lowest score first.
    Then exactly `budget` entries remain in every row and head that held more.

    Args:
        threshold: cosine similarity above which a later sentence repeats an earlier one; in (0, 1).
        whole: drop redundant sentences whole; False is the published rule.
        prompt: whether sentences of the prompt can be redundant, as published.

    Raises:
        ConfigError: `threshold` outside its range.

    Source: SkipKV (arXiv 2512.07993), section 4.1.

    Differs: in the paper the order comes from a penalty near 1 on scores that are far smaller. Here
    it holds by construction.

    Example:
        >>> SentencePrimary(threshold=0.97).needs
        Needs(sentences=True)
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
        """Protected entries, then those of sentences without repetition, then redundant ones."""
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
        """Entries of the redundant sentences to drop: as few sentences as reach the budget."""
        segments = Segments.of(view)
        sizes = segments.count(redundant)
        worth = segments.mean(scores, redundant).masked_fill(sizes == 0, torch.inf)
        order = worth.argsort(dim=-1, stable=True)
        sizes = sizes.gather(-1, order)
        gone_before = sizes.cumsum(dim=-1) - sizes
        excess = view.occupied.sum(dim=-1, keepdim=True) - budget
        goes = torch.empty_like(redundant).scatter_(-1, order, gone_before < excess)
        return segments.spread(goes) & redundant
