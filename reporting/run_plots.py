"""Plots of what the runs recorded: curves by epoch, masks by layer, hyper-parameters tried."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from reporting.drawing import (
    BLUE,
    GREEN,
    GREY,
    MOST_LINES,
    ORANGE,
    Plot,
    common_axes,
    drawable,
    new_figure,
    small_multiples,
)
from reporting.groups import told_apart
from reporting.json_values import LARGEST
from reporting.tables import Scenario

Points = list[tuple[float, float]]  # (value, Avg. Gap)
Mask = tuple[str, float, dict[str, float]]  # (rows that use it, density, density by layer)
MARKS = "osD^vP*X"
FEWEST_VALUES = 3  # of a hyper-parameter that is plotted


def run_plots(scenario: Scenario) -> list[Plot]:
    """Curves by epoch, masks by layer and Avg. Gap by hyper-parameter, where recorded."""
    kinds = (_accuracy_plot, _loss_plot, _mask_plot, _sensitivity_plot)
    plots = [plot_of(scenario) for plot_of in kinds]
    return [plot for plot in plots if plot is not None]


# ------------------------------------------------------------------------------------------- epochs


def _accuracy_plot(scenario: Scenario) -> Plot | None:
    columns = {"forget": BLUE, "retain": GREEN, "val": ORANGE}
    words = "a sample of the forget, retain and validation images"
    return _epoch_plot(scenario, "epochs", "Accuracy by epoch", words, columns, "accuracy (%)")


def _loss_plot(scenario: Scenario) -> Plot | None:
    words = "what the method trains on"
    return _epoch_plot(scenario, "training-loss", "Loss by epoch", words, {"loss": BLUE}, "loss")


def _epoch_plot(
    scenario: Scenario, name: str, title: str, on: str, columns: dict[str, str], axis: str
) -> Plot | None:
    panels = {}
    for row, runs in scenario.curves.items():
        epochs = [epoch for run in runs for epoch in run]
        if any(epoch.get(column) is not None for epoch in epochs for column in columns):
            panels[row] = runs
    if not panels:
        return None
    return Plot(
        name,
        title,
        f"{title}, on {on}; a line per seed. A collapse or an unfinished descent shows here before"
        " it shows in the table.",
        f"{title} of {len(panels)} rows",
        partial(epoch_figure, panels, columns, axis),
    )


def epoch_figure(rows: dict[str, list[list[dict]]], columns: dict[str, str], axis: str) -> Any:
    """A panel per row: a line per seed, at most MOST_LINES, for each column and its colour."""
    legend = [(name, colour, "-") for name, colour in columns.items()]
    figure, panels = small_multiples(list(rows), legend, "epoch", axis)
    for runs, panel in zip(rows.values(), panels, strict=True):
        for run in runs[:MOST_LINES]:
            for name, colour in columns.items():
                known = [epoch for epoch in run if epoch.get(name) is not None]
                epochs, values = ([epoch[key] for epoch in known] for key in ("epoch", name))
                marker = "." if len(known) == 1 else ""
                panel.plot(epochs, values, color=colour, linewidth=1, marker=marker)
    last = max(epoch["epoch"] for runs in rows.values() for run in runs for epoch in run)
    common_axes(panels, x_ticks=range(0, int(last) + 1, max(1, round(last / 4))))
    return figure


# -------------------------------------------------------------------------------------------- masks


def _mask_plot(scenario: Scenario) -> Plot | None:
    masks = masks_of(scenario.groups)
    if not masks:
        return None
    return Plot(
        "masks",
        "Density of the masks by layer",
        "The share of each layer's weights that may change. Vertical lines: the share over all"
        " weights. Layers far above it are where a mask lets a method work.",
        f"Share of weights that may change in each layer, for {len(masks)} masks",
        partial(mask_figure, masks),
    )


def masks_of(groups: dict[str, list[dict]]) -> list[Mask]:
    """Each different mask that recorded its layers; densities in [0, 1]."""
    found: list[tuple[list[str], float, dict]] = []
    for name, runs in groups.items():
        for mask in (run.get("mask") or {} for run in runs):
            if not mask.get("layers"):
                continue
            users = next((users for users, _, layers in found if layers == mask["layers"]), None)
            if users is None:
                found.append(([name], mask["density"], mask["layers"]))
            elif name not in users:
                users.append(name)
    names = told_apart([", ".join(users) for users, _, _ in found])
    return [(name, *mask) for name, (_, *mask) in zip(names, found, strict=True)]


def mask_figure(masks: Sequence[Mask]) -> Any:
    """A line per layer, a mark per mask: the percentage of the layer's weights that may change."""
    layers = list(dict.fromkeys(layer for _, _, shares in masks for layer in shares))
    figure = new_figure(9, 1.1 + 0.17 * len(layers) + 0.18 * len(masks))
    panel = figure.subplots()
    for index, (name, density, shares) in enumerate(masks):
        colour = (BLUE, ORANGE, GREEN, GREY)[index % 4]
        percent = [100 * share for share in shares.values()]
        places, mark = [layers.index(layer) for layer in shares], MARKS[index % len(MARKS)]
        panel.plot(percent, places, mark, color=colour, markersize=4, label=drawable(name, 80))
        panel.axvline(100 * density, color=colour, linewidth=0.8)
    panel.set_yticks(range(len(layers)), [drawable(layer, 50) for layer in layers], fontsize=7)
    panel.set(xlabel="weights that may change (%)", xlim=(-2, 102), ylim=(len(layers) - 0.5, -0.5))
    panel.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
    figure.legend(loc="outside upper left")
    return figure


# -------------------------------------------------------------------------------------- sensitivity


def _sensitivity_plot(scenario: Scenario) -> Plot | None:
    tried = sensitivity(scenario)
    if not tried:
        return None
    return Plot(
        "sensitivity",
        "Sensitivity to hyper-parameters",
        "Avg. Gap by the value of a hyper-parameter, a dot per row of the table; the line joins the"
        " least gap at each value. A method whose line has a narrow valley needs a search; where it"
        " is flat, the value hardly matters.",
        f"Avg. Gap by value, for {len(tried)} hyper-parameters; the numbers are in the table of"
        f" {scenario.table['title']}",
        partial(sensitivity_figure, tried),
    )


def sensitivity(scenario: Scenario) -> dict[str, Points]:
    """The points of each method's rows by "METHOD: FLAG", for flags with enough numbers tried."""
    gaps = {row["name"]: row["avg_gap"] for row in scenario.table["rows"] if not row["is_retrain"]}
    found: dict[str, Points] = {}
    for name, runs in scenario.groups.items():
        gap = gaps.get(name)
        if gap is None or not math.isfinite(gap):
            continue
        for flag, value in runs[0]["hyperparameters"].items():
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
        panel.set_ylim(bottom=0)
        panel.set_ylabel("Avg. Gap")
        if values[0] > 0 and values[-1] >= 10 * values[0]:
            panel.set_xscale("log")
        shown = values[:: math.ceil(len(values) / 5)]
        panel.xaxis.set_ticks(shown, [f"{value:.2g}" for value in shown])
        panel.xaxis.set_ticks([], minor=True)
    return figure
