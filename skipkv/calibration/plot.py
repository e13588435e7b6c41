"""A plot of the separation at each layer."""

from collections.abc import Sequence
from typing import Any

from skipkv._runs import require_extra
from skipkv.errors import InputError
from skipkv.steerers import Calibration, Separation

_VALIDATED, _HELD_OUT, _RULE, _TEXT = "#2a6f97", "#c1661c", "#d9d9d9", "#404040"


def require_matplotlib() -> Any:
    """Matplotlib's module of figures.

    Raises:
        MissingExtraError: it is not installed.
    """
    require_extra("eval", "matplotlib")
    from matplotlib import figure

    return figure


def plot_separation(calibration: Calibration, path: str) -> None:
    """Plot d' and the area under the ROC curve by layer, and mark the chosen layer.

    Args:
        calibration: the calibration to plot.
        path: path of the image; its suffix decides the format.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    figure = require_matplotlib().Figure(figsize=(7.5, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, name, label in ((upper, "d_prime", "$d'$"), (lower, "auc", "area under ROC")):
        axes.axvline(calibration.layer, color=_RULE, linewidth=6, zorder=0)
        for rows, title, colour in (
            (calibration.validated, "cross-validated", _VALIDATED),
            (calibration.held_out, "held-out questions", _HELD_OUT),
        ):
            if rows:
                values = _values(rows, name)
                axes.plot(calibration.layers, values, "o-", ms=4, color=colour, label=title)
        axes.set_ylabel(label, color=_TEXT)
        axes.spines[["top", "right"]].set_visible(False)
    upper.axhline(0, color=_TEXT, linewidth=0.6)
    lower.axhline(0.5, color=_TEXT, linewidth=0.6, linestyle=":")
    # beside the axes, where it hides no points
    upper.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    lower.set_xlabel("layer whose input is steered", color=_TEXT)
    lower.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(
        f"Execution against other thoughts; layer {calibration.layer} chosen", fontsize=11
    )
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as cause:
        raise InputError(f"Cannot write the plot {path!r}: {cause}") from cause


def _values(rows: Sequence[Separation], name: str) -> list[float]:
    return [float(getattr(row, name)) for row in rows]
