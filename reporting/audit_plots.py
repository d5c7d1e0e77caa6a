"""Plots of an audit: histograms, ROC curves and relearning, a panel for each audited row."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from reporting.attacks import named_rows
from reporting.drawing import (
    BLUE,
    GREY,
    INK,
    MOST_LINES,
    ORANGE,
    POWERS,
    Plot,
    common_axes,
    small_multiples,
)

Curves = dict[str, list[dict]]  # of the models of each row, by the row's name


def audit_plots(audit: dict, groups: dict[str, list[dict]]) -> list[Plot]:
    """Histograms, ROC and relearning of the audited models, as far as the audit holds them."""
    rows, retrain, attacks = {}, [], set()
    for name, row in named_rows(audit, groups).items():
        rows[name] = [model["curves"] for model in row["models"]]
        for curves in rows[name]:
            attacks |= curves["roc"].keys()
        if row["role"] == "retrain":
            retrain += rows[name]
    plots = [_histogram_plot(kind, rows) for kind in ("loss", "confidence")]
    plots += [_roc_plot(kind, rows, retrain) for kind in sorted(attacks)]
    plots.append(_relearn_plot(rows, retrain))
    return [plot for plot in plots if plot is not None]


def _of_kind(rows: Curves, group: str, kind: str) -> Curves:
    """The curves of one kind, without the rows that have none."""
    found = {}
    for name, models in rows.items():
        if curves := [model[group][kind] for model in models if kind in model[group]]:
            found[name] = curves
    return found


# --------------------------------------------------------------------------------------- histograms


def _histogram_plot(kind: str, rows: Curves) -> Plot | None:
    panels, words = _of_kind(rows, "histograms", kind), kind.capitalize()
    if not panels:
        return None
    return Plot(
        f"{kind}-histograms",
        f"{words} of forgotten and held-out images",
        f"Shares of the forget set (blue) and of held-out images (orange) by {kind}, on a"
        " logarithmic axis, mean over seeds. Where the two lines part, forgotten images can be told"
        " from unseen ones. Compare with Retrain's panel.",
        f"{words} histograms of forget set and held-out images, one panel for each of"
        f" {len(panels)} rows",
        partial(histogram_figure, mean_histograms(panels), kind, least_share(panels)),
    )


def least_share(rows: Curves) -> float:
    """The smallest positive share that a mean over seeds can have without its move to other bins,
    whose traces would stretch a logarithmic axis.
    """
    least = 1.0
    for histograms in rows.values():
        shares = [share for each in histograms for share in (*each["forget"], *each["held_out"])]
        least = min([least, *(share / len(histograms) for share in shares if share > 0)])
    return least


def histogram_figure(rows: dict[str, dict], kind: str, least: float) -> Any:
    """A panel per row: shares by ``kind`` from ``least`` on, forget set and held-out images."""
    legend = [("forget set", BLUE, "-"), ("held out", ORANGE, "-")]
    figure, panels = small_multiples(list(rows), legend, kind, "share")
    for histogram, panel in zip(rows.values(), panels, strict=True):
        for what, colour in (("held_out", ORANGE), ("forget", BLUE)):
            panel.stairs(histogram[what], histogram["edges"], color=colour, alpha=0.85, linewidth=1)
        panel.set_yscale("log")
        panel.set_ylim(bottom=least / 1.5)
    common_axes(panels, y_ticks=POWERS)
    return figure


def mean_histograms(rows: Curves) -> dict[str, dict]:
    """Each row's mean over seeds, in one set of bins: the common one, else equal ones over all.

    Within a bin the images are taken to lie evenly when they move to other bins.
    """
    every = [histogram["edges"] for histograms in rows.values() for histogram in histograms]
    edges = every[0]
    if any(other != edges for other in every):
        least, most = min(other[0] for other in every), max(other[-1] for other in every)
        edges = np.linspace(least, most, max(map(len, every))).tolist()
    means = {}
    for name, histograms in rows.items():
        means[name] = {"edges": edges}
        for what in ("forget", "held_out"):
            shares = [_rebinned(histogram, what, edges) for histogram in histograms]
            means[name][what] = np.mean(shares, axis=0)
    return means


def _rebinned(histogram: dict, what: str, edges: list[float]) -> np.ndarray:
    if histogram["edges"] == edges:
        return np.array(histogram[what])
    below = np.concatenate([[0], np.cumsum(histogram[what])])
    return np.diff(np.interp(edges, histogram["edges"], below))


# ---------------------------------------------------------------------------------------------- ROC


def _roc_plot(kind: str, rows: Curves, retrain: list[dict]) -> Plot:
    panels = _of_kind(rows, "roc", kind)
    of_retrain = [model["roc"][kind] for model in retrain if kind in model["roc"]]
    return Plot(
        f"roc-{re.sub(r'[^a-z0-9]+', '-', kind.lower())}",
        f"ROC of the {kind} attack",
        "True positive rate against false positive rate, both logarithmic, so that the left shows"
        " the few images of which an attacker is sure; a line per seed. On the dashed diagonal the"
        " attack guesses. Grey is Retrain: the target is to be on it.",
        f"ROC curves of the {kind} attack, one panel for each of {len(panels)} rows, Retrain's in"
        " grey",
        partial(roc_figure, panels, of_retrain),
    )


def roc_figure(rows: Curves, retrain: Sequence[dict]) -> Any:
    """A panel per row: its ROC curves over Retrain's, both axes logarithmic."""
    legend = [("method", BLUE, "-"), ("Retrain", GREY, "-"), ("guessing", INK, "--")]
    axes = "false positive rate", "true positive rate"
    figure, panels = small_multiples(list(rows), legend, *axes)
    rates = []
    for curves in rows.values():
        for curve in curves:
            rates += [rate for rate in (*curve["fpr"], *curve["tpr"]) if rate > 0]
    least = max(min(rates, default=1e-3), 1e-4) / 1.2
    for curves, panel in zip(rows.values(), panels, strict=True):
        panel.set(xscale="log", yscale="log", xlim=(least, 1.1), ylim=(least, 1.3))
        panel.plot([least, 1], [least, 1], color=INK, linewidth=0.7, linestyle="--")
        for curve in retrain[:MOST_LINES]:
            panel.plot(curve["fpr"], curve["tpr"], color=GREY, linewidth=1)
        for curve in curves[:MOST_LINES]:
            panel.plot(curve["fpr"], curve["tpr"], color=BLUE, linewidth=1)
    common_axes(panels, POWERS, POWERS)
    return figure


# --------------------------------------------------------------------------------------- relearning


def _relearn_plot(rows: Curves, retrain: list[dict]) -> Plot | None:
    panels = {}
    for name, models in rows.items():
        if curves := [model["relearn"] for model in models if model["relearn"]]:
            panels[name] = curves
    if not panels:
        return None
    of_retrain = [model["relearn"] for model in retrain if model["relearn"]]
    return Plot(
        "relearn",
        "Relearning the forget set",
        "Accuracy on the forget set while the model trains on it again; a line per seed. Orange and"
        " dashed: images never seen, learnt in the same way. Grey is Retrain. A model that rises"
        " faster than Retrain still held what it was to forget.",
        f"Accuracy on the forget set against relearning steps, one panel for each of {len(panels)}"
        " rows",
        partial(relearn_figure, panels, of_retrain),
    )


def relearn_figure(rows: Curves, retrain: Sequence[dict]) -> Any:
    """A panel per row: accuracy in percent against steps of relearning, which double."""
    legend = [
        ("forget set", BLUE, "-"),
        ("never seen", ORANGE, "--"),
        ("Retrain, forget set", GREY, "-"),
    ]
    figure, panels = small_multiples(list(rows), legend, "steps", "accuracy (%)")
    for curves, panel in zip(rows.values(), panels, strict=True):
        for curve in retrain[:MOST_LINES]:
            panel.plot(curve["steps"], curve["accuracy"], color=GREY, linewidth=1)
        for curve in curves[:MOST_LINES]:
            _draw_relearning(panel, curve)
        panel.set_xscale("symlog", base=2, linthresh=1)
    common_axes(panels, x_ticks=[0, *(4**power for power in range(8))])
    return figure


def _draw_relearning(panel: Any, curve: dict) -> None:
    steps, accuracy = curve["steps"], curve["accuracy"]
    panel.plot(steps, accuracy, color=BLUE, linewidth=1)
    if "sd" in curve:
        pairs = list(zip(accuracy, curve["sd"], strict=True))
        low, high = [mean - sd for mean, sd in pairs], [mean + sd for mean, sd in pairs]
        panel.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0)
    if "never_seen" in curve:
        panel.plot(steps, curve["never_seen"], color=ORANGE, linewidth=1, linestyle="--")
