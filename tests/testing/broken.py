"""Components that break one law each: what the kit must find, by protocol and law."""

from typing import Any

import torch

from skipkv import Budget, Cut, Memory, Needs, Policy, Thought, Written
from skipkv.evictors import SentencePrimary, TopK
from skipkv.scorers import KeyNorm, Recency
from skipkv.segmenters import Newline


def scoring(score: Any, needs: Any = None) -> Any:
    """A scorer of this function."""
    members = {"score": lambda self, view: score(view)}
    members |= {} if needs is None else {"needs": needs}
    return type("ABrokenScorer", (), members)()


def keeping(keep: Any, needs: Any = None) -> Any:
    """An evictor of this function of scores, view and budget."""
    members = {"keep": lambda self, scores, view, budget: keep(scores, view, budget)}
    members |= {} if needs is None else {"needs": needs}
    return type("ABrokenEvictor", (), members)()


def admitting(admit: Any) -> Any:
    """A scheduler of this function of waiting, free and running."""
    return type(
        "ABrokenScheduler",
        (),
        {"admit": lambda self, waiting, *, free, running: admit(waiting, free, running)},
    )()


def cutting(cut: Any) -> Any:
    """A segmenter of this function."""
    return type("ABrokenSegmenter", (), {"cut": lambda self, stream: cut(stream)})()


def steering(delta: Any, layer: Any = 0) -> Any:
    """A steerer of this function of hidden states and context."""
    return type(
        "ABrokenSteerer",
        (),
        {"layer": layer, "delta": lambda self, hidden, context: delta(hidden, context)},
    )()


def zeros(view: Any) -> Any:
    return torch.zeros(view.positions.shape)


class Counting:
    """Answers that grow from call to call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


# scorers


def _overwriting(view: Any) -> Any:
    view.keys[..., 0] = 1.0
    return zeros(view)


_count_scores, _count_keeps, _count_cuts, _count_deltas, _count_admits = (
    Counting() for _ in range(5)
)


def _remembers_infinity() -> Any:
    memory = Memory("broken")
    members = {
        "needs": Needs(records=(memory,)),
        "score": lambda self, view: zeros(view),
        "remember": lambda self, view: {memory: zeros(view) / 0 + torch.inf},
    }
    return type("ABrokenScorer", (), members)()


def _compares_tokens() -> Any:
    said = Written("broken")

    def on_write(self: Any, keys: Any, values: Any, hidden: Any, layer: int) -> Any:
        return {said: keys[..., 0] - keys[..., 0].mean(dim=-1, keepdim=True)}

    members = {
        "needs": Needs(records=(said,)),
        "score": lambda self, view: view.record(said),
        "on_write": on_write,
    }
    return type("ABrokenScorer", (), members)()


SCORERS = {
    "protocol": object(),
    "needs": scoring(lambda view: zeros(view) if view.attention is None else view.attention),
    "answer": scoring(lambda view: zeros(view)[0]),
    "finite": scoring(lambda view: 1 / view.values.float().norm(dim=-1)),
    "deterministic": scoring(lambda view: zeros(view) + _count_scores()),
    "pure": scoring(_overwriting),
    "rows": scoring(lambda view: zeros(view) + view.seen.sum()),
    "heads": scoring(lambda view: zeros(view) + torch.arange(view.positions.shape[1])[:, None]),
    "empty slots": scoring(lambda view: zeros(view) + view.positions.shape[2]),
    "precision": scoring(lambda view: (view.keys / 3).float().sum(dim=-1)),
    "memory": _remembers_infinity(),
    "written": _compares_tokens(),
}

# evictors


def _top(scores: Any, view: Any, budget: int) -> Any:
    return TopK().keep(scores, view, budget)


def _one_more(scores: Any, view: Any, budget: int) -> Any:
    return _top(scores, view, budget + 1)


def _padding_too(scores: Any, view: Any, budget: int) -> Any:
    return _top(scores, view, budget) | ~view.occupied


def _no_sinks(scores: Any, view: Any, budget: int) -> Any:
    first = view.positions == 0
    roomy = view.occupied.sum(dim=-1, keepdim=True) <= budget
    return _top(scores, view, budget) & (~first | roomy)


def _thrifty(scores: Any, view: Any, budget: int) -> Any:
    return view.protected


def _restless(scores: Any, view: Any, budget: int) -> Any:
    full = view.occupied.sum(dim=-1, keepdim=True) > budget
    drop = full & ~view.protected & (_count_keeps() % 3 == 0)
    return _top(scores, view, budget) & ~drop


def _marking(scores: Any, view: Any, budget: int) -> Any:
    keep = _top(scores, view, budget)
    scores[view.protected] = torch.inf
    return keep


def _by_all_rows(scores: Any, view: Any, budget: int) -> Any:
    return _top(scores.sum(dim=0, keepdim=True).expand_as(scores), view, budget)


def _first_head_rules(scores: Any, view: Any, budget: int) -> Any:
    return _top(scores[:, :1].expand_as(scores), view, budget)


def _nan_rules(scores: Any, view: Any, budget: int) -> Any:
    return _top(-scores if scores.isnan().any() else scores, view, budget)


def _recent_where_attended(scores: Any, view: Any, budget: int) -> Any:
    return _top(scores if view.attention is None else -scores, view, budget)


EVICTORS = {
    "protocol": Recency(),
    "needs": keeping(_recent_where_attended),
    "answer": keeping(lambda scores, view, budget: _top(scores, view, budget).int()),
    "budget": keeping(_one_more),
    "only entries": keeping(_padding_too),
    "protected": keeping(_no_sinks),
    "room": keeping(_thrifty),
    "deterministic": keeping(_restless),
    "pure": keeping(_marking),
    "rows": keeping(_by_all_rows),
    "heads": keeping(_first_head_rules),
    "empty slots": keeping(_nan_rules),
}

# segmenters


def _each_line_twice(stream: Any) -> Any:
    return [cut for cut in Newline().cut(stream) for _ in range(2)]


def _to_the_end(stream: Any) -> Any:
    """What is left counts as a sentence, though it may go on."""
    cuts = list(Newline().cut(stream))
    if len(stream) and not (cuts and cuts[-1].end == len(stream)):
        cuts.append(Cut(len(stream)))
    return cuts


def _tired(stream: Any) -> Any:
    return [Cut(cut.end, Thought(_count_cuts() % 3)) for cut in Newline().cut(stream)]


SEGMENTERS = {
    "protocol": TopK(),
    "answer": cutting(lambda stream: [cut.end for cut in Newline().cut(stream)]),
    "order": cutting(_each_line_twice),
    "deterministic": cutting(_tired),
    "streaming": cutting(_to_the_end),
}

# steerers


def _allowed(context: Any) -> Any:
    return (context.at_delimiter & context.thinking)[:, None]


def _pull(hidden: Any, context: Any) -> Any:
    return torch.where(_allowed(context), -hidden, torch.zeros_like(hidden))


def _in_place(hidden: Any, context: Any) -> Any:
    delta = _pull(hidden, context)
    hidden += delta
    return torch.zeros_like(hidden)


def _waiting(hidden: Any, context: Any) -> Any:
    if context.thinking.any():
        return _pull(hidden, context)
    return torch.zeros_like(hidden)


def _to_the_mean(hidden: Any, context: Any) -> Any:
    mean = hidden.mean(dim=0, keepdim=True).expand_as(hidden)
    return torch.where(_allowed(context), mean, torch.zeros_like(hidden))


STEERERS = {
    "protocol": TopK(),
    "layer": steering(_pull, layer=-1),
    "answer": steering(lambda hidden, context: _pull(hidden, context).double()),
    "finite": steering(
        lambda h, c: torch.where(_allowed(c), h / h.norm(dim=-1, keepdim=True), 0.0)
    ),
    "delimiter": steering(lambda hidden, context: -hidden),
    "rows": steering(_to_the_mean),
    "deterministic": steering(
        lambda hidden, context: torch.where(_allowed(context), 1.0 * _count_deltas(), 0.0 * hidden)
    ),
    "pure": steering(_in_place),
    "no waiting": steering(_waiting),
}

# schedulers


def _taking(waiting: Any, free: int, running: int) -> Any:
    if isinstance(waiting, list):
        waiting.pop()
    return [0]


SCHEDULERS = {
    "protocol": TopK(),
    "answer": admitting(lambda waiting, free, running: ["0"]),
    "indices": admitting(lambda waiting, free, running: [len(waiting)]),
    "free": admitting(lambda waiting, free, running: range(len(waiting))),
    "progress": admitting(lambda waiting, free, running: []),
    "deterministic": admitting(
        lambda waiting, free, running: [0] if _count_admits() % 3 else [len(waiting) - 1]
    ),
    "pure": admitting(_taking),
    "conservation": admitting(lambda waiting, free, running: [waiting[0].index]),
}

# policies

BUDGET = Budget(tokens=64, window=2, sinks=1)


def _scores_by_sentences(view: Any) -> Any:
    return zeros(view) if view.sentences is None else -KeyNorm().score(view)


def _moody(view: Any) -> Any:
    return (-1) ** (_count_scores() // 7) * view.positions.float()


def _same_for_all(view: Any) -> Any:
    return view.positions.float() * (1 if len(view.sequences.unique()) > 1 else -1)


POLICIES = {
    "budget": Policy(budget=BUDGET, evictor=keeping(_one_more)),
    "protected": Policy(budget=BUDGET, evictor=keeping(_no_sinks)),
    "decodes": Policy(budget=BUDGET, scorer=scoring(lambda view: zeros(view) / 0)),
    "needs": Policy(budget=BUDGET, scorer=scoring(_scores_by_sentences), evictor=SentencePrimary()),
    "neighbours": Policy(budget=BUDGET, scorer=scoring(_same_for_all)),
    "deterministic": Policy(budget=BUDGET, scorer=scoring(_moody)),
    "streaming": Policy(budget=BUDGET, segmenter=cutting(_to_the_end), evictor=SentencePrimary()),
}


def updating(update: Any, start: Any = 0.0) -> Any:
    """A statistic of this function."""
    members = {
        "start": start,
        "update": lambda self, held, weights, positions: update(held, weights, positions),
    }
    return type("ABrokenStatistic", (), members)()


def _in_place(held: Any, weights: Any, positions: Any) -> Any:
    return held.add_(weights.sum(dim=(2, 3)))


STATISTICS = {
    "protocol": type("ABrokenStatistic", (), {"update": lambda self: None, "start": 0.0})(),
    "answer": updating(lambda held, weights, positions: weights.sum(dim=(1, 2, 3))),
    "pure": updating(_in_place),
    "streaming": updating(lambda held, weights, positions: 0.5 * held + weights.sum(dim=(2, 3))),
    # tokens since an entry was cached, of which those before it were counted too
    "later": updating(
        lambda held, weights, positions: held + (positions >= 0).sum(dim=1)[:, None, None].float()
    ),
    # how often an entry received more than its equal share
    "empty slots": updating(
        lambda held, weights, positions: (
            held + (weights > 1 / weights.shape[-1]).float().sum(dim=(2, 3))
        )
    ),
    "padding": updating(
        lambda held, weights, positions: (
            held + weights.sum(dim=(2, 3)) + (positions < 0).sum(dim=1)[:, None, None]
        )
    ),
    "rows": updating(lambda held, weights, positions: held + (weights.sum(dim=(2, 3)) * len(held))),
}

BY_PROTOCOL = {
    "scorer": SCORERS,
    "evictor": EVICTORS,
    "segmenter": SEGMENTERS,
    "steerer": STEERERS,
    "scheduler": SCHEDULERS,
    "policy": POLICIES,
    "statistic": STATISTICS,
}
