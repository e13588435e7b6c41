"""What decoding a prompt gave."""

from typing import Literal

import attrs

from skipkv.errors import SkipKVError
from skipkv.runtime.session import EventRecord

StopReason = Literal["eos", "stop_string", "length", "error"]


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
    mean_entries: float
    peak_entries: int
    peak_kv_bytes: int
    seconds: float
    padding: int = 0


@attrs.frozen(kw_only=True)
class Completion:
    """One decoded sequence.

    Args:
        index: which prompt, from 0.
        sample: which sample of it, from 0.
        prompt_tokens: length of the prompt in tokens.
        tokens: ids of the decoded tokens, with the one that ended the sequence.
        text: their text, without special tokens and without the stop string and what follows it.
        stop_reason: "eos", "stop_string", "length" (max_new_tokens reached) or "error".
        error: what broke, where the reason is "error": a part of the policy, or the model. Tokens
            and text end there.
        stats: what it cost.
        trace: its compression events, where the engine was asked for them.
    """

    index: int
    sample: int
    prompt_tokens: int
    tokens: tuple[int, ...] = attrs.field(repr=False)
    text: str
    stop_reason: StopReason
    error: SkipKVError | None = None
    stats: Stats
    trace: tuple[EventRecord, ...] | None = attrs.field(default=None, repr=False)
