"""How much of every sentence is still in the cache at the end."""

from typing import SupportsIndex

import torch

from skipkv._types import TokenStream
from skipkv.errors import InputError
from skipkv.runtime import Completion, Engine
from skipkv.runtime.requests.prompts import Content
from skipkv.runtime.text.token_text import TokenText
from skipkv.trace.recorder import joined


def survival(
    engine: Engine,
    prompt: Content,
    completion: Completion,
    *,
    layers: slice | SupportsIndex = slice(None),
) -> list[tuple[float, str]]:
    r"""The share of its tokens that each sentence still has in the cache after the last event.

    Layers and heads keep different positions, so a share is the mean over all of them: 1 if every
    head holds the whole sentence, 0 if every head has dropped all of it. The policy's segmenter
    decides where sentences end. Text after the last event is left out. Without an event every
    share is 1.

    Args:
        engine: the engine that decoded the completion.
        prompt: the prompt it decoded.
        completion: its completion, decoded with `trace=True`.
        layers: the layers to average over: a slice, or one layer's number; by default all.

    Returns:
        (share, sentence) in the order of the text, the prompt's sentences first.

    Raises:
        InputError: the completion has no trace.

    Example:
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.streaming_llm(8, interval=4))
        >>> prompt = "one.\n\ntwo plus three plus one.\n\nso\n\n"
        >>> [completion] = engine.generate([prompt], max_new_tokens=16, trace=True)
        >>> survival(engine, prompt, completion)[:3]
        [(1.0, 'one.\n\n'), (0.2, 'two plus three plus one.\n\n'), (0.0, 'so\n\n')]
    """
    if completion.trace is None:
        raise InputError(
            "survival() reads the trace of a completion, and this one has none. Decode it with "
            "trace=True: engine.generate(prompts, max_new_tokens=..., trace=True)."
        )
    ids = [*engine.encode(prompt), *completion.tokens]
    if completion.trace:
        event = completion.trace[-1]
        ids = ids[: event.seen]
        kept = event.kept[layers].reshape(-1, event.kept.shape[-1])  # [layers * H, K]
    else:
        kept = torch.arange(len(ids))[None]
    text = TokenText(engine.tokenizer)  # as the runtime reads it: tokens that follow others
    cuts = engine.policy.segmenter.cut(TokenStream(ids=ids, pieces=text.whole(ids)))
    shown = joined(ids, text)
    found, start = [], 0
    for end in (cut.end for cut in cuts):
        held = ((kept >= start) & (kept < end)).sum(dtype=torch.float64)
        found.append((float(held) / (len(kept) * (end - start)), "".join(shown[start:end])))
        start = end
    return found
