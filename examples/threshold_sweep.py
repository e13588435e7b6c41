"""A sweep over the similarity above which SkipKV takes a sentence for a repetition.

The full cache runs beside it as the baseline. With a folder the sweep is resumed where it stood,
and what was measured is not measured again:
`python examples/threshold_sweep.py --folder runs/thresholds --plot thresholds.png`.
Of 16 problems the intervals are too wide to tell thresholds apart; --problems 200 takes minutes.
Needs the extra `eval`.
"""

import tempfile
from pathlib import Path

import torch
import typer

from skipkv import tiny
from skipkv.evaluation import Row, Sweep, load_dataset


def main(
    problems: int = 16,
    budget: int = 157,
    thresholds: str = "0.5,0.7,0.95",
    folder: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure every threshold on the same problems and print a table."""
    torch.set_num_threads(1)
    labels = {float(t): f"skipkv:threshold={t}" for t in thresholds.split(",")}
    sweep = Sweep(
        data=load_dataset("tiny", limit=problems), policies=labels.values(), budgets=[budget]
    )
    with tempfile.TemporaryDirectory() as temporary:
        summary = sweep.run(*tiny.load(device="cpu"), folder or temporary, progress=False)
    rows = {threshold: summary.row(label, budget) for threshold, label in labels.items()}
    full = summary.row("full")
    print(f"{problems} problems, {budget} entries per head; 95 % intervals\n")
    print("threshold    accuracy %           difference to the full cache   decoded tokens")
    for name, row in {"full cache": full, **rows}.items():
        own, other = row.accuracy.scaled(100), row.difference and row.difference.scaled(100)
        interval = f"{own.value:5.1f} [{own.low:.1f}, {own.high:.1f}]"
        apart = f"{other.value:+6.1f} [{other.low:+.1f}, {other.high:+.1f}]" if other else ""
        print(f"{name!s:<13}{interval:<21}{apart:<31}{row.new_tokens.value:.0f}")
    if plot is not None:
        draw(rows, full, plot)
        print(f"\nplotted in {plot}")


def draw(rows: dict[float, Row], full: Row, path: Path) -> None:
    """Accuracy over the threshold, the full cache beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="threshold", ylabel="accuracy (%)", ylim=(0, 102))
    found = [row.accuracy.scaled(100) for row in rows.values()]
    spread = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
    axes.errorbar(list(rows), [e.value for e in found], yerr=spread, marker="o", capsize=3)
    axes.axhline(100 * full.accuracy.value, color="black", linewidth=1)
    axes.annotate("full cache", (min(rows), 100 * full.accuracy.value - 6))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)
