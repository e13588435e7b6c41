"""Makes tables of the lines of `benchmarks/gpu.py`.

python benchmarks/gpu_table.py runs/gpu/gpu.jsonl
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

COLUMNS = {
    "steps": ("batch", "step_ms", "step_over_bytes", "event_ms", "event_share", "decode_step_ms"),
    "uncompiled": ("batch", "step_ms", "step_over_bytes", "event_ms", "decode_step_ms"),
    "table": (
        "batch", "budget", "step_ms", "bytes_ms", "event_ms", "tokens_per_second",
        "seconds_for_8192_tokens", "peak_bytes",
    ),
    "full": ("batch", "length", "step_ms", "tokens_per_second", "peak_bytes"),
    "prefill": ("batch", "prompt_tokens", "seconds", "tokens_per_second", "weights_tflops"),
    "attention": ("batch", "bytes_ms_per_layer", "ms_per_layer"),
    "room": ("tokens", "by_bytes", "full", "rkv"),
}  # fmt: skip
"""The numbers in each kind of part's table."""


def main(lines: Annotated[Path, typer.Argument(help="gpu.jsonl")]) -> None:
    """Print a table for every kind of part."""
    typer.echo(tables(json.loads(line) for line in lines.read_text().splitlines()))


def tables(results: Iterable[dict[str, Any]]) -> str:
    """Tables in Markdown, one for every kind of part; what failed says why.

    Args:
        results: the lines.
    """
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        kinds[result["part"].partition("/")[0]].append(result)
    text = []
    for kind, rows in kinds.items():
        columns = COLUMNS.get(kind, ())
        text += ["", f"### {kind}", "", f"| part | {' | '.join((*columns, 'took s'))} |"]
        text.append(f"|---|{'--:|' * (len(columns) + 1)}")
        for row in rows:
            if row["status"] == "ok":
                cells = [_shown(column, row.get(column)) for column in columns]
            else:
                cells = [f"{row['status']}: {row.get('reason', '')}"[:300]] + [""] * len(columns)
                cells = cells[: max(1, len(columns))]
            took = _shown("took", row.get("took_seconds"))
            text.append(f"| {row['part']} | {' | '.join([*cells, took])} |")
        text += [f"* {row['part']}: {w}" for row in rows for w in row.get("warnings", ())]
    return "\n".join(text)


def _shown(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown('', inner)}" for key, inner in value.items())
    if column == "peak_bytes":
        return f"{value / 1e9:.1f} GB"
    if column == "event_share":
        return f"{100 * value:.1f} %"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)[:120]


if __name__ == "__main__":
    typer.run(main)
