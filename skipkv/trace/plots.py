"""Figures of a trace, for papers."""

from typing import Any

import numpy as np

from skipkv._runs import require_extra

# Okabe and Ito's palette, as in the plots of `skipkv eval`.
_BLUE, _VERMILION, _GREY = "#0072B2", "#D55E00", "#d9d9d9"
_ROWS = 1000


def _figure(width: float, height: float) -> tuple[Any, Any]:
    require_extra("trace", "matplotlib")
    # without pyplot: no state, no window, and no backend to choose
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def plot_kept(trace: Any) -> Any:
    """What is held over time: a row per position, a column per event, the last one the end.

    Args:
        trace: the trace.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(7.2, 4.2)
    import matplotlib

    tokens = trace.stored
    events = [*range(trace.events), None]
    seen = np.array([*trace.seen.tolist(), tokens])
    # of long texts a row is the mean of some positions
    starts = np.unique(np.linspace(0, tokens, min(tokens, _ROWS), endpoint=False).astype(int))
    sizes = np.diff([*starts, tokens])
    columns = [np.add.reduceat(trace.share(e)[:tokens], starts) / sizes for e in events]
    image = np.ma.masked_array(np.array(columns).T, mask=starts[:, None] >= seen)
    colours = matplotlib.colormaps["Blues"].with_extremes(under=_GREY, bad="white")
    mesh = axes.pcolormesh(
        np.arange(len(events) + 1), [*starts, tokens], image, cmap=colours, vmin=1e-6, vmax=1
    )
    axes.axhline(trace.prompt_tokens, color="black", linewidth=0.8, linestyle=":")
    step = max(1, len(events) // 8)
    axes.set_xticks(np.arange(0, len(events), step) + 0.5, seen[::step])
    axes.set_xlabel("tokens seen at the event")
    axes.set_ylabel("position")
    figure.colorbar(mesh, ax=axes, label="share of heads that hold it; grey: none", extend="min")
    return figure


def plot_size(trace: Any) -> Any:
    """Entries held per head over the tokens seen, with the full cache and the steering.

    Args:
        trace: the trace.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(7.2, 3.2)
    seen, held = trace.sizes()
    axes.plot([0, trace.stored], [0, trace.stored], "k:", linewidth=1, label="full cache")
    axes.plot(seen, held, color=_BLUE, linewidth=1.5, label="held")
    axes.axvspan(0, trace.prompt_tokens, color="black", alpha=0.06, linewidth=0, label="prompt")
    axes.set_ylim(0, 1.4 * max(held.max(), 1))
    axes.set_xlim(0, max(trace.stored, 1))
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("entries held per head (mean)")
    if len(trace.steered):
        other = axes.twinx()
        other.vlines(trace.steered, 0, trace.strengths, color=_VERMILION, linewidth=0.8)
        other.set_ylim(0, 3 * float(trace.strengths.max()))
        other.set_ylabel("strength of steering", color=_VERMILION)
        other.spines["top"].set_visible(False)
    axes.spines["top"].set_visible(False)
    axes.legend(loc="upper left", frameon=False, ncols=3)
    return figure


def plot_similarity(trace: Any) -> Any:
    """Cosine similarities of all pairs of sentences; redundant ones with their twin are framed.

    Args:
        trace: the trace.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(5.2, 4.4)
    own = trace.sentences
    image = axes.imshow(own.similarity, cmap="cividis", vmin=-1, vmax=1, interpolation="nearest")
    earlier = np.flatnonzero(own.twins >= 0)
    axes.scatter(
        own.twins[earlier],
        earlier,
        marker="s",
        s=max(4, 6000 / max(len(own.similarity), 1) ** 1.5),
        facecolors="none",
        edgecolors=_VERMILION,
        linewidths=1.2,
        label="repeated by",
    )
    axes.set_xlabel("sentence")
    axes.set_ylabel("sentence")
    if len(earlier):
        axes.set_title(f"framed: repeated, above {own.threshold:g}", fontsize=10)
    figure.colorbar(image, ax=axes, label="cosine similarity")
    return figure
