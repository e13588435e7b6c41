"""Entries of a sentence are worth less if a later sentence repeats it."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class SentenceRedundancy(ScorerAlgebra):
    """Similarity of an entry's sentence to the later sentence that repeats it. Subtract it.

    A reasoning model says things again in other words. Of two sentences with the same meaning the
    earlier one is redundant. All its entries, in every layer and head, get the similarity as their
    value; all other entries get 0. R-KV's scores sum to 1 over a head, so beside them a redundant
    entry goes first.

    Args:
        threshold: cosine similarity above which a later sentence repeats an earlier one; in (0, 1).
            The paper uses 0.95 to 0.99, chosen per model and budget.
        prompt: whether sentences of the prompt can be redundant, as published.

    Raises:
        ConfigError: `threshold` outside its range.

    Source: SkipKV (arXiv 2512.07993), section 4.1.

    Differs: the published code penalises a sentence in a head only while two of its entries are
    left there, and forgets sentences of which a head has lost all entries. Here every entry that is
    left counts.

    Example:
        >>> SentenceRedundancy(threshold=0.95).needs
        Needs(sentences=True)
    """

    threshold: float = attrs.field(default=0.95, validator=is_a(float))
    prompt: bool = attrs.field(default=True, validator=is_a(bool))

    def __attrs_post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"SentenceRedundancy(threshold={self.threshold}) must lie in (0, 1): it is a "
                "cosine similarity, and above it a sentence counts as repeated. SkipKV uses "
                "0.95 to 0.99."
            )

    @property
    def needs(self) -> Needs:
        """The sentence table."""
        return Needs(sentences=True)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The similarity to the repeating sentence; 0 for sentences without one."""
        tables = view.sentences or ()
        return view.per_entry([t.redundancy(self.threshold, prompt=self.prompt) for t in tables])
