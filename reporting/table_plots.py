"""Plots of a table: the gaps of each method to Retrain, and UA against TA."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from reporting.drawing import (
    BLUE,
    GREY,
    INK,
    MOST_ROWS,
    ORANGE,
    Plot,
    drawable,
    new_figure,
    plain_ticks,
    rows_left_out,
)
from reporting.rows import METRICS

WIDE = 15  # gaps beyond this many points need a logarithmic axis, or the small ones become one dot
LEAST_REACH = 0.5  # points around Retrain that an axis always spans
Box = tuple[float, float, float, float]  # (left, low, right, high) in dots
RADII, ANGLES = (7, 14, 24, 36, 52, 72), range(0, 360, 30)  # where a point's name may stand
FEW_NAMES = 16  # beside the points of a plot that leaves rows out: more cover each other
NEAR = 12  # the places of the first radius, from which no line to the point is needed


def table_plots(table: dict) -> list[Plot]:
    """Gaps to Retrain, and UA against TA, of the MOST_ROWS rows of least Avg. Gap; nothing where no
    row has a gap.
    """
    rows = []
    for row in table["rows"]:
        if row["avg_gap"] is not None and all(math.isfinite(row[metric]) for metric in METRICS):
            rows.append(row)
    others = [row for row in rows if not row["is_retrain"]]
    if not others:
        return []
    retrain = next((row for row in rows if row["is_retrain"]), None)
    shown, words = others[:MOST_ROWS], rows_left_out(len(others))
    named = FEW_NAMES if words else len(shown)
    plots = [_gap_plot(shown, table["title"]), _ua_ta_plot(shown, retrain, table, named)]
    return [dataclasses.replace(plot, read=plot.read + words) for plot in plots]


# -------------------------------------------------------------------------------------------- noise


def shown_noise(rows: Sequence[dict], metric: str) -> float:
    """How much of Retrain's band an axis spans, points: all of it, but no more than the gaps reach
    where it is over twice as wide and would press the dots of several rows into a line.
    """
    band = _noise(rows, metric)
    reach = max(abs(row[f"{metric}_gap"]) + (row[f"{metric}_std"] or 0) for row in rows)
    reach = max(reach, LEAST_REACH)
    return band if band <= 2 * reach or len(rows) == 1 else reach


def _noise(rows: Sequence[dict], metric: str) -> float:
    """The widest band of the rows, which differ where they average over unlike numbers of runs."""
    return max(row[f"{metric}_band"] or 0 for row in rows)


def _cut_noise(rows: Sequence[dict], metrics: Sequence[str]) -> str:
    """The metrics whose band is wider than its axis, with its half-width; empty without any."""
    cut = []
    for metric in metrics:
        band = _noise(rows, metric)
        if shown_noise(rows, metric) < band:
            cut.append(f"±{band:.1f} in {metric}")
    return ", ".join(cut)


# --------------------------------------------------------------------------------------------- gaps


def _gap_plot(rows: list[dict], title: str) -> Plot:
    noise = "Grey bars: what Retrain's own seeds explain; a hollow dot lies inside. "
    if cut := _cut_noise(rows, METRICS):
        noise += f"Grey from edge to edge is wider than its panel: {cut}. "
    wide = " Beyond one point the axes are logarithmic."
    return Plot(
        "gaps",
        "Gaps to Retrain",
        "Each dot is a method's mean minus Retrain's, in percentage points; the line is one"
        f" standard deviation over seeds. {noise if _is_marked(rows) else ''}"
        "The line at 0 is the target: right of it a value is above Retrain's, left of it below. "
        f"Sorted by Avg. Gap.{wide if _is_wide(rows) else ''}",
        f"Signed gaps to Retrain of {len(rows)} methods in UA, RA, TA and MIA; the numbers are in"
        f" the table of {title}",
        partial(gap_figure, rows),
    )


def _is_marked(rows: Sequence[dict]) -> bool:
    return any(row["UA_band"] is not None for row in rows)


def _is_wide(rows: Sequence[dict]) -> bool:
    return max(abs(row[f"{metric}_gap"]) for row in rows for metric in METRICS) > WIDE


def gap_figure(rows: Sequence[dict]) -> Any:
    """A panel per metric, a line per method: the gap, its SD over seeds and Retrain's band."""
    figure = new_figure(10, 0.9 + 0.24 * len(rows))
    panels = figure.subplots(1, len(METRICS), sharey=True)
    wide = _is_wide(rows)
    for metric, panel in zip(METRICS, panels, strict=True):
        for place, row in enumerate(rows):
            _draw_gap(panel, place, row, metric)
        panel.axvline(0, color=INK, linewidth=0.7)
        if wide:
            panel.set_xscale("symlog", linthresh=1, linscale=0.6)
            plain_ticks(panel.xaxis, (-100, -10, -1, 0, 1, 10, 100))
        panel.set_xlim(*gap_limits(rows, metric))
        panel.set_title(f"{metric} gap")
        panel.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), [drawable(row["name"], 34) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def gap_limits(rows: Sequence[dict], metric: str) -> tuple[float, float]:
    """Of a panel's axis: the target, every gap with its SD, and Retrain's band as far as shown."""
    noise = shown_noise(rows, metric)
    ends = [-noise, noise]
    for row in rows:
        gap, deviation = row[f"{metric}_gap"], row[f"{metric}_std"] or 0
        ends += [gap - deviation, gap + deviation]
    margin = 0.06 * (max(ends) - min(ends)) or LEAST_REACH
    return min(ends) - margin, max(ends) + margin


def _draw_gap(panel: Any, place: int, row: dict, metric: str) -> None:
    gap, deviation = row[f"{metric}_gap"], row[f"{metric}_std"] or 0
    if band := row[f"{metric}_band"]:
        panel.barh(place, 2 * band, left=-band, height=0.8, color=GREY, alpha=0.3, linewidth=0)
    panel.plot([gap - deviation, gap + deviation], [place, place], color=BLUE, linewidth=1)
    fill = "none" if row[f"{metric}_inside_noise"] else BLUE
    panel.plot(gap, place, "o", markersize=5, color=BLUE, markerfacecolor=fill, clip_on=False)


# --------------------------------------------------------------------------------------- UA and TA


def _ua_ta_plot(rows: list[dict], retrain: dict | None, table: dict, named: int) -> Plot:
    ellipse = " The ellipse spans what other seeds of Retrain would score (95 % along each axis)."
    if cut := _cut_noise(_compared(rows), ("UA", "TA")):
        ellipse += f" It goes on beyond a frame that cuts it: {cut}."
    names = ""
    if len(rows) > named:
        names = f" Only the {named} of least Avg. Gap are named."
    return Plot(
        "ua-ta",
        "Forgetting against accuracy",
        "Forget error (UA) against test accuracy (TA). Retrain, the cross, is the target, not the"
        f" top right corner. Lines are one standard deviation.{ellipse if _is_marked(rows) else ''}"
        f" The right plot shows the neighbourhood that the left one frames.{names}",
        f"UA and TA of {len(rows)} methods beside Retrain; the numbers are in the table of"
        f" {table['title']}",
        partial(ua_ta_figure, rows, retrain, table["floor"], named),
    )


def ua_ta_figure(rows: Sequence[dict], retrain: dict | None, floor: dict | None, named: int) -> Any:
    """All methods, and beside them Retrain's neighbourhood; each of the first ``named`` has its
    name in one panel.
    """
    from matplotlib.patches import Rectangle

    figure = new_figure(10, 4.8)
    left, right = figure.subplots(1, 2)
    centre = retrain or rows[0]
    band = {metric: (rows[0][f"{metric}_band"] or 0) if floor else 0 for metric in ("UA", "TA")}
    near = _nearer_half(rows)
    compared = _compared(rows)
    window = [_limits(near, centre, metric, shown_noise(compared, metric)) for metric in band]
    everything = [_limits(rows, centre, metric, shown_noise(rows, metric)) for metric in band]
    _draw_ua_ta(left, rows, centre, band, everything)
    _draw_ua_ta(right, rows, centre, band, window)
    (x, x_end), (y, y_end) = window
    frame = {"fill": False, "edgecolor": GREY, "linewidth": 0.8, "linestyle": "--"}
    left.add_patch(Rectangle((x, y), x_end - x, y_end - y, **frame))
    shown = [row for row in rows if x <= row["UA"] <= x_end and y <= row["TA"] <= y_end]
    figure.canvas.draw()  # settles the layout, on which the places of the names depend
    _name_points(left, [row for row in rows[:named] if row not in shown], rows)
    inside = [row for row in rows[:named] if row in shown]
    _name_points(right, [*inside, {**centre, "name": "Retrain"}] if retrain else inside, rows)
    return figure


def _nearer_half(rows: Sequence[dict]) -> Sequence[dict]:
    return rows[: (len(rows) + 1) // 2]


def _compared(rows: Sequence[dict]) -> Sequence[dict]:
    """The rows that Retrain's neighbourhood compares: one alone is compared with all."""
    near = _nearer_half(rows)
    return near if len(near) > 1 else rows


def _limits(rows: Sequence[dict], centre: dict, metric: str, noise: float) -> tuple[float, float]:
    values = [row[metric] for row in rows]
    values += [centre[metric] - noise, centre[metric] + noise]
    margin = 0.12 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _draw_ua_ta(
    panel: Any, rows: Sequence[dict], centre: dict, band: dict[str, float], limits: Sequence[tuple]
) -> None:
    from matplotlib.patches import Ellipse

    thin = {"color": BLUE, "elinewidth": 0.7, "alpha": 0.55, "linewidth": 0}
    for row in rows:
        ua, ta = row["UA"], row["TA"]
        panel.errorbar(ua, ta, xerr=row["UA_std"] or 0, yerr=row["TA_std"] or 0, **thin)
        panel.plot(ua, ta, "o", color=BLUE, markersize=5)
    middle = centre["UA"], centre["TA"]
    panel.plot(*middle, "X", color=ORANGE, markersize=9, zorder=4)
    grey = {"facecolor": GREY, "edgecolor": GREY, "alpha": 0.3, "zorder": 0}
    panel.add_patch(Ellipse(middle, 2 * band["UA"], 2 * band["TA"], **grey))
    panel.set(xlim=limits[0], ylim=limits[1], xlabel="UA (%)", ylabel="TA (%)")


# ------------------------------------------------------------------------------------------- names


def _name_points(panel: Any, rows: Sequence[dict], obstacles: Sequence[dict]) -> None:
    """Write each name where it covers least; one far from its point gets a line to it."""
    points = [panel.transData.transform((row["UA"], row["TA"])) for row in [*obstacles, *rows]]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    frame = panel.bbox.extents
    far = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    centred = {"textcoords": "offset points", "fontsize": 8, "zorder": 5}
    centred |= {"ha": "center", "va": "center"}
    for row in sorted(rows, key=lambda row: (row["TA"], row["UA"], row["name"])):
        name, point = drawable(row["name"], 24), (row["UA"], row["TA"])
        x, y = panel.transData.transform(point)
        width, height = 4.6 * len(name), 9.0
        boxes = [_box(x, y, radius, angle, width, height) for radius in RADII for angle in ANGLES]
        costs = [_cost(box, taken, frame) + 0.6 * i for i, box in enumerate(boxes)]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        left, low, right, _ = boxes[best]
        place = (left + right) / 2 - x, low + height / 2 - y
        panel.annotate(name, point, place, arrowprops=far if best >= NEAR else None, **centred)


def _box(x: float, y: float, radius: float, angle: float, width: float, height: float) -> Box:
    """The box of a name whose near side is ``radius`` from the point, towards ``angle``."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    left = x + radius * across + (across - 1) * width / 2
    low = y + radius * up + (up - 1) * height / 2
    return left, low, left + width, low + height


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """The area that a name would cover, and three times what would be outside of the frame."""
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
    return sum(_overlap(box, other) for other in taken) + 3 * outside


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
