"""A trace as data frames."""

from typing import Any

import numpy as np

from skipkv._runs import require_extra
from skipkv.errors import InputError
from skipkv.trace.sentences import thought_names


def frame(trace: Any, table: str) -> Any:
    """One of a trace's tables as a `pandas.DataFrame`.

    Args:
        trace: the trace.
        table: "entries", "tokens", "sentences" or "events".

    Raises:
        InputError: there is no such table.
        MissingExtraError: pandas is not installed.
    """
    if table not in _TABLES:
        raise InputError(f"Trace.to_pandas(table={table!r}) must be one of {', '.join(_TABLES)}.")
    require_extra("trace", "pandas")
    import pandas

    return pandas.DataFrame(_TABLES[table](trace))


def _entries(trace: Any) -> dict[str, Any]:
    layers, heads, tokens = trace.left_at.shape
    columns: dict[str, Any] = {
        "layer": np.repeat(trace.layers, heads * tokens),
        "head": np.tile(np.repeat(np.arange(heads), tokens), layers),
        "position": np.tile(np.arange(tokens), layers * heads),
        "left_at": trace.left_at.reshape(-1).astype(np.int64),
        "held": trace.kept().reshape(-1),
    }
    return columns | {
        term: values.reshape(-1) for term, values in zip(trace.terms, trace.scores, strict=True)
    }


def _tokens(trace: Any) -> dict[str, Any]:
    tokens = len(trace.ids)
    strengths = np.zeros(tokens, dtype=np.float32)
    strengths[trace.steered] = trace.strengths
    sentence = np.searchsorted(trace.sentences.ends, np.arange(tokens), side="right")
    return {
        "position": np.arange(tokens),
        "token": trace.ids,
        "text": list(trace.pieces),
        "prompt": np.arange(tokens) < trace.prompt_tokens,
        "sentence": np.where(sentence < len(trace.sentences), sentence, -1),
        "share": trace.share(),
        "steered": strengths,
    }


def _sentences(trace: Any) -> dict[str, Any]:
    own = trace.sentences
    starts = np.concatenate([[0], own.ends[:-1]]) if len(own) else own.ends
    share = np.concatenate([[0.0], np.cumsum(trace.share())])
    return {
        "start": starts,
        "end": own.ends,
        "text": [
            "".join(trace.pieces[start:end])
            for start, end in zip(starts.tolist(), own.ends.tolist(), strict=True)
        ],
        "thought": [thought_names()[thought] for thought in own.thoughts.tolist()],
        "twin": own.twins,
        "redundancy": own.redundancy,
        "redundant_at": own.redundant_at,
        "share": (share[own.ends] - share[starts]) / np.maximum(own.ends - starts, 1),
    }


def _events(trace: Any) -> dict[str, Any]:
    held = trace.sizes()[1][1:-1].reshape(-1, 2)
    return {"seen": trace.seen, "held_before": held[:, 0], "held_after": held[:, 1]}


_TABLES = {"entries": _entries, "tokens": _tokens, "sentences": _sentences, "events": _events}
