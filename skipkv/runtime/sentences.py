"""Following one sequence's sentences: from tokens and hidden states to its sentence table."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skipkv._types import Cut, SentenceTable, TokenStream
from skipkv.errors import PartError
from skipkv.segmenters import Segmenter

# Hidden states of the open sentence's newest tokens are held one by one, because a segmenter may
# close a sentence some tokens late (Punkt waits for the next word); older ones are in the sum.
_HELD = 64


class SentenceTracker:
    """The sentence table of one sequence, extended as the sequence grows.

    Of the open sentence it holds a running sum of hidden states and the newest few, never the whole
    history: memory is bounded by closed sentences times hidden size.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        hidden_size: int,
        device: torch.device | str,
        *,
        prompt: int = 0,
    ) -> None:
        self.table = SentenceTable.empty(hidden_size, device=device, prompt=prompt)
        self._segmenter = segmenter
        self._ids: list[int] = []
        self._pieces: list[str] = []
        self._start = 0  # position of the open sentence's first token
        self._sum = torch.zeros(hidden_size, dtype=torch.float64, device=device)
        self._summed = 0  # tokens in the sum
        self._held = torch.zeros(0, hidden_size, dtype=torch.float64, device=device)

    def feed(self, ids: Sequence[int], pieces: Sequence[str], hidden: Float[Tensor, "N E"]) -> None:
        """Take the sequence's next `N` tokens.

        Args:
            ids: token ids.
            pieces: their text.
            hidden: last hidden states after the final norm, at these tokens.

        Raises:
            PartError: the segmenter raised, or returned what is no cuts, or cuts that do not
                increase or lie outside the stream.
        """
        self._ids += ids
        self._pieces += pieces
        self._held = torch.cat([self._held, hidden.double()])
        cuts = self._cuts(TokenStream(ids=self._ids, pieces=self._pieces))
        if cuts:
            self._close([cut.end for cut in cuts], [int(cut.thought) for cut in cuts])
        self._fold()

    def _cuts(self, stream: TokenStream) -> list[Cut]:
        try:
            cuts = self._segmenter.cut(stream)
        except Exception as cause:
            raise PartError(
                f"{self._segmenter!r}.cut raised {type(cause).__name__}: {cause}"
            ) from cause
        if not isinstance(cuts, Sequence) or not all(isinstance(cut, Cut) for cut in cuts):
            raise PartError(
                f"{self._segmenter!r}.cut must return a sequence of skipkv.Cut, got {cuts!r}."
            )
        ends = [cut.end for cut in cuts]
        if ends != sorted(set(ends)) or (ends and ends[-1] > len(stream)):
            raise PartError(
                f"{self._segmenter!r} cut a stream of {len(stream)} tokens at {ends}. Cuts must "
                "increase strictly and lie inside the stream."
            )
        return list(cuts)

    def _close(self, ends: list[int], thoughts: list[int]) -> None:
        device = self._held.device
        upto = torch.tensor(ends, device=device)
        totals = torch.nn.functional.pad(self._held.cumsum(dim=0), (0, 0, 1, 0))
        if self._summed:
            # A cut before the held tokens takes its share of the sum: exact unless a segmenter
            # closes a sentence more than _HELD tokens late.
            shares = (upto / self._summed).clamp(max=1)[:, None]
            totals = totals[(upto - self._summed).clamp_min(0)] + shares * self._sum
            self._sum = (1 - shares[-1]) * self._sum
        else:
            totals = totals[upto]
        sums = totals.diff(dim=0, prepend=torch.zeros_like(totals[:1]))
        self.table = self.table.extended(
            upto + self._start,
            torch.nn.functional.normalize(sums, dim=-1).float(),  # as the mean's would be
            torch.tensor(thoughts, device=device),
        )
        end = ends[-1]
        self._held = self._held[max(end - self._summed, 0) :]
        self._summed = max(self._summed - end, 0)
        self._start += end
        del self._ids[:end], self._pieces[:end]

    def _fold(self) -> None:
        extra = self._held.shape[0] - _HELD
        if extra > 0:
            self._sum = self._sum + self._held[:extra].sum(dim=0)
            self._summed += extra
            self._held = self._held[extra:].clone()
