"""The places where the thoughts of a trace open, and the kinds of these thoughts."""

import attrs

from skipkv._types import Thought
from skipkv.calibration.traces import Trace
from skipkv.runtime.text.marks import Marks
from skipkv.runtime.text.token_text import TokenText
from skipkv.segmenters import ThoughtClassifier


@attrs.frozen(kw_only=True)
class Opening:
    """A token that ends a paragraph inside the thinking part, and the thought it opens.

    Args:
        position: position of the token in the prompt and trace together.
        text: text of the thought.
        kind: kind of the thought.
    """

    position: int
    text: str
    kind: Thought


def openings(
    trace: Trace, *, marks: Marks, text: TokenText, classify: ThoughtClassifier
) -> list[Opening]:
    """The thoughts of a trace that open where steering would act.

    A thought is a paragraph after a token with an empty line, inside the thinking part. Of the
    prompt, only the last token can open a thought. A thought ends at the next such token, at the
    end of the thinking part or at the end of the trace. Empty thoughts are left out, and so is the
    last thought of a trace that was cut short.

    Args:
        trace: prompt and decoded tokens.
        marks: the marks of the model's vocabulary.
        text: the text of its tokens.
        classify: names the kind of a thought.
    """
    ids = [*trace.prompt, *trace.tokens]
    adds = text.whole(ids)
    found: list[Opening] = []
    before = not marks.thinks
    opened: int | None = None
    pieces: list[str] = []

    def close() -> None:
        thought = "".join(pieces)
        if opened is not None and thought.strip():
            found.append(Opening(position=opened, text=thought, kind=Thought(classify(thought))))

    for position, thinking in enumerate(marks.thinking(trace.prompt, trace.tokens)):
        was, before = before, thinking
        if position < len(trace.prompt) - 1:
            continue
        pieces.append(adds[position])
        if was and not thinking:  # the closing mark does not belong to the thought
            pieces = ["".join(pieces).rpartition(marks.closing)[0]]
            close()
            opened, pieces = None, []
        elif thinking and marks.ends_paragraph(ids[position]):
            close()
            opened, pieces = position, []
    if trace.finished:
        close()
    return found
