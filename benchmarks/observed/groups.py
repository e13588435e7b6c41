"""Compares right and wrong traces, also with the full cache's traces of the same problems."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from observed.numbers import bars, difference, mean_of, shown, table
from observed.setting import Setting
from skipkv.evaluation import Record

EVICTED, SAMPLED = "R-KV, 50 %", "full cache, temperature 1"
BUDGET = "50%"
ENOUGH = 10
"""A difference is shown only if there are at least this many wrong traces."""

Values = Mapping[str, float]


def measure(
    setting: Setting, measured: Callable[[Setting, list[Record]], list[Values]]
) -> dict[str, Any]:
    """Means of the measures of traces, by group.

    The embedded model is hardly ever wrong when it decodes greedily with the full cache, so wrong
    traces are those under a budget, or drawn at temperature 1.
    """
    full = measured(setting, setting.records("full"))
    rows, gaps = [], []
    for source, records in (
        (EVICTED, setting.records("rkv", BUDGET)),
        (SAMPLED, setting.sampled),
    ):
        values = measured(setting, records)
        groups = {
            "right": [r.correct for r in records],
            "wrong": [not r.correct and r.stop_reason == "eos" for r in records],
            "cut off": [not r.correct and r.stop_reason != "eos" for r in records],
        }
        for name, chosen in groups.items():
            if any(chosen):
                own = [v for v, taken in zip(values, chosen, strict=True) if taken]
                same = [v for v, taken in zip(full, chosen, strict=True) if taken]
                rows.append(
                    {"source": source, "group": name, "traces": len(own), **_row(own, same)}
                )
        gaps.append({"source": source, **_gap(values, full, groups)})
    return {"rows": rows, "gaps": gaps}


def _row(own: Sequence[Values], same: Sequence[Values]) -> dict[str, Any]:
    pairs = list(zip(own, same, strict=True))
    return {
        "value": {key: mean_of(v[key] for v in own) for key in own[0]},
        "more": {key: mean_of(v[key] - w[key] for v, w in pairs) for key in own[0]},
    }


def _gap(
    values: Sequence[Values], full: Sequence[Values], groups: Mapping[str, Sequence[bool]]
) -> dict[str, Any]:
    """Wrong minus right: plain, and minus the same gap of the full cache on the same problems."""
    gaps: dict[str, Any] = {"plain": {}, "beyond_problems": {}}
    for key in values[0]:
        own, over = (
            [
                [x for x, taken in zip(column, groups[name], strict=True) if taken]
                for name in ("wrong", "right")
            ]
            for column in (
                [v[key] for v in values],
                [v[key] - w[key] for v, w in zip(values, full, strict=True)],
            )
        )
        enough = min(map(len, own)) > 1
        gaps["plain"][key] = difference(*own) if enough else None
        gaps["beyond_problems"][key] = difference(*over) if enough else None
    return gaps


def show(found: dict[str, Any], columns: Mapping[str, tuple[str, bool]]) -> str:
    """Two tables: the groups, and by how much wrong traces differ from right ones.

    Args:
        found: the result of `measure`.
        columns: key -> its name, and whether it is a share.
    """
    few = {
        row["source"]
        for row in found["rows"]
        if row["traces"] < ENOUGH and row["group"] != "cut off"
    }
    groups = table(
        ("traces", "", "number", *_names(columns)),
        [
            (
                row["source"],
                row["group"],
                row["traces"],
                *(shown(row["value"][k], 1, percent=p) for k, (_, p) in columns.items()),
            )
            for row in found["rows"]
        ],
        left=2,
    )
    gaps = table(
        ("wrong less right", "", *_names(columns)),
        [
            (gap["source"], what, *(shown(gap[kind][k], 1, percent=p, sign="+") for k, (_, p) in
             columns.items()))
            for gap in found["gaps"]
            if gap["source"] not in few
            for kind, what in (
                ("plain", "as they are"),
                ("beyond_problems", "beyond the full cache's on the same problems"),
            )
        ],
        left=2,
    )  # fmt: skip
    return f"{groups}\n\n{gaps}"


def draw(found: dict[str, Any], axes: Any, key: str, label: str, *, percent: bool = False) -> None:
    """Plot one measure of each group; hollow marks are the full cache's mean on these problems."""
    rows = [row for row in found["rows"] if row["traces"] >= ENOUGH]
    factor = 100 if percent else 1
    colours = {"right": "#0072B2", "wrong": "#D55E00", "cut off": "#777777"}
    for place, row in enumerate(rows):
        triple = [factor * v for v in row["value"][key]]
        bars(axes, [place], [triple], marker="o", linestyle="", color=colours[row["group"]])
        same = factor * (row["value"][key][0] - row["more"][key][0])
        name = None if place else "full cache, greedy, same problems"
        axes.plot(place + 0.12, same, "o", color="black", fillstyle="none", label=name)
    axes.legend(frameon=False, loc="lower right")
    names = [f"{r['source']}\n{r['group']} ({r['traces']})".replace(", ", "\n") for r in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=7)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)


def _names(columns: Mapping[str, tuple[str, bool]]) -> list[str]:
    return [f"{name} %" if share else name for name, share in columns.values()]
