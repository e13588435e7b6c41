"""What a policy kept of one sequence, from its first token to its last."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped, UInt

from skipkv.errors import InputError
from skipkv.trace.file import load, save
from skipkv.trace.plots import plot_kept, plot_similarity, plot_size
from skipkv.trace.sentences import Sentences
from skipkv.trace.tables import frame


def _tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Trace:
    """What a policy kept of one sequence: which entries left, when, and why.

    An entry leaves once. So a trace holds one number per entry, the event at which it left, and
    gives the mask of every event. `N` is the number of tokens, prompt and decoded ones together;
    `E` the number of events in which scorer and evictor chose, those of `Completion.trace`. A
    `Recorder` makes traces, and `Trace.load` reads their files.

    Args:
        left_at: for each entry, the number of the event at which it left, from 0; `E` where it was
            still held at the end. Entries are named by layer, KV head and position.
        ids: token ids of the prompt and of what was decoded.
        pieces: the text that each token adds. A character of several tokens is the first one's.
        prompt_tokens: how many of them are the prompt.
        seen: tokens that the sequence had seen at each event, rising.
        layers: the model's number of each layer, rising. Layers without evictions are left out.
        sentences: its sentences. They end where the policy's segmenter says.
        steered: positions of the tokens at which a steerer acted, rising.
        strengths: how strongly: the Euclidean norm of what it added to the hidden state there.
        terms: the scorer's terms, by their repr. Empty where scores were not recorded.
        scores: the score of each term for each entry, at the last event that scored the entry: the
            one at which it left, or the last one for an entry that stayed. NaN where none did.
        about: what it is the trace of: `model`, `policy`, `index`, `sample`, `stop_reason`,
            `error`, `skipkv` (the version that recorded it).

    Raises:
        InputError: the arguments do not fit together.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> from skipkv.trace import Recorder
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.streaming_llm(8, interval=4))
        >>> recorder = Recorder(engine)
        >>> _ = list(engine.generate(["one plus two"], max_new_tokens=20, observers=[recorder]))
        >>> [trace] = recorder.traces
        >>> trace
        <Trace: 5 + 20 tokens, 4 events, 2 layers x 2 heads, 11.0 of 24 entries held at the end>
        >>> trace.kept(0)[0, 0].nonzero()[0]
        array([0, 1, 2, 3, 5, 6, 7, 8])
    """

    left_at: UInt[np.ndarray, "layers H N"]
    ids: Int[np.ndarray, "N"]
    pieces: tuple[str, ...] = attrs.field(converter=_tuple)
    prompt_tokens: int
    seen: Int[np.ndarray, "E"]
    layers: tuple[int, ...] = attrs.field(converter=_tuple)
    sentences: Sentences
    steered: Int[np.ndarray, "A"]
    strengths: Float[np.ndarray, "A"]
    terms: tuple[str, ...] = attrs.field(converter=_tuple)
    scores: Float[np.ndarray, "terms layers H N"]
    about: Mapping[str, Any]

    def __attrs_post_init__(self) -> None:
        layers, heads, tokens = self.left_at.shape
        rules = {
            f"ids must hold one id per token ({tokens})": len(self.ids) == tokens,
            f"pieces must hold one text per token ({tokens})": len(self.pieces) == tokens,
            f"prompt_tokens must lie in 0..{tokens}": 0 <= self.prompt_tokens <= tokens,
            f"layers must hold one number per layer ({layers})": len(self.layers) == layers,
            f"seen must rise and lie in 1..{tokens}": _rises(self.seen, 1, tokens),
            "left_at must be below the number of events, or equal to it": not self.left_at.size
            or int(self.left_at.max()) <= self.events,
            "left_at must be an event that had seen the token": self._had_seen(),
            f"steered must rise and lie in 0..{tokens - 1}": _rises(self.steered, 0, tokens - 1),
            "strengths must hold one number per steered token": len(self.strengths)
            == len(self.steered),
            "scores must have a number per term and entry": self.scores.shape
            == (len(self.terms), layers, heads, tokens),
        }
        for rule, holds in rules.items():
            if not holds:
                raise InputError(f"Trace: {rule}.")
        self.sentences.check(tokens=tokens, events=self.events)

    def _had_seen(self) -> bool:
        first = np.searchsorted(self.seen, np.arange(self.left_at.shape[-1]), side="right")
        return bool((self.left_at >= first).all())

    @property
    def events(self) -> int:
        """The number of events, `E`."""
        return len(self.seen)

    @property
    def stored(self) -> int:
        """Tokens that were ever in the cache: all but the last one, which is never fed."""
        return max(len(self.ids) - 1, int(self.seen[-1]) if self.events else 0)

    def kept(self, event: int | None = None) -> Bool[np.ndarray, "layers H N"]:
        """Which entries are held after an event.

        Args:
            event: its number from 0; negative ones count from the last. None is the end, where
                tokens since the last event are held too.

        Raises:
            InputError: there is no such event.
        """
        if event is None:
            number, seen = self.events - 1, self.stored
        elif -self.events <= event < self.events:
            number = event % self.events
            seen = int(self.seen[number])
        else:
            raise InputError(
                f"Trace.kept(event={event}): the trace has {self.events} events. Give a number "
                f"from 0 to {self.events - 1}, or None for the end."
                if self.events
                else f"Trace.kept(event={event}): the trace has no event. Give None for the end."
            )
        written = np.arange(len(self.ids)) < seen
        kept: Bool[np.ndarray, "layers H N"] = (self.left_at.astype(np.int64) > number) & written
        return kept

    def share(self, event: int | None = None) -> Float64[np.ndarray, "N"]:
        """The share of layers and heads that hold each token after an event, from 0 to 1.

        Args:
            event: as for `kept`.
        """
        share: Float64[np.ndarray, "N"] = self.kept(event).mean(axis=(0, 1))
        return share

    def survival(self, event: int | None = None) -> list[tuple[float, str]]:
        """The share of its entries that each sentence still has after an event.

        Args:
            event: as for `kept`.

        Returns:
            (share, text) of the sentences that the event has seen in full, in their order.
        """
        share = self.share(event)
        seen = self.stored if event is None else int(self.seen[event])
        found, start = [], 0
        for end in self.sentences.ends.tolist():
            if end > seen:
                break
            found.append((float(share[start:end].mean()), "".join(self.pieces[start:end])))
            start = end
        return found

    def sizes(self) -> tuple[Int[np.ndarray, "P"], Float64[np.ndarray, "P"]]:
        """How the cache grew and shrank: points of a line.

        Returns:
            Tokens seen, and entries held per head as a mean over layers and heads: at the start,
            before and after each event, and at the end.
        """
        heads = self.left_at.shape[0] * self.left_at.shape[1]
        gone = np.bincount(self.left_at.reshape(-1), minlength=self.events + 1)[: self.events]
        after = self.seen - np.cumsum(gone) / max(heads, 1)
        before = after + gone / max(heads, 1)
        last = float(after[-1]) + self.stored - int(self.seen[-1]) if self.events else self.stored
        tokens = np.concatenate([[0], np.repeat(self.seen, 2), [self.stored]]).astype(np.int64)
        held = np.concatenate([[0], np.stack([before, after], axis=1).reshape(-1), [last]])
        return tokens, held

    def save(self, path: str | Path) -> None:
        """Write it to a file: see docs/traces.md for the format.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            InputError: it cannot be written.
        """
        save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read a file that `save` or a `Recorder` wrote.

        Args:
            path: the file.

        Raises:
            InputError: there is no such file, or it is no trace, incomplete, damaged, or of a newer
                version of the format.
        """
        return load(Path(path), cls)

    def to_pandas(self, table: str = "entries") -> Any:
        """One of its tables as a `pandas.DataFrame`.

        Args:
            table: "entries" has a row per layer, head and position; "tokens" one per position;
                "sentences" and "events" one for each of these.

        Raises:
            InputError: there is no such table.
            MissingExtraError: pandas is not installed.
        """
        return frame(self, table)

    def plot_kept(self) -> Any:
        """A `matplotlib.figure.Figure` of what is held over time.

        It has a row per position and a column per event, the end last, and shows the share of heads
        that hold a token. Save it with `figure.savefig(path)`.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plot_kept(self)

    def plot_size(self) -> Any:
        """A figure of the entries held per head over the tokens seen, and of the steering.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plot_size(self)

    def plot_similarity(self) -> Any:
        """A figure of the similarities of all pairs of sentences, repetitions marked.

        Raises:
            InputError: the policy read no sentences, so there are no similarities.
            MissingExtraError: matplotlib is not installed.
        """
        if not len(self.sentences.similarity):
            raise InputError(
                "Trace.plot_similarity() needs similarities of sentences, and the policy read none "
                "of them. A policy that does is presets.skipkv."
            )
        return plot_similarity(self)

    def __repr__(self) -> str:
        layers, heads, tokens = self.left_at.shape
        held = float(self.sizes()[1][-1])
        return (
            f"<Trace: {self.prompt_tokens} + {tokens - self.prompt_tokens} tokens, {self.events} "
            f"events, {layers} layers x {heads} heads, {held:.1f} of {self.stored} entries held at "
            "the end>"
        )


def _rises(numbers: Shaped[np.ndarray, "K"], least: int, most: int) -> bool:
    """Whether numbers rise strictly and lie in a range."""
    inside = bool(((numbers >= least) & (numbers <= most)).all())
    return inside and bool((np.diff(numbers) > 0).all())
