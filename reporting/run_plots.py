"""Plots of what the runs recorded: curves by epoch, hyper-parameters tried, and masks."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from reporting.drawing import (
    BLUE,
    GREEN,
    MOST_LINES,
    ORANGE,
    OWN_AXES,
    Plot,
    drawable,
    new_figure,
    plain_ticks,
    small_multiples,
)
from reporting.json_values import LARGEST
from reporting.mask_plots import mask_plot
from reporting.tables import Scenario

Rows = dict[str, list[list[dict]]]  # the epochs of each run of a row
Points = list[tuple[float, float]]  # (value, Avg. Gap)
LOG_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
FEWEST_VALUES = 3  # of a hyper-parameter that is plotted


def run_plots(scenario: Scenario) -> list[Plot]:
    """Curves by epoch, masks by layer and Avg. Gap by hyper-parameter, where recorded."""
    kinds = (_accuracy_plot, _loss_plot, mask_plot, _sensitivity_plot)
    plots = [plot_of(scenario) for plot_of in kinds]
    return [plot for plot in plots if plot is not None]


# ------------------------------------------------------------------------------------------- epochs


def _accuracy_plot(scenario: Scenario) -> Plot | None:
    columns = {"forget": BLUE, "retain": GREEN, "val": ORANGE}
    words = "on a sample of the forget, retain and validation images; a line per seed."
    panels, retrains = _recorded(scenario, columns)
    limits = None
    if panels:
        limits = compared_limits(panels, retrains, columns)
    if limits:
        words += (
            " The axis spans what the methods reach; Retrain's first epochs, from random weights,"
            " lie below it."
        )
    draw = partial(epoch_figure, panels, columns, "accuracy (%)", limits)
    return _epoch_plot("epochs", "Accuracy by epoch", words, panels, draw)


def _loss_plot(scenario: Scenario) -> Plot | None:
    words = (
        "on what the method trains on; a line per seed. Each method has a loss of its own, and so"
        " each panel an axis of its own."
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


def compared_limits(
    rows: Rows, retrains: set[str], columns: Iterable[str]
) -> tuple[float, float] | None:
    """Limits of an axis that cut Retrain's first epochs; None where they fit on the others' axis,
    or there are no others.
    """
    values: dict[bool, list[float]] = {True: [], False: []}
    for row, runs in rows.items():
        for epoch in (epoch for run in runs for epoch in run):
            known = [epoch[column] for column in columns if epoch.get(column) is not None]
            values[row in retrains] += known
    ours, theirs = values[False], values[True]
    if not ours or not theirs:
        return None
    low, high = min(ours), max(*ours, *theirs)
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
        " table.",
        f"{title} of {len(panels)} rows",
        draw,
    )


def epoch_figure(
    rows: Rows, columns: dict[str, str], axis: str, limits: tuple[float, float] | None = None
) -> Any:
    """A panel per row, with its own epochs: a line per seed, at most MOST_LINES, for each column
    and its colour. Without ``limits`` each panel has its own.
    """
    legend = [(name, colour, "-") for name, colour in columns.items()]
    figure, panels = small_multiples(list(rows), legend, "epoch", axis, gaps=OWN_AXES)
    for runs, panel in zip(rows.values(), panels, strict=True):
        for run in runs[:MOST_LINES]:
            for name, colour in columns.items():
                known = [epoch for epoch in run if epoch.get(name) is not None]
                epochs, values = ([epoch[key] for epoch in known] for key in ("epoch", name))
                marker = "." if len(known) == 1 else ""
                panel.plot(epochs, values, color=colour, linewidth=1, marker=marker)
        last = max(epoch["epoch"] for run in runs for epoch in run)
        plain_ticks(panel.xaxis, range(0, int(last) + 1, max(1, round(last / 4))))
        panel.set_ylim(limits)
        panel.locator_params(axis="y", nbins=4)
    return figure


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
