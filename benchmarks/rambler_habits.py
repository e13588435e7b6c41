"""What traces of the rambling reasoner do: checks, doubts, values worked out anew."""

from collections.abc import Sequence

from outcomes import Outcomes
from pages import interval

from skipkv.evaluation import Record
from skipkv.evaluation.intervals import mean
from skipkv.tiny.rambler import phrases

_COUNTED = {
    "checks": (*phrases.AGREE, *phrases.DIFFER),
    "checks that differ": phrases.DIFFER,
    "values worked out anew": (phrases.LOST.removesuffix(phrases.DEFINITION),),
}
_THOUGHTS = "reflections and transitions"
_ENOUGH = 5  # fewer traces have no mean worth telling


def table(cells: dict[str, Outcomes]) -> str:
    """Means over the right, the wrong and the unended traces of each cell, in Markdown.

    Args:
        cells: label -> its outcomes.
    """
    names = ["tokens", _THOUGHTS, *_COUNTED]
    lines = [
        f"| cell | traces | number | {' | '.join(names)} |",
        "|---|---|--:|" + "--:|" * len(names),
    ]
    for label, cell in cells.items():
        values = {"tokens": cell.tokens, **cell.counts}
        unended = {*cell.kinds.get("no end", ())}
        right = {*range(len(cell.tokens))} - cell.wrong
        for group, some in (("right", right), ("wrong", cell.wrong - unended), ("no end", unended)):
            if len(some) < _ENOUGH:
                continue
            means = {name: mean([values[name][n] for n in sorted(some)]) for name in names}
            texts = [interval(m, ".0f" if name == "tokens" else ".1f") for name, m in means.items()]
            lines.append(f"| {label} | {group} | {len(some)} | {' | '.join(texts)} |")
    return "\n".join(lines)


def counts(records: Sequence[Record]) -> dict[str, list[int]]:
    """What is counted in each trace, by name, in the order of the records."""
    return {
        _THOUGHTS: [r.non_execution for r in records],
        **{name: [_count(r, told) for r in records] for name, told in _COUNTED.items()},
    }


def _count(record: Record, told: Sequence[str]) -> int:
    assert record.text is not None
    return sum(record.text.count(phrase) for phrase in told)
