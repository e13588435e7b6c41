"""How similar sentences of traces are to later ones that restate them, and to those that do not."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from skipkv.calibration.restating import restates
from skipkv.calibration.traces import Trace
from skipkv.models.architecture import text_config
from skipkv.runtime import Engine
from skipkv.runtime.parts.sentences import SentenceTracker
from skipkv.runtime.seam.lending import no_gradient
from skipkv.runtime.text.marks import Marks
from skipkv.runtime.text.token_text import TokenText
from skipkv.segmenters import Newline, Segmenter

_AT_ONCE = 1024  # tokens whose states are held in float64 together


@attrs.frozen(kw_only=True)
class TraceSimilarities:
    """The similarities of one trace that a threshold is estimated from.

    Args:
        restated: for every sentence that a later one restates, its similarity to the most similar
            of those.
        unrestated: for every sentence with facts, its similarity to the most similar later sentence
            that does not restate it. Sentences after the first restatement do not count: from there
            on the facts stand somewhere else.
    """

    restated: tuple[float, ...]
    unrestated: tuple[float, ...]

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        embeddings: Float[Tensor, "S E"],
        *,
        label: Callable[[str, str], bool | None] = restates,
    ) -> "TraceSimilarities":
        """The similarities of a trace's sentences, in their order.

        Args:
            texts: text of each sentence.
            embeddings: their unit vectors, as in a `SentenceTable`.
            label: whether a later sentence restates an earlier one; None leaves the pair out.
        """
        similar = (embeddings.float() @ embeddings.float().T).tolist()
        restated, unrestated = [], []
        for place, text in enumerate(texts):
            said, unsaid = [], []
            for later in range(place + 1, len(texts)):
                again = label(text, texts[later])
                if again:
                    said.append(similar[place][later])
                elif again is False and not said:
                    unsaid.append(similar[place][later])
            if said:
                restated.append(max(said))
            if unsaid:
                unrestated.append(max(unsaid))
        return cls(restated=tuple(restated), unrestated=tuple(unrestated))


class SentencePairs:
    """Reads traces, and collects the similarities of their sentences.

    Sentences and their embeddings are those that the policy `skipkv` sees while it decodes with
    room for everything. Only sentences inside the thinking part count.

    Args:
        engine: has the model and its tokenizer.
        segmenter: cuts traces into sentences; None for that of `presets.skipkv`.
    """

    def __init__(self, engine: Engine, segmenter: Segmenter | None = None) -> None:
        self._model: Any = engine.model
        self._segmenter = Newline() if segmenter is None else segmenter
        self._text = TokenText(engine.tokenizer)
        vocabulary = text_config(self._model).vocab_size
        self._marks = Marks(self._text, vocabulary, engine.thinking)
        self.traces: list[TraceSimilarities] = []
        """Of the traces read so far."""

    def add(self, trace: Trace) -> None:
        """Read a trace.

        Args:
            trace: what the model wrote for a prompt.
        """
        self.traces.append(TraceSimilarities.of(*self.sentences(trace)))

    def sentences(self, trace: Trace) -> tuple[list[str], Float[Tensor, "S E"]]:
        """Texts and unit vectors of a trace's sentences.

        Args:
            trace: what the model wrote for a prompt.
        """
        ids = [*trace.prompt, *trace.tokens]
        with no_gradient(self._model):
            read = self._model.base_model(
                input_ids=torch.tensor([ids], device=self._model.device), use_cache=False
            )
        hidden = read.last_hidden_state[0]
        tracker = SentenceTracker(
            self._segmenter, hidden.shape[1], hidden.device, prompt=len(trace.prompt)
        )
        pieces = self._text.whole(ids)
        for start in range(0, len(ids), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            tracker.feed(ids[some], pieces[some], hidden[some])
        ends = tracker.table.ends.tolist()
        thinking = self._marks.thinking(trace.prompt, trace.tokens)
        spans = [
            (number, start, end)
            for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
            if start >= len(trace.prompt) and all(thinking[start:end])
        ]
        texts = ["".join(pieces[start:end]) for _, start, end in spans]
        return texts, tracker.table.embeddings[[number for number, _, _ in spans]].cpu()
