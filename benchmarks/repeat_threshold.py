"""Thresholds of a repeated sentence on the embedded models, by several criteria.

python benchmarks/repeat_threshold.py          the table of docs/steering.md
python benchmarks/repeat_threshold.py --show   labelled pairs of sentences too, drawn at random
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from skipkv import Engine, Policy, Sampling
from skipkv.calibration import SentencePairs, Trace, TraceSimilarities, restates
from skipkv.calibration.restating import SHARE, Statement
from skipkv.evaluation.datasets import DEFAULTS
from skipkv.tiny import problems_of

PROBLEMS = 200
Sentences = tuple[list[str], torch.Tensor]
Label = Callable[[str, str], bool | None]


def main() -> None:
    """Print the table, and with `--show` pairs."""
    torch.set_num_threads(1)
    found = {model: list(sentences(model)) for model in ("tiny", "rambler")}
    columns = {model: dict(criteria(traces)) for model, traces in found.items()}
    print(f"| criterion | {' | '.join(columns)} |\n|---|--:|--:|")
    for name in columns["tiny"]:
        print(f"| {name} | {' | '.join(f'{column[name]:.3f}' for column in columns.values())} |")
    if "--show" in sys.argv:
        for model, traces in found.items():
            show(model, traces)


def sentences(model: str) -> Iterator[Sentences]:
    """Texts and unit vectors of each trace's sentences, traces as of `skipkv calibrate`."""
    engine, own = Engine.from_pretrained(model, policy=Policy(), batch_size=64), DEFAULTS[model]
    problems = problems_of(model, PROBLEMS, split="train")
    prompts = [engine.encode([{"role": "user", "content": p.question}]) for p in problems]
    pairs = SentencePairs(engine)
    for completion in engine.generate(
        prompts,
        max_new_tokens=own.max_new_tokens,
        sampling=Sampling(temperature=own.temperature),
        seeds=list(range(PROBLEMS)),
    ):
        ended = completion.stop_reason == "eos"
        tokens = completion.tokens[:-1] if ended else completion.tokens
        index = completion.index
        texts, vectors = pairs.sentences(
            Trace(index=index, prompt=prompts[index], tokens=tokens, finished=ended)
        )
        yield texts, vectors


def criteria(traces: Sequence[Sentences]) -> Iterator[tuple[str, float]]:
    """Name and threshold of each criterion."""
    restated, others = kinds(traces, restates)
    for share in (0.01, 0.05, 0.1, 0.2, 0.3):
        chosen = ", chosen" if share == 0.05 else ""
        name = f"at most {share:.0%} of the sentences that are not restated{chosen}"
        yield name, float(np.quantile(others, 1 - share, method="higher"))
    _, worded = kinds(traces, by_words)
    yield "5 %, sentences without facts too", float(np.quantile(worded, 0.95, method="higher"))
    lost = needed(traces)
    yield (
        "5 % of the sentences with a fact that is told again only later",
        float(np.quantile(lost, 0.95, method="higher")),
    )
    yield "best balanced accuracy over sentences", best(restated, others)
    yield "best balanced accuracy over pairs", best(*of_pairs(traces))


def kinds(traces: Sequence[Sentences], label: Label) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of all traces: of restated sentences, and of others."""
    found = [TraceSimilarities.of(*trace, label=label) for trace in traces]
    return (
        np.array([value for one in found for value in one.restated]),
        np.array([value for one in found for value in one.unrestated]),
    )


def similarities(vectors: torch.Tensor) -> list[list[float]]:
    """The cosine similarity of every pair of sentences."""
    found: list[list[float]] = (vectors @ vectors.T).tolist()
    return found


def by_words(earlier: str, later: str) -> bool | None:
    """As `restates`; a sentence without facts is restated where half of the words agree."""
    first, second = Statement.of(earlier), Statement.of(later)
    if first.facts:
        return restates(earlier, later)
    most = max(first.words.total(), second.words.total())
    return (first.words & second.words).total() >= SHARE * most


def needed(traces: Sequence[Sentences]) -> np.ndarray:
    """Similarity of sentences to the later one at which they still hold a fact told again later."""
    found = []
    for texts, vectors in traces:
        similar = similarities(vectors)
        facts = [Statement.of(text).facts for text in texts]
        for place, own in enumerate(facts):
            held, lost = set(own), []
            for later in range(place + 1, len(texts)):
                held -= facts[later]
                if any(held & after for after in facts[later + 1 :]):
                    lost.append(similar[place][later])
            found += [max(lost)] if lost else []
    return np.array(found)


def of_pairs(traces: Sequence[Sentences]) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of all pairs that restate, and of those that do not."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for again, similarity, _, _ in labelled(traces):
        if again is not None:
            found[again].append(similarity)
    return np.array(found[True]), np.array(found[False])


def best(restated: np.ndarray, others: np.ndarray) -> float:
    """The threshold of the best balanced accuracy, to two digits."""
    grid = np.arange(0.3, 1, 0.01)
    return float(grid[np.argmax([(restated > t).mean() - (others > t).mean() for t in grid])])


def labelled(traces: Sequence[Sentences]) -> Iterator[tuple[bool | None, float, str, str]]:
    """Label, similarity and texts of every pair."""
    for texts, vectors in traces:
        similar = similarities(vectors)
        for later, second in enumerate(texts):
            for earlier, first in enumerate(texts[:later]):
                yield restates(first, second), similar[earlier][later], first, second


def show(model: str, traces: Sequence[Sentences]) -> None:
    """Print pairs of every label, drawn at random, and the most similar ones not restated."""
    pairs = list(labelled(traces))
    draw = random.Random(0)
    for label in (True, False, None):
        some = [pair for pair in pairs if pair[0] is label]
        print(f"\n{model}: {label}, {len(some)} pairs")
        for _, similarity, first, second in draw.sample(some, min(len(some), 8)):
            print(f"{similarity:6.3f}  {first.strip()}\n        {second.strip()}")


if __name__ == "__main__":
    main()
