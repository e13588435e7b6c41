"""Writing completions: as JSON lines, or as text with statistics on stderr."""

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from skipkv.cli.exits import one_line
from skipkv.cli.terminal import put

if TYPE_CHECKING:
    from skipkv.runtime import Completion


def json_line(completion: "Completion") -> str:
    """A completion as one line of JSON, in ASCII."""
    stats = completion.stats
    record: dict[str, Any] = {
        "index": completion.index,
        "sample": completion.sample,
        "text": completion.text,
        "prompt_tokens": completion.prompt_tokens,
        "new_tokens": stats.new_tokens,
        "stop_reason": completion.stop_reason,
        "error": None if completion.error is None else one_line(completion.error),
        "events": stats.events,
        "evicted": stats.evicted,
        "mean_entries": round(stats.mean_entries, 1),
        "peak_entries": stats.peak_entries,
        "peak_kv_bytes": stats.peak_kv_bytes,
        "seconds": round(stats.seconds, 3),
        "padding": stats.padding,
    }
    return json.dumps(record)


def stats_line(completion: "Completion") -> str:
    """What a completion cost and what its policy saved, in one line for people."""
    stats = completion.stats
    speed = f", {stats.new_tokens / stats.seconds:.1f}/s" if stats.seconds > 0 else ""
    events = "1 event" if stats.events == 1 else f"{stats.events} events"
    return (
        f"{_name(completion)}: {completion.prompt_tokens} + {stats.new_tokens} tokens in "
        f"{stats.seconds:.1f} s{speed} ({completion.stop_reason}); {events}, "
        f"{stats.evicted} entries evicted; {_held(completion)}; "
        f"{stats.peak_kv_bytes / 1e6:.1f} MB peak KV"
    )


def write(completion: "Completion", *, as_json: bool, heading: bool) -> None:
    """Print a completion: its text on stdout, its statistics and error on stderr.

    Args:
        completion: the completion to print.
        as_json: print one line of JSON, and nothing on stderr.
        heading: print a heading with the numbers of prompt and sample before the text.
    """
    if as_json:
        typer.echo(json_line(completion))
        return
    if heading:
        put(f"=== {_name(completion)} ===")
    put(completion.text)
    sys.stdout.flush()
    _beside_the_bar(stats_line(completion))
    if completion.error is not None:
        _beside_the_bar(f"skipkv: error: {_name(completion)}: {one_line(completion.error)}")


def _held(completion: "Completion") -> str:
    """The most entries held, beside what the full cache holds for the same tokens."""
    stats = completion.stats
    full = completion.prompt_tokens + stats.new_tokens - 1  # the last token is never stored
    if stats.peak_entries >= full:
        return f"at most {stats.peak_entries} entries held per KV head, as in a full cache"
    return (
        f"at most {stats.peak_entries} entries held per KV head of {full} in a full cache "
        f"({1 - stats.peak_entries / full:.0%} saved)"
    )


def _name(completion: "Completion") -> str:
    """The numbers of prompt and sample, from 1."""
    return f"prompt {completion.index + 1}, sample {completion.sample + 1}"


def _beside_the_bar(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
