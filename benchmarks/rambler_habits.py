"""What traces of the rambling reasoner do: checks, doubts, values worked out anew."""

from collections.abc import Sequence

from skipkv.evaluation import Estimate, Record
from skipkv.evaluation.intervals import mean
from skipkv.tiny.rambler import phrases

_COUNTED = {
    "checks": (*phrases.AGREE, *phrases.DIFFER),
    "checks that differ": phrases.DIFFER,
    "values worked out anew": (phrases.LOST.removesuffix(phrases.DEFINITION),),
}
_ENOUGH = 5  # fewer traces have no mean worth telling


def table(cells: dict[str, Sequence[Record]]) -> str:
    """Means over the right, the wrong and the unended traces of each cell, in Markdown.

    Args:
        cells: label -> its records, with texts.
    """
    lines = [
        "| cell | traces | number | tokens | reflections and transitions | "
        f"{' | '.join(_COUNTED)} |",
        "|---|---|--:|--:|--:|" + "--:|" * len(_COUNTED),
    ]
    for label, records in cells.items():
        groups = {
            "right": [r for r in records if r.correct],
            "wrong": [r for r in records if not r.correct and r.stop_reason == "eos"],
            "no end": [r for r in records if r.stop_reason != "eos"],
        }
        for group, some in groups.items():
            if len(some) < _ENOUGH:
                continue
            values = [
                _shown(mean([r.new_tokens for r in some]), 0),
                _shown(mean([r.non_execution for r in some]), 1),
                *(_shown(mean([_count(r, told) for r in some]), 1) for told in _COUNTED.values()),
            ]
            lines.append(f"| {label} | {group} | {len(some)} | {' | '.join(values)} |")
    return "\n".join(lines)


def _count(record: Record, told: Sequence[str]) -> int:
    assert record.text is not None
    return sum(record.text.count(phrase) for phrase in told)


def _shown(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
