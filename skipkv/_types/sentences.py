"""The closed sentences of one sequence, and which of them a later sentence repeats."""

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor


@attrs.frozen(kw_only=True, eq=False)
class SentenceTable:
    """The `S` closed sentences of one sequence, in order.

    They partition the positions from 0 to `ends[-1]`; the tokens after them are the open sentence.
    Sentences are found by position, so the table stays valid when entries move or are dropped.

    Args:
        ends: position after the last token of each sentence; strictly increasing.
        embeddings: unit vectors: the normalised mean of the final-norm hidden states of its tokens.
        thoughts: a `Thought` each.
        prompt: how many of the sequence's tokens are the prompt.

    Example:
        >>> same, other = [1.0, 0.0], [0.0, 1.0]
        >>> table = SentenceTable.empty(hidden_size=2).extended(
        ...     ends=torch.tensor([4, 6, 9]),
        ...     embeddings=torch.tensor([same, other, same]),
        ...     thoughts=torch.tensor([0, 0, 1]),
        ... )
        >>> table.sentence_of(torch.tensor([0, 4, 8, 9]))
        tensor([ 0,  1,  2, -1])
        >>> table.redundancy(threshold=0.95)
        tensor([1., 0., 0.])

    Source: SkipKV (arXiv 2512.07993), section 4.1.
    """

    ends: Int[Tensor, "S"]
    embeddings: Float[Tensor, "S E"]
    thoughts: Int[Tensor, "S"]
    prompt: int = 0
    _known: dict[float, Float[Tensor, "K"]] = attrs.field(factory=dict, repr=False)
    # What `redundancy` was asked for, in order; a table and those made from it share it.
    _asked: dict[tuple[float, bool], None] = attrs.field(factory=dict, repr=False)

    @classmethod
    def empty(
        cls, hidden_size: int, *, device: torch.device | str = "cpu", prompt: int = 0
    ) -> "SentenceTable":
        """The table of a sequence that has closed no sentence yet.

        Args:
            hidden_size: hidden size of the model, which is the length of the embeddings.
            device: device of the table.
            prompt: how many of the sequence's tokens are the prompt.
        """
        return cls(
            ends=torch.empty(0, dtype=torch.long, device=device),
            embeddings=torch.empty(0, hidden_size, device=device),
            thoughts=torch.empty(0, dtype=torch.long, device=device),
            prompt=prompt,
        )

    def __len__(self) -> int:
        return self.ends.shape[0]

    def extended(
        self,
        ends: Int[Tensor, "N"],
        embeddings: Float[Tensor, "N E"],
        thoughts: Int[Tensor, "N"],
    ) -> "SentenceTable":
        """This table with `N` newly closed sentences at its end.

        Redundancies that were computed before are kept.

        Args:
            ends: position after the last token of each new sentence.
            embeddings: their unit vectors.
            thoughts: a `Thought` each.
        """
        return SentenceTable(
            ends=torch.cat([self.ends, ends]),
            embeddings=torch.cat([self.embeddings, embeddings]),
            thoughts=torch.cat([self.thoughts, thoughts]),
            prompt=self.prompt,
            known=dict(self._known),
            asked=self._asked,
        )

    @property
    def asked(self) -> tuple[tuple[float, bool], ...]:
        """The (threshold, prompt) of all calls of `redundancy`: what a policy reads the table for.

        Those of the tables that this one extends count too.
        """
        return tuple(self._asked)

    def sentence_of(self, positions: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
        """Index of the closed sentence at each position; -1 in the open one and for position -1."""
        # one dtype for both, as older torch wants; and a view's ids are as wide as its positions
        ends = self.ends.to(positions.dtype)
        ids = torch.searchsorted(ends, positions.contiguous(), right=True).to(positions.dtype)
        return ids.masked_fill((ids == len(self)) | (positions < 0), -1)

    def redundancy(self, threshold: float, *, prompt: bool = True) -> Float[Tensor, "S"]:
        """Similarity of each sentence to the last later one that repeats it; 0 where none does.

        A sentence is repeated by a later one when their cosine similarity exceeds `threshold`.
        Embeddings never change, so a redundant sentence stays redundant. Only sentences that are
        new since the last call are compared with all others. They are compared in float32, whatever
        the dtype of the embeddings.

        Args:
            threshold: cosine similarity above which a later sentence repeats an earlier one.
            prompt: whether sentences that begin in the prompt can be redundant, as published.

        Source: SkipKV, section 4.1 (redundant set) and its published code (which similarity
        counts).
        """
        self._asked[threshold, prompt] = None
        old = self._known.get(threshold, self.embeddings.new_zeros(0, dtype=torch.float32))
        done, total = old.shape[0], len(self)
        if done < total:
            # float16 resolves 0.0005 near 1, where thresholds lie, and bfloat16 eight times less
            similarity = self.embeddings.float() @ self.embeddings[done:].float().T  # [S, new]
            # only a later sentence repeats it: one right of the diagonal
            repeats = (similarity > threshold).triu(1 - done)
            # the last of the new sentences that repeats it, counted from 1; 0 for none
            last = (repeats * torch.arange(1, total - done + 1, device=old.device)).amax(dim=1)
            value = similarity.gather(1, (last - 1).clamp_min(0)[:, None])[:, 0]
            old = torch.where(last > 0, value, torch.nn.functional.pad(old, (0, total - done)))
            self._known[threshold] = old
        if not prompt:
            starts = torch.nn.functional.pad(self.ends, (1, 0))[:-1]
            return old.masked_fill(starts < self.prompt, 0)
        return old.clone()  # the caller may change its copy
