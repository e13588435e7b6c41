"""Traces as one page of HTML that opens in any browser and loads nothing."""

import base64
import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from skipkv.errors import InputError
from skipkv.trace.file import shortened
from skipkv.trace.sentences import thought_names
from skipkv.trace.trace import Trace

MOST = 2
"""How many traces a page shows side by side."""


def page(traces: Sequence[Trace], labels: Sequence[str] = ()) -> str:
    """A page that shows one trace, or two side by side.

    It has the text of prompt and answer, each token shaded by the share of heads that hold it, a
    slider over the events and choices of layer and head. All of it is in the page: data, styles and
    script.

    Args:
        traces: one or two.
        labels: a heading for each; by default its policy.

    Raises:
        InputError: there are none, or more than two, or another number of labels.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> from skipkv.trace import Recorder
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(24, interval=8))
        >>> recorder = Recorder(engine)
        >>> _ = list(engine.generate(["one plus two"], max_new_tokens=60, observers=[recorder]))
        >>> page(recorder.traces, ["R-KV"])[:15]
        '<!doctype html>'
    """
    if not 1 <= len(traces) <= MOST:
        raise InputError(f"page() shows one trace or {MOST} side by side, got {len(traces)}.")
    labels = labels or [_label(trace) for trace in traces]
    if len(labels) != len(traces):
        raise InputError(f"page() got {len(traces)} traces and {len(labels)} labels.")
    shown = [_shown(trace, label) for trace, label in zip(traces, labels, strict=True)]
    # In JSON "<" stands in texts only. Written as its code, it can end no script and open no tag.
    data = json.dumps(shown, allow_nan=False).replace("<", "\\u003c")
    template = resources.files("skipkv.trace").joinpath("page.html").read_text(encoding="utf-8")
    before, _, after = template.partition("@DATA@")
    title = f"{' and '.join(labels)}: what was kept".encode(errors="replace").decode()
    return before.replace("@TITLE@", html.escape(title)) + data + after


def _label(trace: Trace) -> str:
    policy = str(trace.about.get("policy", "trace"))
    return policy if len(policy) <= 80 else f"{policy[:77]}..."


def _shown(trace: Trace, label: str) -> dict[str, Any]:
    left = trace.left_at.astype(trace.left_at.dtype.newbyteorder("<"))
    own = trace.sentences
    return {
        "label": label,
        "about": dict(trace.about),
        "tokens": len(trace.ids),
        "stored": trace.stored,
        "prompt": trace.prompt_tokens,
        "layers": list(trace.layers),
        "heads": trace.left_at.shape[1],
        "events": trace.events,
        "seen": trace.seen.tolist(),
        "width": left.dtype.itemsize,
        "left": base64.b64encode(left.tobytes()).decode(),
        "ids": trace.ids.tolist(),
        "pieces": list(trace.pieces),
        "ends": own.ends.tolist(),
        "thought": own.thoughts.tolist(),
        "thoughts": thought_names(),
        "twins": own.twins.tolist(),
        "redundancy": [round(value, 4) for value in own.redundancy.tolist()],
        "redundant_at": own.redundant_at.tolist(),
        "steered": trace.steered.tolist(),
        "strengths": [float(f"{value:.4g}") for value in trace.strengths.tolist()],
        "terms": list(trace.terms),
        "scores": base64.b64encode(shortened(trace.scores).astype("<u2").tobytes()).decode()
        if np.size(trace.scores)
        else None,
    }
