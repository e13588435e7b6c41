"""Sums of hidden states by the kind of thought, from which differences of means come."""

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._types import Thought
from skipkv.errors import InputError


@attrs.frozen(kw_only=True, eq=False)
class KindSums:
    """The number and the sum of hidden states, per kind of thought and layer.

    Sums in float64 take the same memory for ten traces as for ten thousand. Added in any order they
    give the means of all states to about fifteen digits.

    Args:
        counts: number of thoughts of each kind.
        sums: sums of their hidden states.

    Example:
        >>> one = KindSums.of(torch.ones(2, 1, 3), torch.tensor([0, 1]))
        >>> two = KindSums.of(torch.zeros(2, 1, 3), torch.tensor([2, 0]))
        >>> (one + two).counts.tolist()
        [2, 1, 1]
        >>> (one + two).difference().tolist()
        [[0.0, 0.0, 0.0]]
    """

    counts: Int[Tensor, "3"]
    sums: Float[Tensor, "3 layers E"] = attrs.field(repr=False)

    @classmethod
    def of(cls, states: Float[Tensor, "N layers E"], kinds: Int[Tensor, "N"]) -> "KindSums":
        """The sums of these states.

        Args:
            states: hidden states of thoughts, per layer.
            kinds: a `Thought` each.
        """
        hot = torch.nn.functional.one_hot(kinds, len(Thought)).T  # [3 N]
        sums = torch.einsum("kn,nle->kle", hot.double(), states.double())
        return cls(counts=hot.sum(dim=1), sums=sums)

    def __add__(self, other: "KindSums") -> "KindSums":
        return KindSums(counts=self.counts + other.counts, sums=self.sums + other.sums)

    @property
    def complete(self) -> bool:
        """Whether there are both thoughts of execution and other thoughts."""
        execution = int(self.counts[Thought.EXECUTION])
        return 0 < execution < int(self.counts.sum())

    def means(self) -> Float[Tensor, "2 layers E"]:
        """Mean state of execution, and of all other thoughts together.

        Raises:
            InputError: the thoughts are all of execution, or none is.
        """
        execution = int(self.counts[Thought.EXECUTION])
        others = int(self.counts.sum()) - execution
        if not self.complete:
            raise InputError(
                "A steering vector needs thoughts of execution and other thoughts; the traces "
                f"hold {execution} and {others}. Give more questions or longer traces, or check "
                "the marker words that tell thoughts apart."
            )
        first = self.sums[Thought.EXECUTION]
        rest = self.sums.sum(dim=0) - first
        return torch.stack([first / execution, rest / others])

    def difference(self) -> Float[Tensor, "layers E"]:
        """Mean of execution minus mean of the others: the steering vector of each layer.

        Raises:
            InputError: the thoughts are all of execution, or none is.
        """
        means = self.means()
        return means[0] - means[1]
