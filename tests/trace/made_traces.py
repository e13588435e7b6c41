"""Traces of random numbers."""

import numpy as np

from skipkv.trace import Sentences, Trace


def made(
    *,
    tokens: int,
    layers: int = 1,
    heads: int = 1,
    events: int = 1,
    terms: int = 0,
    sentences: int = 0,
    seed: int = 0,
) -> Trace:
    """A trace of random numbers: as hard to compress as any."""
    random = np.random.default_rng(seed)
    seen = np.sort(random.choice(np.arange(1, tokens + 1), events, replace=False))
    first = np.searchsorted(seen, np.arange(tokens), side="right")
    left = random.integers(first, events + 1, (layers, heads, tokens))
    ends = np.sort(random.choice(np.arange(1, tokens + 1), sentences, replace=False))
    similarity = random.integers(-127, 128, (sentences, sentences)).astype(np.float32) / 127
    similarity = np.triu(similarity, 1)
    similarity += similarity.T + np.eye(sentences, dtype=np.float32)
    twins = np.array([random.integers(n + 1, sentences) for n in range(sentences - 1)] + [-1])
    scores = random.standard_normal((terms, layers, heads, tokens), dtype=np.float32)
    scores.view(np.uint32)[...] &= 0xFFFF0000
    return Trace(
        left_at=left.astype(np.min_scalar_type(events)),
        ids=random.integers(0, 2**31, tokens),
        pieces=[chr(32 + n % 500) for n in range(tokens)],
        prompt_tokens=tokens // 2,
        seen=seen,
        layers=range(layers),
        sentences=Sentences(
            ends=ends,
            thoughts=random.integers(0, 3, sentences),
            twins=twins[:sentences],
            redundancy=random.random(sentences, dtype=np.float32),
            redundant_at=random.integers(0, events + 1, sentences),
            threshold=0.9,
            similarity=similarity,
        ),
        steered=np.arange(0, tokens, 3),
        strengths=random.random(len(range(0, tokens, 3)), dtype=np.float32),
        terms=[f"term {n}" for n in range(terms)],
        scores=scores,
        about={"policy": "a policy", "index": 3},
    )
