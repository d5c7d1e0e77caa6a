"""What all plots share: the type, the style, small multiples, their axes and names.

matplotlib is an extra and is imported where a figure is made. Lines and letters are drawn in one
ink, which the page swaps for the colour of its text: one figure for light and for dark.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INK = "#010203"  # black to the eye, and no other part of a figure has it
# Each at least 3:1 against white and against near-black.
BLUE, ORANGE, GREEN, GREY = "#3f7fd0", "#c9701f", "#3f9150", "#8a8a8a"
MOST_LINES = 100  # of a panel: more are not told apart, and thousands take minutes
MOST_ROWS = 40  # of a table that a plot shows, the first ones
POWERS = [10.0**power for power in range(-6, 1)]  # ticks of logarithmic axes
COLUMNS, PANEL = 5, (2.0, 1.55)  # of small multiples; inches
OWN_AXES = 0.3, 0.55  # gaps of small multiples whose panels have numbers of their own
INKED = "text.color axes.labelcolor axes.edgecolor axes.titlecolor xtick.color ytick.color"
STYLE = {
    **dict.fromkeys(INKED.split(), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 9),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 8),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.linewidth": 0.7,
    "axes.unicode_minus": True,
    "figure.dpi": 72,
    "font.family": "sans-serif",
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """One figure and the words around it.

    ``name`` is that of its file, ``read`` says how to read it, ``alt`` what it shows; ``draw``
    makes the figure.
    """

    name: str
    title: str
    read: str
    alt: str
    draw: Callable[[], Any]

    def figure(self) -> Any:
        """The drawn figure."""
        with style():
            return self.draw()


@contextmanager
def style() -> Iterator[None]:
    """Draw and save within: the same look and bytes whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE}):
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure; inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def small_multiples(
    names: Sequence[str],
    legend: Sequence[tuple[str, str, str]],
    across: str,
    up: str,
    *,
    gaps: tuple[float, float] = (0.12, 0.35),
) -> tuple[Any, list]:
    """A figure with a legend and a panel per name; :func:`common_axes` ends the drawing.

    Args:
        legend: (words, colour, line style) of each kind of line.
        across, up: the labels of the axes.
        gaps: between columns and between lines, in panels; OWN_AXES leaves room for numbers.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    width, height = max(columns * PANEL[0], 5) + 0.8, lines * PANEL[1] + 1.0
    figure = Figure((width, height))
    # Edges by hand: an automatic layout of thirty panels takes seconds.
    edges = 0.7 / width, 0.5 / height, 1 - 0.1 / width, 1 - 0.5 / height
    figure.subplots_adjust(*edges, wspace=gaps[0], hspace=gaps[1])
    panels = [figure.add_subplot(lines, columns, place) for place in range(1, len(names) + 1)]
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(drawable(name, 30), pad=3)
    figure.supxlabel(across, fontsize=9, y=0.08 / height)
    figure.supylabel(up, fontsize=9, x=0.06 / width)
    keys = [Line2D([], [], color=color, linestyle=line, label=key) for key, color, line in legend]
    figure.legend(handles=keys, loc="upper right", ncols=len(keys), borderaxespad=0.1)
    return figure, panels


def common_axes(
    panels: Sequence[Any],
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
) -> None:
    """Same limits and ticks for all panels, numbers left and below; shared axes cost seconds.

    Args:
        x_ticks, y_ticks: where ticks may stand; None lets matplotlib choose.
    """
    lefts, rights = zip(*(panel.get_xlim() for panel in panels), strict=True)
    lows, highs = zip(*(panel.get_ylim() for panel in panels), strict=True)
    columns = min(COLUMNS, len(panels))
    for place, panel in enumerate(panels):
        panel.set(xlim=(min(lefts), max(rights)), ylim=(min(lows), max(highs)))
        if x_ticks is not None:
            plain_ticks(panel.xaxis, x_ticks)
        if y_ticks is not None:
            plain_ticks(panel.yaxis, y_ticks)
        is_left, is_lowest = place % columns == 0, place + columns >= len(panels)
        panel.tick_params(labelleft=is_left, labelbottom=is_lowest)


def plain_ticks(axis: Any, places: Sequence[float]) -> None:
    """Ticks at those of ``places`` in view, as plain numbers, which need no math typesetting."""
    low, high = sorted(axis.get_view_interval())
    shown = [place for place in places if low <= place <= high]
    axis.set_ticks(shown, [f"{place:g}" for place in shown])
    axis.set_ticks([], minor=True)


def rows_left_out(rows: int) -> str:
    """A caption's sentence on a plot of a table of ``rows`` rows; empty where all are drawn."""
    if rows <= MOST_ROWS:
        return ""
    return (
        f" Drawn are the first {MOST_ROWS} of {rows} rows by Avg. Gap; --filter and --top choose"
        " others."
    )


def drawable(name: str, most: int) -> str:
    """``name`` cut to ``most`` characters, without those that no font can draw."""
    name = "".join(character if character.isprintable() else "\ufffd" for character in name)
    return name if len(name) <= most else name[: most - 1] + "…"
