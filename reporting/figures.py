"""The figures: each a function from plain data to a matplotlib figure; nothing is read and nothing
written.

matplotlib is an extra and is imported where a figure is made. Lines and letters are drawn in one
ink, which the page swaps for the colour of its text: one figure for light and for dark.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from reporting.tables import METRICS

INK = "#010203"  # black to the eye, and no other part of a figure has it
BLUE, ORANGE, GREEN, GREY = (
    "#3f7fd0",
    "#c9701f",
    "#3f9150",
    "#8a8a8a",
)  # each at least 3:1 against white and against near-black
MARKS = "osD^vP*X"
WIDE = 15  # gaps beyond this many points need a logarithmic axis, or the small ones become one dot
MOST_LINES = 100  # of a panel: more are not told apart, and thousands take minutes
POWERS = [10.0**power for power in range(-6, 1)]  # ticks of logarithmic axes
COLUMNS, PANEL = 5, (2.0, 1.55)  # of small multiples; inches
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlecolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "figure.dpi": 72,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "axes.unicode_minus": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save within: the same look and the same bytes whatever the user's own
    settings are.
    """
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE}):
        yield


# ------------------------------------------------------------------------------------------- tables


def gap_figure(rows: Sequence[dict]) -> Any:
    """A panel per metric, a line per method: the signed gap, its spread over seeds, and the band of
    Retrain's noise.
    """
    figure = _figure(10, 0.9 + 0.24 * len(rows))
    panels = figure.subplots(1, len(METRICS), sharey=True)
    wide = is_wide(rows)
    for metric, panel in zip(METRICS, panels, strict=True):
        for place, row in enumerate(rows):
            gap, inside = row[f"{metric}_gap"], row[f"{metric}_inside_noise"]
            if row[f"{metric}_band"]:
                panel.barh(
                    place,
                    2 * row[f"{metric}_band"],
                    left=-row[f"{metric}_band"],
                    height=0.8,
                    color=GREY,
                    alpha=0.3,
                    linewidth=0,
                )
            deviation = row[f"{metric}_std"] or 0
            panel.plot([gap - deviation, gap + deviation], [place, place], color=BLUE, linewidth=1)
            panel.plot(
                gap,
                place,
                "o",
                markersize=5,
                color=BLUE,
                markerfacecolor="none" if inside else BLUE,
                clip_on=False,
            )
        panel.axvline(0, color=INK, linewidth=0.7)
        if wide:
            panel.set_xscale("symlog", linthresh=1, linscale=0.6)
            _plain_ticks(panel.xaxis, (-100, -10, -1, 0, 1, 10, 100))
        panel.set_title(f"{metric} gap")
        panel.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), [_short(row["name"], 34) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def is_wide(rows: Sequence[dict]) -> bool:
    """Whether the gaps of ``rows`` need logarithmic axes."""
    return max(abs(row[f"{metric}_gap"]) for row in rows for metric in METRICS) > WIDE


def ua_ta_figure(rows: Sequence[dict], retrain: dict | None, floor: dict | None) -> Any:
    """All methods, and beside them the neighbourhood of Retrain; each method is named in one of the
    two.
    """
    from matplotlib.patches import Ellipse, Rectangle

    figure = _figure(10, 4.8)
    left, right = figure.subplots(1, 2)
    near = rows[: max(1, (len(rows) + 1) // 2)]
    centre = retrain or rows[0]
    band = [rows[0][f"{metric}_band"] or 0 for metric in ("UA", "TA")] if floor else [0, 0]
    window = [
        _limits([*(row[metric] for row in near), centre[metric] - half, centre[metric] + half])
        for metric, half in zip(("UA", "TA"), band, strict=True)
    ]
    everything = [
        _limits([*(row[metric] for row in rows), centre[metric] - half, centre[metric] + half])
        for metric, half in zip(("UA", "TA"), band, strict=True)
    ]
    for panel, limits in ((left, everything), (right, window)):
        for row in rows:
            _cross_of(panel, row)
        panel.plot(centre["UA"], centre["TA"], "X", color=ORANGE, markersize=9, zorder=4)
        panel.add_patch(
            Ellipse(
                (centre["UA"], centre["TA"]),
                2 * band[0],
                2 * band[1],
                facecolor=GREY,
                edgecolor=GREY,
                alpha=0.3,
                zorder=0,
            )
        )
        panel.set(xlim=limits[0], ylim=limits[1], xlabel="UA (%)", ylabel="TA (%)")
    (x, x_end), (y, y_end) = window
    left.add_patch(
        Rectangle(
            (x, y), x_end - x, y_end - y, fill=False, edgecolor=GREY, linewidth=0.8, linestyle="--"
        )
    )
    shown = [row for row in rows if x <= row["UA"] <= x_end and y <= row["TA"] <= y_end]
    figure.canvas.draw()  # settles the layout, on which the places of the names depend
    _name_points(left, [row for row in rows if row not in shown], rows)
    _name_points(right, [*shown, {**centre, "name": "Retrain"}] if retrain else shown, rows)
    return figure


def _cross_of(panel: Any, row: dict) -> None:
    ua, ta = row["UA"], row["TA"]
    panel.errorbar(
        ua,
        ta,
        xerr=row["UA_std"] or 0,
        yerr=row["TA_std"] or 0,
        color=BLUE,
        elinewidth=0.7,
        alpha=0.55,
        linewidth=0,
    )
    panel.plot(ua, ta, "o", color=BLUE, markersize=5)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    margin = 0.12 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _name_points(panel: Any, rows: Sequence[dict], obstacles: Sequence[dict]) -> None:
    """Write each name where it covers the least of what is there already; far ones get a line to
    their point.
    """
    points = [panel.transData.transform((row["UA"], row["TA"])) for row in [*obstacles, *rows]]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    frame = panel.bbox.extents
    for row in sorted(rows, key=lambda row: (row["TA"], row["UA"], row["name"])):
        name = _short(row["name"], 24)
        x, y = panel.transData.transform((row["UA"], row["TA"]))
        width, height = 4.6 * len(name), 9.0
        boxes = [
            _box(x, y, radius, angle, width, height)
            for radius in (7, 14, 24, 36, 52, 72)
            for angle in range(0, 360, 30)
        ]
        costs = [
            sum(_overlap(box, other) for other in taken) + 3 * _outside(box, frame) + 0.6 * i
            for i, box in enumerate(boxes)
        ]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        left, low, right, _ = boxes[best]
        line = (
            {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            if best >= 12
            else None
        )
        panel.annotate(
            name,
            (row["UA"], row["TA"]),
            ((left + right) / 2 - x, low + height / 2 - y),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            arrowprops=line,
            zorder=5,
        )


def _box(
    x: float, y: float, radius: float, angle: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """(left, low, right, high) of a name around a point: its near side is ``radius`` away in the
    direction of ``angle``.
    """
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    left = x + radius * across + (across - 1) * width / 2
    low = y + radius * up + (up - 1) * height / 2
    return left, low, left + width, low + height


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Sequence[float], frame: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)


# ------------------------------------------------------------------------------------------- audits


def histogram_figure(rows: Sequence[tuple[str, dict]], kind: str) -> Any:
    """A panel per row: shares by ``kind``, forget set and held-out images."""
    figure, panels = _grid(
        rows, [("forget set", BLUE, "-"), ("held out", ORANGE, "-")], kind, "share"
    )
    for (_, histogram), panel in zip(rows, panels, strict=True):
        panel.stairs(
            histogram["held_out"], histogram["edges"], color=ORANGE, alpha=0.85, linewidth=1
        )
        panel.stairs(histogram["forget"], histogram["edges"], color=BLUE, alpha=0.85, linewidth=1)
        panel.set_yscale("log")
    _common_axes(panels, y_ticks=POWERS)
    return figure


def mean_histograms(rows: Sequence[tuple[str, list[dict]]]) -> list[tuple[str, dict]]:
    """Each row's mean over seeds, all in the same bins: where those differ, in as many equal ones
    over the whole range.

    Within a bin the images are taken to lie evenly when they move to other bins.
    """
    histograms = [histogram for _, mine in rows for histogram in mine]
    edges = histograms[0]["edges"]
    if any(histogram["edges"] != edges for histogram in histograms):
        least, most = (
            min(h["edges"][0] for h in histograms),
            max(h["edges"][-1] for h in histograms),
        )
        edges = np.linspace(least, most, max(len(h["edges"]) for h in histograms)).tolist()
    return [
        (
            name,
            {
                "edges": edges,
                **{
                    what: np.mean([_rebinned(h, what, edges) for h in mine], axis=0)
                    for what in ("forget", "held_out")
                },
            },
        )
        for name, mine in rows
    ]


def _rebinned(histogram: dict, what: str, edges: list[float]) -> np.ndarray:
    if histogram["edges"] == edges:
        return np.array(histogram[what])
    below = np.concatenate([[0], np.cumsum(histogram[what])])
    return np.diff(np.interp(edges, histogram["edges"], below))


def roc_figure(rows: Sequence[tuple[str, list[dict]]], retrain: Sequence[dict]) -> Any:
    """A panel per row: its ROC curves over Retrain's, both axes logarithmic."""
    figure, panels = _grid(
        rows,
        [("method", BLUE, "-"), ("Retrain", GREY, "-"), ("guessing", INK, "--")],
        "false positive rate",
        "true positive rate",
    )
    rates = [
        rate
        for _, curves in rows
        for curve in curves
        for name in ("fpr", "tpr")
        for rate in curve[name]
        if rate > 0
    ]
    least = max(min(rates, default=1e-3), 1e-4) / 1.2
    for (_, curves), panel in zip(rows, panels, strict=True):
        panel.set(xscale="log", yscale="log", xlim=(least, 1.1), ylim=(least, 1.3))
        panel.plot([least, 1], [least, 1], color=INK, linewidth=0.7, linestyle="--")
        for curve in retrain[:MOST_LINES]:
            panel.plot(curve["fpr"], curve["tpr"], color=GREY, linewidth=1)
        for curve in curves[:MOST_LINES]:
            panel.plot(curve["fpr"], curve["tpr"], color=BLUE, linewidth=1)
    _common_axes(panels, POWERS, POWERS)
    return figure


def relearn_figure(rows: Sequence[tuple[str, list[dict]]], retrain: Sequence[dict]) -> Any:
    """A panel per row: accuracy in percent against steps of relearning, which double."""
    legend = [
        ("forget set", BLUE, "-"),
        ("never seen", ORANGE, "--"),
        ("Retrain, forget set", GREY, "-"),
    ]
    figure, panels = _grid(rows, legend, "steps", "accuracy (%)")
    for (_, curves), panel in zip(rows, panels, strict=True):
        for curve in retrain[:MOST_LINES]:
            panel.plot(curve["steps"], curve["accuracy"], color=GREY, linewidth=1)
        for curve in curves[:MOST_LINES]:
            panel.plot(curve["steps"], curve["accuracy"], color=BLUE, linewidth=1)
            if "sd" in curve:
                ends = [
                    [
                        value + sign * sd
                        for value, sd in zip(curve["accuracy"], curve["sd"], strict=True)
                    ]
                    for sign in (-1, 1)
                ]
                panel.fill_between(curve["steps"], *ends, color=BLUE, alpha=0.15, linewidth=0)
            if "never_seen" in curve:
                panel.plot(
                    curve["steps"], curve["never_seen"], color=ORANGE, linewidth=1, linestyle="--"
                )
        panel.set_xscale("symlog", base=2, linthresh=1)
    _common_axes(panels, x_ticks=[0, *(4**power for power in range(8))])
    return figure


# --------------------------------------------------------------------------------------------- runs


def epoch_figure(
    rows: Sequence[tuple[str, list[list[dict]]]], columns: dict[str, str], what: str
) -> Any:
    """A panel per row: the ``columns`` of its epochs, each in its colour, a line per seed for the
    first MOST_LINES.
    """
    figure, panels = _grid(
        rows, [(name, colour, "-") for name, colour in columns.items()], "epoch", what
    )
    for (_, runs), panel in zip(rows, panels, strict=True):
        for run in runs[:MOST_LINES]:
            for name, colour in columns.items():
                known = [
                    (epoch["epoch"], epoch[name]) for epoch in run if epoch.get(name) is not None
                ]
                panel.plot(
                    *zip(*known, strict=True) if known else ([], []),
                    color=colour,
                    linewidth=1,
                    marker="." if len(known) == 1 else "",
                )
    last = max(epoch["epoch"] for _, runs in rows for run in runs for epoch in run)
    _common_axes(panels, x_ticks=range(0, int(last) + 1, max(1, round(last / 4))))
    return figure


def mask_figure(masks: Sequence[tuple[str, float, dict[str, float]]]) -> Any:
    """A line per layer, a mark per mask: the percentage of the layer's weights that may change."""
    layers = list(dict.fromkeys(layer for _, _, mine in masks for layer in mine))
    figure = _figure(9, 1.1 + 0.17 * len(layers) + 0.18 * len(masks))
    panel = figure.subplots()
    for index, (name, density, mine) in enumerate(masks):
        colour = (BLUE, ORANGE, GREEN, GREY)[index % 4]
        places = [layers.index(layer) for layer in mine]
        panel.plot(
            [100 * share for share in mine.values()],
            places,
            MARKS[index % len(MARKS)],
            color=colour,
            markersize=4,
            label=_short(name, 80),
        )
        panel.axvline(100 * density, color=colour, linewidth=0.8)
    panel.set_yticks(range(len(layers)), [_short(layer, 50) for layer in layers], fontsize=7)
    panel.set(xlabel="weights that may change (%)", xlim=(-2, 102), ylim=(len(layers) - 0.5, -0.5))
    panel.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
    figure.legend(loc="outside upper left")
    return figure


def sensitivity_figure(tried: dict[str, list[tuple[float, float]]]) -> Any:
    """A panel per hyper-parameter: Avg. Gap by its value, and a line along the least at each
    value.
    """
    columns = min(3, len(tried))
    figure = _figure(max(3.2 * columns, 5), 2.3 * math.ceil(len(tried) / columns))
    for place, (name, points) in enumerate(tried.items(), 1):
        panel = figure.add_subplot(math.ceil(len(tried) / columns), columns, place)
        panel.plot(
            *zip(*points, strict=True), "o", markersize=4, color=BLUE, markerfacecolor="none"
        )
        values = sorted({value for value, _ in points})
        panel.plot(
            values,
            [min(gap for value, gap in points if value == each) for each in values],
            color=BLUE,
            linewidth=1,
        )
        panel.set_title(_short(name, 40), pad=3)
        panel.set_ylim(bottom=0)
        panel.set_ylabel("Avg. Gap")
        if values[0] > 0 and values[-1] >= 10 * values[0]:
            panel.set_xscale("log")
        shown = values[:: math.ceil(len(values) / 5)]
        panel.xaxis.set_ticks(shown, [f"{value:.2g}" for value in shown])
        panel.xaxis.set_ticks([], minor=True)
    return figure


# ------------------------------------------------------------------------------------------ helpers


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def _grid(
    rows: Sequence[tuple[str, Any]], legend: Sequence[tuple[str, str, str]], across: str, up: str
) -> tuple[Any, list]:
    """Small multiples: the figure and a titled panel per row, one legend above;
    :func:`_common_axes` ends the drawing.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    width, height = max(columns * PANEL[0], 5) + 0.8, lines * PANEL[1] + 1.0
    figure = Figure(
        (width, height)
    )  # edges by hand: an automatic layout of thirty panels takes seconds
    figure.subplots_adjust(
        0.7 / width, 0.5 / height, 1 - 0.1 / width, 1 - 0.5 / height, wspace=0.12, hspace=0.35
    )
    panels = [figure.add_subplot(lines, columns, place) for place in range(1, len(rows) + 1)]
    for panel, (name, _) in zip(panels, rows, strict=True):
        panel.set_title(_short(name, 30), pad=3)
    figure.supxlabel(across, fontsize=9, y=0.08 / height)
    figure.supylabel(up, fontsize=9, x=0.06 / width)
    keys = [
        Line2D([], [], color=colour, linestyle=line, label=words) for words, colour, line in legend
    ]
    figure.legend(handles=keys, loc="upper right", ncols=len(keys), borderaxespad=0.1)
    return figure, panels


def _common_axes(
    panels: Sequence[Any],
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
) -> None:
    """The same limits and ticks for all panels, numbers only on the left and below; sharing axes
    would cost seconds.

    Args:
        x_ticks, y_ticks: where ticks may stand; None lets matplotlib choose.
    """
    limits = [[panel.get_xlim() for panel in panels], [panel.get_ylim() for panel in panels]]
    (left, right), (low, high) = ((min(ends)[0], max(end for _, end in ends)) for ends in limits)
    columns = min(COLUMNS, len(panels))
    for place, panel in enumerate(panels):
        panel.set(xlim=(left, right), ylim=(low, high))
        for axis, ticks in ((panel.xaxis, x_ticks), (panel.yaxis, y_ticks)):
            if ticks is not None:
                _plain_ticks(axis, ticks)
        panel.tick_params(
            labelleft=place % columns == 0, labelbottom=place + columns >= len(panels)
        )


def _plain_ticks(axis: Any, places: Sequence[float]) -> None:
    """Ticks at those of ``places`` that are in view, as plain numbers: the powers that matplotlib
    would set need its own typesetting.
    """
    low, high = sorted(axis.get_view_interval())
    shown = [place for place in places if low <= place <= high]
    axis.set_ticks(shown, [f"{place:g}" for place in shown])
    axis.set_ticks([], minor=True)


def _short(name: str, most: int) -> str:
    """``name`` cut to ``most`` characters, without those that no font can draw."""
    name = "".join(character if character.isprintable() else "\ufffd" for character in name)
    return name if len(name) <= most else name[: most - 1] + "…"
