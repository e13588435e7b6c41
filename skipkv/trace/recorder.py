"""The observer that records traces."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from jaxtyping import Bool

import skipkv
from skipkv._runs import check_writable, writing
from skipkv._types import Request, SentenceTable, TokenStream
from skipkv.runtime import (
    Completion,
    Engine,
    ObservedEvent,
    ObservedPass,
    Observer,
    SequenceEvent,
    Steered,
)
from skipkv.runtime.parts.checked import cuts
from skipkv.runtime.requests.sequence import Order
from skipkv.runtime.support.checks import cache_shape
from skipkv.runtime.support.ranks import ranks_of
from skipkv.runtime.text.token_text import TokenText
from skipkv.steerers import NoSteering
from skipkv.trace.file import lengthened, shortened
from skipkv.trace.sentences import Sentences
from skipkv.trace.trace import Trace

_NEVER = np.iinfo(np.uint32).max


class Recorder(Observer):
    """Records a trace of every sequence that an engine decodes.

    It changes no token. Each event costs a copy of the positions kept to the host, and with
    `scores` the terms are scored a second time. A sequence that was refused before it was decoded
    has no trace.

    Args:
        engine: the engine that decodes.
        folder: where the traces are written, each as soon as its sequence is done, to
            `trace-INDEX-SAMPLE.npz`. A file that is there stays; the new one then gets a further
            number, `trace-INDEX-SAMPLE-2.npz`. None keeps traces in memory.
        scores: record the scores of each term as well.

    Attributes:
        traces: the traces, in the order in which sequences ended; empty with a folder.
        paths: their files; empty without a folder.

    Raises:
        InputError: the folder is a file, or cannot be written in.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(24, interval=8))
        >>> recorder = Recorder(engine, scores=True)
        >>> _ = list(engine.generate(["one plus two"], max_new_tokens=60, observers=[recorder]))
        >>> [trace] = recorder.traces
        >>> trace.events, trace.terms[0]
        (5, '0.1 * WindowAttention(window=8, pool=7)')
    """

    def __init__(
        self, engine: Engine, folder: str | Path | None = None, *, scores: bool = False
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            check_writable(self._folder)
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
        self.terms = scores
        self.steering = not isinstance(engine.policy.steerer, NoSteering)
        self.traces: list[Trace] = []
        self.paths: list[Path] = []
        self._segmenter = engine.policy.segmenter
        self._text = TokenText(engine.tokenizer)
        self._shape = cache_shape(engine.model.config, ranks=ranks_of(engine.model))
        self._about = {
            "model": _model_name(engine),
            "policy": repr(engine.policy),
            "skipkv": skipkv.__version__,
        }
        self._open: dict[tuple[int, int], _Sequence] = {}
        # What steered a prompt, for the samples that share it, and how many of these are done.
        self._prompt_acts: dict[int, list[tuple[Steered, int]]] = {}
        self._done: Counter[int] = Counter()

    def __repr__(self) -> str:
        return f"Recorder(folder={None if self._folder is None else str(self._folder)!r})"

    def on_event(self, event: ObservedEvent) -> None:
        """Note what left."""
        for one in event.sequences:
            sequence = self._sequence(one.index, one.sample)
            if sequence.request not in (None, one.request):
                sequence = self._anew(one.index, one.sample)
            sequence.request = one.request
            sequence.prompt_acts = len(self._prompt_acts.get(one.index, ()))
            sequence.table = one.sentences
            if one.compressed:
                sequence.add(one, (self._shape.layers, self._shape.heads))

    def on_pass(self, passed: ObservedPass) -> None:
        """Note where the steerer was asked; its answers stay on the device until the end."""
        for row, (index, sample) in enumerate(passed.rows):
            acts = [(steered, row) for steered in passed.steered]
            if passed.kind == "prompt":
                self._prompt_acts.setdefault(index, []).extend(acts)
            else:
                self._sequence(index, sample).acts += acts

    def on_completion(self, completion: Completion) -> None:
        """Make the trace of a sequence that is done."""
        sequence = self._open.pop((completion.index, completion.sample), None)
        if sequence is None or sequence.request is None:
            return
        trace = self._trace(sequence, completion, sequence.request.prompt)
        self._done[completion.index] += 1
        if self._done[completion.index] >= _samples(sequence.request):
            del self._done[completion.index]
            self._prompt_acts.pop(completion.index, None)
        if self._folder is None:
            self.traces.append(trace)
        else:
            path = _free(self._folder / f"trace-{completion.index}-{completion.sample}.npz")
            trace.save(path)
            self.paths.append(path)

    def _sequence(self, index: int, sample: int) -> "_Sequence":
        return self._open.setdefault((index, sample), _Sequence())

    def _anew(self, index: int, sample: int) -> "_Sequence":
        """The sequence of another call, in the place of one that was never completed."""
        left = self._open.pop((index, sample))
        del self._prompt_acts.get(index, [])[: left.prompt_acts]
        self._done.pop(index, None)
        return self._sequence(index, sample)

    def _trace(self, sequence: "_Sequence", completion: Completion, prompt: Sequence[int]) -> Trace:
        ids = [*prompt, *completion.tokens]
        pieces = joined(ids, self._text)
        shape = (self._shape.layers, self._shape.heads, len(ids))
        events = len(sequence.seen)
        left = np.full(shape, events, dtype=np.min_scalar_type(events))
        scores = np.full((0, *shape), np.nan, dtype=np.float32)
        if sequence.left is not None:
            known = min(sequence.left.shape[-1], len(ids))
            gone = sequence.left[..., :known]
            left[..., :known] = np.where(gone == _NEVER, events, gone)
        if sequence.scores is not None:
            known = min(sequence.scores.shape[-1], len(ids))
            scores = np.full((len(sequence.terms), *shape), np.nan, dtype=np.float32)
            scores[..., :known] = sequence.scores[..., :known]
        acts = [*self._prompt_acts.get(completion.index, ()), *sequence.acts]
        steered, strengths = _acted(acts, before=len(ids) - 1)
        return Trace(
            left_at=left,
            ids=np.array(ids, dtype=np.int64),
            pieces=pieces,
            prompt_tokens=completion.prompt_tokens,
            seen=np.array(sequence.seen, dtype=np.int64),
            layers=self._shape.numbers,
            sentences=Sentences.of(
                sequence.table, further=self._further(sequence.table, ids), known=sequence.known
            ),
            steered=steered,
            strengths=strengths,
            terms=sequence.terms,
            scores=lengthened(shortened(scores)),
            about={
                **self._about,
                "index": completion.index,
                "sample": completion.sample,
                "stop_reason": completion.stop_reason,
                "error": None if completion.error is None else str(completion.error),
            },
        )

    def _further(self, table: SentenceTable | None, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(end, thought) of the sentences after a table's, and of the open one."""
        start = 0 if table is None or not len(table) else int(table.ends[-1])
        rest = ids[start:]
        stream = TokenStream(ids=rest, pieces=self._text.whole(rest))
        return [(start + c.end, int(c.thought)) for c in cuts(self._segmenter, stream)]


def _model_name(engine: Engine) -> str:
    """A hub id, or the end of a folder's path: a page that is shown to others names no home."""
    name = str(getattr(engine.model.config, "name_or_path", "") or type(engine.model).__name__)
    return "/".join(Path(name).parts[-2:])


def _samples(request: Request) -> int:
    return request.sampling.n if isinstance(request, Order) else 1


@attrs.define(eq=False)
class _Sequence:
    """What is known of a sequence that is being decoded."""

    request: Request | None = None
    table: SentenceTable | None = None
    seen: list[int] = attrs.field(factory=list)
    known: list[int] = attrs.field(factory=list)
    acts: list[tuple[Steered, int]] = attrs.field(factory=list)
    prompt_acts: int = 0  # of its prompt, at its last event
    left: Any = None  # [layers H room], room at least the tokens seen
    terms: tuple[str, ...] = ()
    scores: Any = None  # [terms layers H room]

    def add(self, event: SequenceEvent, shape: tuple[int, int]) -> None:
        """Take in an event in which scorer and evictor chose.

        Args:
            event: the event.
            shape: layers and heads.
        """
        if self.left is None:
            self.left = np.zeros((*shape, 0), dtype=np.uint32)
        self.left = _grown(self.left, event.seen, _NEVER)
        kept = held(event.kept.numpy(), event.seen)
        here = self.left[..., : event.seen]
        here[~kept & (here == _NEVER)] = len(self.seen)
        self.seen.append(event.seen)
        self.known.append(0 if event.sentences is None else len(event.sentences))
        if event.scores is not None and event.scores.terms:
            found = event.scores
            self.terms = tuple(found.terms)
            if self.scores is None:
                self.scores = np.zeros((len(self.terms), *shape, 0), dtype=np.float32)
            self.scores = _grown(self.scores, event.seen, np.nan)
            layer, head, slot = np.nonzero(found.positions.numpy() >= 0)
            place = found.positions.numpy()[layer, head, slot]
            for number, values in enumerate(found.terms.values()):
                self.scores[number, layer, head, place] = values.float().numpy()[layer, head, slot]


def held(positions: Any, seen: int) -> Bool[np.ndarray, "layers H T"]:
    """A mask of the tokens seen, from the positions kept.

    Args:
        positions: `[layers, H, K]`, filled up with -1.
        seen: tokens seen, `T`.
    """
    mask = np.zeros((*positions.shape[:-1], seen + 1), dtype=bool)
    np.put_along_axis(mask, np.where(positions < 0, seen, positions).astype(np.int64), True, -1)
    return mask[..., :seen]


def joined(ids: Sequence[int], text: TokenText) -> list[str]:
    """The text that each token adds; that of a character in several tokens is the first one's.

    Args:
        ids: the tokens.
        text: gives the text of single tokens.
    """
    pieces = text.pieces(ids)
    start = 0
    while start < len(ids):
        end = start + 1
        while "\ufffd" in pieces[start] and end < min(start + 8, len(ids)):
            end += 1
            whole = str(text.tokenizer.decode(list(ids[start:end])))
            if "\ufffd" not in whole:
                pieces[start:end] = [whole, *[""] * (end - start - 1)]
                break
        else:
            end = start + 1
        start = end
    return pieces


def _acted(acts: Sequence[tuple[Steered, int]], *, before: int) -> tuple[Any, Any]:
    """Positions below a bound at which a steerer acted, rising, and how strongly."""
    if not acts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    places = torch.stack([steered.positions[row] for steered, row in acts]).cpu().numpy()
    strengths = torch.stack([steered.strength[row] for steered, row in acts]).float().cpu().numpy()
    # an accelerator decodes a few tokens more than it hands out
    acted = dict(zip(places.tolist(), strengths.tolist(), strict=True))
    found = sorted((p, s) for p, s in acted.items() if s > 0 and 0 <= p < before)
    return (
        np.array([place for place, _ in found], dtype=np.int64),
        np.array([strength for _, strength in found], dtype=np.float32),
    )


def _grown(array: Any, tokens: int, fill: float | int) -> Any:
    """An array with room for so many tokens in its last axis."""
    room = array.shape[-1]
    if room >= tokens:
        return array
    more = max(tokens, 2 * room) - room
    rest = np.full((*array.shape[:-1], more), fill, dtype=array.dtype)
    return np.concatenate([array, rest], axis=-1)


def _free(path: Path) -> Path:
    """A path at which there is no file yet."""
    number, free = 2, path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free
