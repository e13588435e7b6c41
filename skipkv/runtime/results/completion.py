"""What decoding a prompt gave."""

from typing import Literal

import attrs
from jaxtyping import Int
from torch import Tensor

from skipkv.errors import SkipKVError

StopReason = Literal["eos", "stop_string", "length", "error", "cancelled"]


def _rounded(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _beginning(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


@attrs.frozen(kw_only=True)
class EventRecord:
    """One compression event of one sequence.

    Args:
        seen: tokens the sequence had seen.
        entries: most entries a head held before.
        evicted: entries dropped, summed over layers and KV heads.
        kept: positions kept per layer and KV head. A head that kept fewer than others has -1 in
            its last places.
    """

    seen: int
    entries: int
    evicted: int
    kept: Int[Tensor, "layers H K"] = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Stats:
    """What one sequence cost.

    Args:
        new_tokens: tokens decoded, the one that ended the sequence included.
        events: compression events that dropped something.
        evicted: entries dropped, summed over layers and KV heads.
        mean_entries: entries per KV head that a decode step attended to, averaged over layers,
            heads and steps: the budget as it was really used.
        peak_entries: most entries any head of any layer held at once.
        peak_kv_bytes: bytes of keys and values allocated for this sequence at most, as measured:
            the storage of all sequences decoded together, divided by their number.
        seconds: from the start of the prompt's first pass to the last token, neighbours included.
        padding: tokens of padding that a padded runtime would have stored with this sequence, its
            prompt brought to the longest of those that were admitted together with it. Here none
            is stored. A sequence that takes a freed slot alone needs none.
    """

    new_tokens: int
    events: int
    evicted: int
    mean_entries: float = attrs.field(repr=_rounded)
    peak_entries: int
    peak_kv_bytes: int
    seconds: float = attrs.field(repr=_rounded)
    padding: int = 0

    @classmethod
    def nothing(cls) -> "Stats":
        """The cost of a sequence that never started."""
        return cls(
            new_tokens=0,
            events=0,
            evicted=0,
            mean_entries=0.0,
            peak_entries=0,
            peak_kv_bytes=0,
            seconds=0.0,
        )


@attrs.frozen(kw_only=True)
class Completion:
    """One decoded sequence.

    Args:
        index: which prompt, from 0.
        sample: which sample of it, from 0.
        prompt_tokens: length of the prompt in tokens.
        tokens: ids of the decoded tokens, with the one that ended the sequence.
        text: their text, without special tokens and without the stop string and what follows it.
        thinking: the part of the text before the last mark that closes thinking (`</think>`, say:
            `ThinkingMarks`), or all of it where thinking has begun, in the prompt or the text, and
            not ended; None where there are no marks. Without marks and surrounding white space.
        answer: the part of the text after that mark, without surrounding white space; None where
            thinking has not ended. All of the text where there are no marks.
        stop_reason: "eos", "stop_string", "length" (max_new_tokens reached), "error", or
            "cancelled" by `Handle.cancel` or the end of a server.
        error: what broke, where the reason is "error": a part of the policy, or the model. Tokens
            and text end there.
        stats: what it cost.
        trace: its compression events, where the engine was asked for them: the part of its
            `skipkv.trace.Trace` that needs no recorder.
    """

    index: int
    sample: int
    prompt_tokens: int
    tokens: tuple[int, ...] = attrs.field(repr=False)
    text: str = attrs.field(repr=_beginning)
    thinking: str | None = attrs.field(default=None, repr=False)
    answer: str | None = attrs.field(default=None, repr=False)
    stop_reason: StopReason
    error: SkipKVError | None = None
    stats: Stats
    trace: tuple[EventRecord, ...] | None = attrs.field(default=None, repr=False)
