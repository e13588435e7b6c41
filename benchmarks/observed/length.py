"""Observation 2: the length of a trace, against the budget."""

from typing import Any

from observed.numbers import bars, kept, mean_of, shown, table
from observed.setting import BUDGETS, POLICIES, Setting
from skipkv.evaluation import Record
from skipkv.evaluation.intervals import proportion


def measure(setting: Setting) -> dict[str, Any]:
    """Lengths of every cell of the sweep."""
    full = setting.records("full")
    rows = [_row(full, full)]
    rows += [_row(setting.records(p, b), full) for p in POLICIES for b in BUDGETS]
    return {"rows": rows}


def _row(records: list[Record], full: list[Record]) -> dict[str, Any]:
    first, pairs = records[0], list(zip(records, full, strict=True))
    more = [own.new_tokens - other.new_tokens for own, other in pairs]
    right = [own.new_tokens - other.new_tokens for own, other in pairs if own.correct]
    return {
        "policy": first.policy.partition(":")[0],
        "asked": first.asked,
        "budget": first.budget,
        "length": mean_of(r.new_tokens for r in records),
        "more": None if records is full else mean_of(more),
        "more_where_right": None if records is full or not right else mean_of(right),
        "truncated": sum(r.stop_reason == "length" for r in records) / len(records),
        "accuracy": kept(proportion(sum(r.correct for r in records), len(records))),
    }


def show(found: dict[str, Any]) -> str:
    """The table."""
    head = (
        "policy", "budget", "length", "to the full cache's", "the same, of right traces",
        "cut off %", "accuracy %",
    )  # fmt: skip
    return table(
        head,
        [
            (
                row["policy"],
                "-" if row["budget"] is None else f"{row['budget']} ({row['asked']})",
                shown(row["length"], 0),
                shown(row["more"], 0, sign="+"),
                shown(row["more_where_right"], 0, sign="+"),
                f"{100 * row['truncated']:.1f}",
                shown(row["accuracy"], percent=True),
            )
            for row in found["rows"]
        ],
    )


def draw(found: dict[str, Any], axes: Any) -> None:
    """Length over the budget."""
    full, *rows = found["rows"]
    value, low, high = full["length"]
    axes.axhspan(low, high, color="black", alpha=0.1, linewidth=0)
    axes.axhline(value, color="black", linewidth=1.2, label="full cache")
    for place, policy in enumerate(dict.fromkeys(row["policy"] for row in rows)):
        own = [row for row in rows if row["policy"] == policy]
        bars(
            axes,
            [row["budget"] + 1.5 * place for row in own],
            [row["length"] for row in own],
            marker="os^"[place],
            label=policy,
        )
    axes.set_xlabel("budget (tokens per KV head)")
    axes.set_ylabel("length (decoded tokens)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
