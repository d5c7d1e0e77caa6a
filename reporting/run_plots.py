"""Plots of what the runs recorded: curves by epoch, hyper-parameters tried, and masks."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from reporting.drawing import (
    BLUE,
    GREEN,
    MOST_ROWS,
    ORANGE,
    OWN_AXES,
    Plot,
    drawable,
    new_figure,
    plain_ticks,
    rows_left_out,
    small_multiples,
)
from reporting.json_values import LARGEST
from reporting.mask_plots import mask_plot
from reporting.tables import Scenario

Rows = dict[str, list[list[dict]]]  # the epochs of each run of a row
Points = list[tuple[float, float]]  # (value, Avg. Gap)
LOG_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
FEWEST_VALUES = 3  # of a hyper-parameter that is plotted
MOST_SINGLE = 5  # runs of a row that have a line each; more are drawn as mean and band
PER_RUN = (
    f"a line per seed up to {MOST_SINGLE}; of more seeds the mean, and shaded the smallest to the"
    " largest at each epoch, with their number n"
)


def run_plots(scenario: Scenario) -> list[Plot]:
    """Curves by epoch, masks by layer and Avg. Gap by hyper-parameter, where recorded."""
    kinds = (_accuracy_plot, _loss_plot, mask_plot, _sensitivity_plot)
    plots = [plot_of(scenario) for plot_of in kinds]
    return [plot for plot in plots if plot is not None]


# ------------------------------------------------------------------------------------------- epochs


def _accuracy_plot(scenario: Scenario) -> Plot | None:
    columns = {"forget": BLUE, "retain": GREEN, "val": ORANGE}
    words = f"on a sample of the forget, retain and validation images; {PER_RUN}."
    panels, retrains = _recorded(scenario, columns)
    limits = None
    if panels:
        limits = compared_limits(_drawn(panels), retrains, columns)
    if limits:
        words += (
            " The axis spans what the methods reach; Retrain's first epochs, from random weights,"
            " lie below it."
        )
    draw = partial(epoch_figure, panels, columns, "accuracy (%)", limits)
    return _epoch_plot("epochs", "Accuracy by epoch", words, panels, draw)


def _loss_plot(scenario: Scenario) -> Plot | None:
    words = (
        f"on what the method trains on; {PER_RUN}. Each method has a loss of its own, and so each"
        " panel an axis of its own."
    )
    panels, _ = _recorded(scenario, ["loss"])
    draw = partial(epoch_figure, panels, {"loss": BLUE}, "loss")
    return _epoch_plot("training-loss", "Loss by epoch", words, panels, draw)


def _recorded(scenario: Scenario, columns: Iterable[str]) -> tuple[Rows, set[str]]:
    """The rows that recorded one of ``columns``, and the names of those that are Retrain."""
    panels = {}
    for row, runs in scenario.curves.items():
        epochs = [epoch for run in runs for epoch in run]
        if any(epoch.get(column) is not None for epoch in epochs for column in columns):
            panels[row] = runs
    retrains = {row for row in panels if scenario.groups[row][0]["method"] == "retrain"}
    return panels, retrains


def _drawn(rows: Rows) -> Rows:
    return dict(list(rows.items())[:MOST_ROWS])


def compared_limits(
    rows: Rows, retrains: set[str], columns: Iterable[str]
) -> tuple[float, float] | None:
    """Limits of an axis that cut Retrain's first epochs, but not its last one; None where they fit
    on the others' axis, or there are no others.
    """

    def values(runs: Iterable[list[dict]]) -> list[float]:
        epochs = [epoch for run in runs for epoch in run]
        known = [epoch.get(column) for epoch in epochs for column in columns]
        return [value for value in known if value is not None]

    of_retrain = [run for row, runs in rows.items() if row in retrains for run in runs]
    ours = values(run for row, runs in rows.items() if row not in retrains for run in runs)
    theirs, ends = values(of_retrain), values(run[-1:] for run in of_retrain)
    if not ours or not theirs:
        return None
    low, high = min([*ours, *ends]), max(*ours, *theirs)
    margin = 0.05 * (high - low) or 1.0
    return (low - margin, high + margin) if min(theirs) < low - margin else None


def _epoch_plot(
    name: str, title: str, words: str, panels: Rows, draw: Callable[[], Any]
) -> Plot | None:
    if not panels:
        return None
    return Plot(
        name,
        title,
        f"{title}, {words} A collapse or an unfinished descent shows here before it shows in the"
        f" table.{rows_left_out(len(panels))}",
        f"{title} of {min(len(panels), MOST_ROWS)} rows",
        draw,
    )


def epoch_figure(
    rows: Rows, columns: dict[str, str], axis: str, limits: tuple[float, float] | None = None
) -> Any:
    """A panel for each of the first MOST_ROWS rows, with its own epochs: up to MOST_SINGLE runs as
    lines, more as mean and band, for each column and its colour. Without ``limits`` each panel has
    its own.
    """
    rows = _drawn(rows)
    legend = [(name, colour, "-") for name, colour in columns.items()]
    figure, panels = small_multiples(list(rows), legend, "epoch", axis, gaps=OWN_AXES)
    for runs, panel in zip(rows.values(), panels, strict=True):
        for name, colour in columns.items():
            if len(runs) > MOST_SINGLE:
                _draw_band(panel, band(runs, name), colour)
            else:
                _draw_lines(panel, runs, name, colour)
        if len(runs) > MOST_SINGLE:
            panel.legend([], [], title=f"n = {len(runs)}", title_fontsize=8, borderpad=0)
        last = max(epoch["epoch"] for run in runs for epoch in run)
        plain_ticks(panel.xaxis, range(0, int(last) + 1, max(1, round(last / 4))))
        panel.set_ylim(limits)
        panel.locator_params(axis="y", nbins=4)
    return figure


def band(runs: Sequence[list[dict]], column: str) -> list[tuple[float, float, float, float]]:
    """(epoch, mean, smallest, largest) of the runs that recorded a value, epoch by epoch."""
    values = defaultdict(list)
    for epoch in (epoch for run in runs for epoch in run):
        if epoch.get(column) is not None:
            values[epoch["epoch"]].append(epoch[column])
    return [(at, fmean(known), min(known), max(known)) for at, known in sorted(values.items())]


def _draw_band(panel: Any, points: Sequence[tuple], colour: str) -> None:
    if not points:
        return
    epochs, means, lows, highs = zip(*points, strict=True)
    marker = "." if len(points) == 1 else ""
    panel.plot(epochs, means, color=colour, linewidth=1, marker=marker)
    width = 1.0 if len(points) == 1 else 0.0  # of the edge, where the band has no area
    panel.fill_between(epochs, lows, highs, color=colour, alpha=0.25, linewidth=width)


def _draw_lines(panel: Any, runs: Sequence[list[dict]], column: str, colour: str) -> None:
    for run in runs:
        known = [epoch for epoch in run if epoch.get(column) is not None]
        epochs, values = ([epoch[key] for epoch in known] for key in ("epoch", column))
        marker = "." if len(known) == 1 else ""
        panel.plot(epochs, values, color=colour, linewidth=1, marker=marker)


# -------------------------------------------------------------------------------------- sensitivity


def _sensitivity_plot(scenario: Scenario) -> Plot | None:
    tried = sensitivity(scenario)
    if not tried:
        return None
    return Plot(
        "sensitivity",
        "Sensitivity to hyper-parameters",
        "Avg. Gap by the value of a hyper-parameter or the density of a mask, a dot per row of the"
        " table; the line joins the least gap at each value. Values a factor of ten apart have a"
        " logarithmic axis. A method whose line has a narrow valley needs a search; where it is"
        " flat, the value hardly matters.",
        f"Avg. Gap by value, for {len(tried)} hyper-parameters; the numbers are in the table of"
        f" {scenario.table['title']}",
        partial(sensitivity_figure, tried),
    )


def sensitivity(scenario: Scenario) -> dict[str, Points]:
    """The points of each method's rows by "METHOD: FLAG", for flags with enough numbers tried; the
    density of a mask, in [0, 1], counts as one.
    """
    gaps = {row["name"]: row["avg_gap"] for row in scenario.table["rows"] if not row["is_retrain"]}
    found: dict[str, Points] = {}
    for name, runs in scenario.groups.items():
        gap = gaps.get(name)
        if gap is None or not math.isfinite(gap):
            continue
        settings = dict(runs[0]["hyperparameters"])
        if mask := runs[0].get("mask"):
            settings["mask density"] = mask["density"]
        for flag, value in settings.items():
            if type(value) in (int, float) and abs(value) <= LARGEST:
                found.setdefault(f"{runs[0]['label']}: {flag}", []).append((value, gap))
    return {name: points for name, points in found.items() if len(dict(points)) >= FEWEST_VALUES}


def sensitivity_figure(tried: dict[str, Points]) -> Any:
    """A panel per hyper-parameter: Avg. Gap by value, and a line along the least ones."""
    columns = min(3, len(tried))
    lines = math.ceil(len(tried) / columns)
    figure = new_figure(max(3.2 * columns, 5), 2.3 * lines)
    for place, (name, points) in enumerate(tried.items(), 1):
        panel = figure.add_subplot(lines, columns, place)
        every = zip(*points, strict=True)
        panel.plot(*every, "o", markersize=4, color=BLUE, markerfacecolor="none")
        least: dict[float, float] = {}
        for value, gap in points:
            least[value] = min(gap, least.get(value, gap))
        values = sorted(least)
        panel.plot(values, [least[value] for value in values], color=BLUE, linewidth=1)
        panel.set_title(drawable(name, 40), pad=3)
        panel.set_ylabel("Avg. Gap")
        gaps = [gap for _, gap in points]
        if _is_wide(gaps):
            panel.set_yscale("log")
            plain_ticks(panel.yaxis, LOG_TICKS)
        else:
            panel.set_ylim(bottom=0)
        if _is_wide(values):
            panel.set_xscale("log")
        shown = values[:: math.ceil(len(values) / 5)]
        panel.xaxis.set_ticks(shown, [f"{value:.2g}" for value in shown])
        panel.xaxis.set_ticks([], minor=True)
    return figure


def _is_wide(values: Sequence[float]) -> bool:
    """Whether positive values lie so far apart that one of them would flatten the others."""
    return 0 < 10 * min(values) <= max(values)
