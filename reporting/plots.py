"""Which plots the data of a scenario let us draw, the words around them, and a figure as a file or
inside the page.

The same data give the same bytes: no date, no random name.
"""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reporting import figures
from reporting.audits import named_rows
from reporting.figures import BLUE, GREEN, INK, ORANGE
from reporting.tables import METRICS, Scenario, told_apart
from utils import UserError


@dataclasses.dataclass(frozen=True)
class Plot:
    """One figure and the words around it: ``name`` for its file, ``read`` says how to read it,
    ``alt`` what it shows.
    """

    name: str
    title: str
    read: str
    alt: str
    draw: Callable[[], Any]

    def figure(self) -> Any:
        """Draw it."""
        with figures.style():
            return self.draw()


def require() -> None:
    """Refuse, in one line, to go on without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError(
            "--html and --plots draw with matplotlib, which is not installed: pip install"
            " matplotlib"
        ) from None


def as_file(figure: Any, kind: str) -> bytes:
    """A figure as the bytes of a ``png`` (200 dots per inch, white), ``pdf`` or ``svg`` file."""
    out = io.BytesIO()
    undated = {
        "png": {},
        "pdf": {"CreationDate": None},
        "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    }[kind]
    with figures.style():
        figure.savefig(
            out,
            format=kind,
            dpi=200 if kind == "png" else 72,
            metadata=undated,
            facecolor="white" if kind == "png" else "none",
        )
    return out.getvalue()


def as_svg(figure: Any, prefix: str) -> str:
    """A figure as an <svg> element to stand inside a page: in the page's text colour, its names
    unique through ``prefix``.
    """
    text = as_file(figure, "svg").decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\b(id="|href="#)', rf"\1{prefix}-", text)
    return text.replace("url(#", f"url(#{prefix}-").strip()


def named(scenarios: Sequence[Scenario]) -> dict[str, Plot]:
    """All plots of all scenarios by the name of their file, without its ending."""
    found = {}
    for scenario in scenarios:
        title = re.sub(r"[^a-z0-9]+", "-", scenario.table["title"].lower()).strip("-")
        found |= {f"{title}-{plot.name}": plot for plot in plots_of(scenario)}
    return found


def plots_of(scenario: Scenario) -> list[Plot]:
    """What the data of one scenario let us draw, in the order of reading."""
    found = table_plots(scenario.table)
    for number, audit in enumerate(scenario.audits, 1):
        suffix = f"-{number}" if len(scenario.audits) > 1 else ""
        found += [
            dataclasses.replace(plot, name=plot.name + suffix)
            for plot in audit_plots(audit, scenario.groups)
        ]
    return found + run_plots(scenario)


# ------------------------------------------------------------------------------------------- tables


def table_plots(table: dict) -> list[Plot]:
    """Gaps to Retrain, and UA against TA; nothing where no row has a gap."""
    rows = [
        row
        for row in table["rows"]
        if row["avg_gap"] is not None and all(math.isfinite(row[metric]) for metric in METRICS)
    ]
    others = [row for row in rows if not row["is_retrain"]]
    if not others:
        return []
    retrain = next((row for row in rows if row["is_retrain"]), None)
    about = table["title"]
    marked = any(row["UA_band"] is not None for row in others)
    noise = (
        "Grey bars: what Retrain's own seeds explain; a hollow dot lies inside. " if marked else ""
    )
    wide = " Beyond one point the axes are logarithmic." if figures.is_wide(others) else ""
    ellipse = (
        " The ellipse spans what other seeds of Retrain would score (95 % along each axis)."
        if marked
        else ""
    )
    return [
        Plot(
            "gaps",
            "Gaps to Retrain",
            "Each dot is a method's mean minus Retrain's, in percentage points; the line is one"
            f" standard deviation over seeds. {noise}"
            "The line at 0 is the target: right of it a value is above Retrain's, left of it"
            " below. "
            f"Sorted by Avg. Gap.{wide}",
            f"Signed gaps to Retrain of {len(others)} methods in UA, RA, TA and MIA; the numbers"
            f" are in the table of {about}",
            partial(figures.gap_figure, others),
        ),
        Plot(
            "ua-ta",
            "Forgetting against accuracy",
            "Forget error (UA) against test accuracy (TA). Retrain, the cross, is the target, not"
            f" the top right corner. Lines are one standard deviation.{ellipse} The right plot"
            " shows the neighbourhood that the left one frames.",
            f"UA and TA of {len(others)} methods beside Retrain; the numbers are in the table of"
            f" {about}",
            partial(figures.ua_ta_figure, others, retrain, table["floor"]),
        ),
    ]


# ------------------------------------------------------------------------------------------- audits


Curves = list[tuple[str, list[dict]]]  # of the models of each row, by the row's name


def audit_plots(audit: dict, groups: dict[str, list[dict]]) -> list[Plot]:
    """Histograms, ROC and relearning of the audited models, as far as the audit holds them."""
    known = named_rows(audit, groups)
    rows = [(name, [model["curves"] for model in row["models"]]) for name, row in known.items()]
    retrain = [
        model["curves"]
        for row in known.values()
        if row["role"] == "retrain"
        for model in row["models"]
    ]
    attacks = sorted({kind for _, mine in rows for curves in mine for kind in curves["roc"]})
    return [
        *_histogram_plots(rows),
        *(_roc_plot(kind, rows, retrain) for kind in attacks),
        *_relearn_plots(rows, retrain),
    ]


def _histogram_plots(rows: Curves) -> list[Plot]:
    found = []
    for kind, words in (("loss", "Loss"), ("confidence", "Confidence")):
        panels = [
            (name, histograms)
            for name, mine in rows
            if (histograms := _with(mine, "histograms", kind))
        ]
        if panels:
            found.append(
                Plot(
                    f"{kind}-histograms",
                    f"{words} of forgotten and held-out images",
                    f"Shares of the forget set (blue) and of held-out images (orange) by {kind}, on"
                    " a logarithmic axis, mean over seeds. Where the two lines part, forgotten"
                    " images can be told from unseen ones. Compare with Retrain's panel.",
                    f"{words} histograms of forget set and held-out images, one panel for each of"
                    f" {len(panels)} rows",
                    partial(figures.histogram_figure, figures.mean_histograms(panels), kind),
                )
            )
    return found


def _roc_plot(kind: str, rows: Curves, retrain: list[dict]) -> Plot:
    panels = [(name, lines) for name, mine in rows if (lines := _with(mine, "roc", kind))]
    return Plot(
        f"roc-{re.sub(r'[^a-z0-9]+', '-', kind.lower())}",
        f"ROC of the {kind} attack",
        "True positive rate against false positive rate, both logarithmic, so that the left shows"
        " the few images of which an attacker is sure; a line per seed. On the dashed diagonal the"
        " attack guesses. Grey is Retrain: the target is to be on it.",
        f"ROC curves of the {kind} attack, one panel for each of {len(panels)} rows, Retrain's in"
        " grey",
        partial(figures.roc_figure, panels, _with(retrain, "roc", kind)),
    )


def _relearn_plots(rows: Curves, retrain: list[dict]) -> list[Plot]:
    panels = [
        (name, curves)
        for name, mine in rows
        if (curves := [entry["relearn"] for entry in mine if entry["relearn"]])
    ]
    if not panels:
        return []
    plot = Plot(
        "relearn",
        "Relearning the forget set",
        "Accuracy on the forget set while the model trains on it again; a line per seed. Orange and"
        " dashed: images never seen, learnt in the same way. Grey is Retrain. A model that rises"
        " faster than Retrain still held what it was to forget.",
        f"Accuracy on the forget set against relearning steps, one panel for each of {len(panels)}"
        " rows",
        partial(
            figures.relearn_figure,
            panels,
            [entry["relearn"] for entry in retrain if entry["relearn"]],
        ),
    )
    return [plot]


def _with(curves: Sequence[dict], group: str, kind: str) -> list[dict]:
    return [mine[group][kind] for mine in curves if kind in mine[group]]


# --------------------------------------------------------------------------------------------- runs


def run_plots(scenario: Scenario) -> list[Plot]:
    """What the runs themselves recorded: accuracy and loss by epoch, density of the masks by
    layer.
    """
    found = []
    for name, title, columns in (
        ("epochs", "Accuracy by epoch", {"forget": BLUE, "retain": GREEN, "val": ORANGE}),
        ("training-loss", "Loss by epoch", {"loss": BLUE}),
    ):
        panels = [
            (row, runs)
            for row, runs in scenario.curves.items()
            if any(
                epoch.get(column) is not None for run in runs for epoch in run for column in columns
            )
        ]
        if panels:
            shown = (
                "a sample of the forget, retain and validation images"
                if name == "epochs"
                else "what the method trains on"
            )
            found.append(
                Plot(
                    name,
                    title,
                    f"{title}, on {shown}; a line per seed. A collapse or an unfinished descent"
                    " shows here before it shows in the table.",
                    f"{title} of {len(panels)} rows",
                    partial(
                        figures.epoch_figure,
                        panels,
                        columns,
                        "accuracy (%)" if name == "epochs" else "loss",
                    ),
                )
            )
    masks = mask_layers(scenario.groups)
    if masks:
        found.append(
            Plot(
                "masks",
                "Density of the masks by layer",
                "The share of each layer's weights that may change. Vertical lines: the share over"
                " all weights. Layers far above it are where a mask lets a method work.",
                f"Share of weights that may change in each layer, for {len(masks)} masks",
                partial(figures.mask_figure, masks),
            )
        )
    tried = sensitivity(scenario)
    if tried:
        found.append(
            Plot(
                "sensitivity",
                "Sensitivity to hyper-parameters",
                "Avg. Gap by the value of a hyper-parameter, a dot per row of the table; the line"
                " joins the least gap at each value. A method whose line has a narrow valley needs"
                " a search; where it is flat, the value hardly matters.",
                f"Avg. Gap by value, for {len(tried)} hyper-parameters; the numbers are in the"
                f" table of {scenario.table['title']}",
                partial(figures.sensitivity_figure, tried),
            )
        )
    return found


def sensitivity(scenario: Scenario) -> dict[str, list[tuple[float, float]]]:
    """(value, Avg. Gap) of each method's rows, for each of its numbers that takes at least three
    values.
    """
    gaps = {row["name"]: row["avg_gap"] for row in scenario.table["rows"] if not row["is_retrain"]}
    found: dict[str, list[tuple[float, float]]] = {}
    for name, runs in scenario.groups.items():
        gap = gaps.get(name)
        if gap is None or not math.isfinite(gap):
            continue
        for flag, value in runs[0]["hyperparameters"].items():
            if type(value) in (int, float) and math.isfinite(value):
                found.setdefault(f"{runs[0]['label']}: {flag}", []).append((value, gap))
    return {
        name: points for name, points in found.items() if len({value for value, _ in points}) >= 3
    }


def mask_layers(groups: dict[str, list[dict]]) -> list[tuple[str, float, dict[str, float]]]:
    """(rows that used it, density, density by layer) of each different mask that recorded its
    layers; densities in [0, 1].
    """
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
    return [
        (name, density, layers) for name, (_, density, layers) in zip(names, found, strict=True)
    ]
