"""Entries of a sentence that a later sentence repeats are worth less."""

import attrs
from jaxtyping import Float
from torch import Tensor

from skipkv._types import CacheView, Needs
from skipkv._validators import is_a
from skipkv.errors import ConfigError
from skipkv.scorers.algebra import ScorerAlgebra


@attrs.frozen(kw_only=True)
class SentenceRedundancy(ScorerAlgebra):
    """Similarity of an entry's sentence to the later sentence that repeats it: subtract it.

    A reasoning model says things again in other words. Of two sentences of like meaning the
    earlier is the redundant one; all its entries, in every layer and head, carry the similarity,
    and all others 0. Next to scores that share 1 among all entries, as R-KV's do, such an entry
    goes first.

    Args:
        threshold: cosine similarity above which a later sentence repeats an earlier one; in (0, 1).
            The paper's runs use 0.95 to 0.99, set per model and budget.
        prompt: sentences of the prompt may be redundant too, as published; False leaves them out.

    Raises:
        ConfigError: `threshold` outside its range.

    Source: SkipKV (arXiv 2512.07993), section 4.1.

    Differs: the published code penalises a sentence in a head only while two of its entries
    survive there, and forgets sentences once a head has lost all it knew; here every surviving
    entry counts.

    Example:
        >>> SentenceRedundancy(threshold=0.95).needs
        Needs(queries=0, attention=False, sentences=True)
    """

    threshold: float = attrs.field(default=0.95, validator=is_a(float))
    prompt: bool = attrs.field(default=True, validator=is_a(bool))

    def __attrs_post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"SentenceRedundancy(threshold={self.threshold}) must lie in (0, 1): it is a "
                "cosine similarity, above which a sentence counts as repeated. SkipKV uses 0.95 to "
                "0.99."
            )

    @property
    def needs(self) -> Needs:
        """The sentence table."""
        return Needs(sentences=True)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The similarity to the repeating sentence; 0 for sentences that nothing repeats."""
        tables = view.sentences or ()
        return view.per_entry([t.redundancy(self.threshold, prompt=self.prompt) for t in tables])
