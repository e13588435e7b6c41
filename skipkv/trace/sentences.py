"""The sentences of a trace: where they end, their thoughts, which later one repeats them."""

import attrs
import numpy as np
from jaxtyping import Float, Int

from skipkv._types import SentenceTable, Thought
from skipkv.errors import InputError

_STEPS = 127


@attrs.frozen(kw_only=True, eq=False)
class Sentences:
    """The `S` sentences of a sequence. They partition its tokens; the last one may be open.

    Args:
        ends: position after the last token of each, rising.
        thoughts: a `Thought` each.
        twins: number of the later sentence that repeats it: the last one above the threshold; -1
            where none does, or the policy does not ask.
        redundancy: its cosine similarity to that one; 0 without one.
        redundant_at: the first event at which the policy knew of a repetition; the number of events
            where it never did.
        threshold: the similarity above which the policy counts a sentence as repeated; None where
            it does not ask.
        similarity: cosine similarities of the first `K` sentences, those whose embeddings the
            policy had at its last event, in steps of 1/127. None are known (`K` is 0) where the
            policy reads no sentences.

    Raises:
        InputError: the arguments do not fit together.
    """

    ends: Int[np.ndarray, "S"]
    thoughts: Int[np.ndarray, "S"]
    twins: Int[np.ndarray, "S"]
    redundancy: Float[np.ndarray, "S"]
    redundant_at: Int[np.ndarray, "S"]
    threshold: float | None = None
    similarity: Float[np.ndarray, "K K"] = attrs.field(repr=False)

    @classmethod
    def of(
        cls,
        table: SentenceTable | None,
        *,
        further: list[tuple[int, int]],
        known: list[int],
    ) -> "Sentences":
        """The sentences of a table, and those after them.

        Args:
            table: the policy's table at its last event; None where it reads no sentences.
            further: (end, thought) of the sentences that are not in the table.
            known: how many sentences the table had at each event.
        """
        own = 0 if table is None else len(table)
        more = len(further)
        ends = np.array([end for end, _ in further], dtype=np.int64)
        thoughts = np.array([thought for _, thought in further], dtype=np.int64)
        twins = np.full(own + more, -1)
        redundancy = np.zeros(own + more, dtype=np.float32)
        redundant_at = np.full(own + more, len(known))
        similarity, threshold = np.zeros((0, 0), dtype=np.float32), None
        if table is not None:
            ends = np.concatenate([table.ends.cpu().numpy(), ends])
            thoughts = np.concatenate([table.thoughts.cpu().numpy(), thoughts])
            unit = table.embeddings.float().cpu().numpy()
            similarity = unit @ unit.T
            if table.asked:
                # parts that ask at several thresholds: the lowest one marks the most sentences
                threshold = min(asked for asked, _ in table.asked)
                prompt = any(prompt for asked, prompt in table.asked if asked == threshold)
                values = table.redundancy(threshold, prompt=prompt).cpu().numpy()
                redundancy[:own] = values
                for number in np.flatnonzero(values):
                    later = similarity[number, number + 1 :]
                    # by its value, since sums in another order may round another way
                    nearest = np.abs(later - values[number])
                    twins[number] = number + 1 + int(np.flatnonzero(nearest == nearest.min())[-1])
                    repeats = np.flatnonzero(later > threshold)
                    first = number + 1 + int(repeats[0]) if len(repeats) else int(twins[number])
                    redundant_at[number] = int(np.searchsorted(known, first, side="right"))
        return cls(
            ends=ends,
            thoughts=thoughts,
            twins=twins,
            redundancy=redundancy,
            redundant_at=redundant_at,
            threshold=threshold,
            similarity=unstepped(stepped(similarity)),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def check(self, *, tokens: int, events: int) -> None:
        """Raise `InputError` unless they can be the sentences of a sequence.

        Args:
            tokens: its length.
            events: how many events it had.
        """
        count = len(self)
        numbers = np.arange(count)
        names = ("thoughts", "twins", "redundancy", "redundant_at")
        known = self.similarity.shape[0]
        rules = {
            f"ends must rise and lie in 1..{tokens}": not count
            or (
                bool((np.diff(self.ends) > 0).all())
                and int(self.ends[0]) > 0
                and int(self.ends[-1]) <= tokens
            ),
            f"{', '.join(names)} must have a value per sentence ({count})": all(
                len(getattr(self, name)) == count for name in names
            ),
            "similarity must be square, for no more than all sentences": self.similarity.shape
            == (known, known)
            and known <= count,
        }
        if all(rules.values()):
            rules["thoughts must be known ones"] = bool(
                np.isin(self.thoughts, [int(thought) for thought in Thought]).all()
            )
            rules["twins must be later sentences"] = bool(
                ((self.twins == -1) | ((self.twins > numbers) & (self.twins < count))).all()
            )
            rules["redundant_at must be an event, or the number of events"] = bool(
                ((self.redundant_at >= 0) & (self.redundant_at <= events)).all()
            )
        for rule, holds in rules.items():
            if not holds:
                raise InputError(f"Sentences: {rule}.")


def stepped(similarity: Float[np.ndarray, "*axes"]) -> Int[np.ndarray, "*axes"]:
    """Similarities as the whole numbers of steps that a file holds, -127 to 127.

    Args:
        similarity: in [-1, 1], but for rounding.
    """
    steps: Int[np.ndarray, "*axes"] = np.rint(similarity.clip(-1, 1) * _STEPS).astype(np.int8)
    return steps


def unstepped(steps: Int[np.ndarray, "*axes"]) -> Float[np.ndarray, "*axes"]:
    """The inverse of `stepped`.

    Args:
        steps: as a file holds them.
    """
    similarity: Float[np.ndarray, "*axes"] = steps.astype(np.float32) / _STEPS
    return similarity


def thought_names() -> list[str]:
    """The name of each thought, in the order of their numbers."""
    return [thought.name.lower() for thought in Thought]
