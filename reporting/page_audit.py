"""The page's part on one audit: a table per kind of metric, accuracy by class, definitions."""

import re
from collections.abc import Sequence

from evaluation.definition import FLOOR, RETRAIN
from evaluation.distances import is_agreement, is_distance
from reporting.attacks import named_rows
from reporting.cells import AGAIN
from reporting.markup import Html, by_role, column, joined, sort_value, sortable, tag
from reporting.page_results import BY_GAP

INTRODUCTION = (
    "What evaluate.py measured on the saved models: means over seeds, below them the gap to"
    " Retrain. Green and ~: a gap that Retrain's own seeds explain, beside an average one that at"
    " least 95 % of true Retrains stay below; marked from three Retrains on. Pointing at a column's"
    " name says what it means, and so does the list below the tables."
)
# A metric belongs to the last kind whose pattern its name holds.
KINDS = {
    "Accuracy and loss": r"^[A-Z]A(_|$)|accuracy|^loss_",
    "Classic attacks: support-vector machine and logistic regression": r"^(svc|lr)_",
    "Threshold attacks on the loss": r"^loss_(auc|tpr|threshold|class)",
    "Threshold attacks on the entropies": r"^(m_)?entropy_",
    "Attacks with reference models": r"^(rmia|lira)_",
    "U-LiRA: attack on shadow models that the method was run on": r"^ulira_",
    "Distances to Retrain": (
        r"^(activation|js|kl|gaussian_kl|klom|disagreement|epsilon|forgetting_quality)"
    ),
    "Averages over metrics": r"^(gap_of|mean_paired|tow)",
    "Relearning": r"^relearn",
}
MOST_CLASSES = 40  # columns of a table of classes
OTHER = "Further metrics"
AVERAGES = {
    "gap_of_means": (
        "mean over metrics of the absolute gap between means: Avg. Gap; lower is better"
    ),
    "gap_of_means_entropy": (
        "the same with the share that the entropy attack calls member in the place of the"
        " support-vector one"
    ),
    "mean_paired_gap": (
        "mean over metrics and seeds of the absolute gap, seed by seed; lower is better, never"
        " below the gap of means"
    ),
}
BY_CLASS = {
    "forget": "forget set",
    "test": "test images",
    "test_forgotten": "test images of the forgotten class",
    "forgotten_before": "images of earlier requests",
}
TARGETS = {
    RETRAIN: "target: Retrain's value",
    FLOOR: "target: as low as between two Retrain runs",
    "high": "higher is better",
}


def audit_part(audit: dict, groups: dict[str, list[dict]]) -> Html:
    """The audit's tables, the first one open, its warnings, and what each metric means."""
    rows = named_rows(audit, groups)
    metrics = _metrics_of(audit)
    tables = {}
    for kind in [*KINDS, OTHER]:
        if of_kind := [metric for metric in metrics if _kind_of(metric) == kind]:
            tables[kind] = metric_table(kind, of_kind, audit, rows)
    for split, words in BY_CLASS.items():
        if table := class_table(split, words, rows):
            tables[f"Accuracy by class, {words}"] = table
    parts = [tag("p", INTRODUCTION)]
    for i, (title, table) in enumerate(tables.items()):
        parts.append(tag("details", tag("summary", title), table, open="" if i == 0 else None))
    warnings = list(audit["warnings"])
    for name, row in rows.items():
        warnings += [f"{name}: {line}" for line in row["warnings"]]
    if warnings:
        parts.append(tag("ul", *(tag("li", line) for line in warnings), class_="note"))
    definitions = []
    for metric in metrics:
        definitions += [tag("dt", metric), tag("dd", _definition(audit, metric))]
    parts.append(tag("details", tag("summary", "What each metric means"), tag("dl", *definitions)))
    return joined(*parts)


def _metrics_of(audit: dict) -> list[str]:
    """The metrics that a row has: the defined ones in their order, then the others."""
    names = dict.fromkeys(audit["metrics"])
    for row in audit["rows"]:
        names |= dict.fromkeys(row["mean"])
    known = [row["mean"] for row in audit["rows"]]
    return [name for name in names if any(mean.get(name) is not None for mean in known)]


def _kind_of(metric: str) -> str:
    return next(
        (kind for kind, pattern in reversed(KINDS.items()) if re.search(pattern, metric)), OTHER
    )


def _definition(audit: dict, metric: str) -> str:
    entry = audit["metrics"].get(metric)
    if entry is None:
        return AVERAGES.get(metric, "not described by this audit")
    good = entry["good"]
    target = good and f"target: {good}"
    if good in TARGETS:
        target = TARGETS[good]
    elif isinstance(good, float):
        target = f"target: {good:g}"
    return f"{entry['text']} ({', '.join(word for word in (entry['unit'], target) if word)})"


def class_table(split: str, words: str, rows: dict[str, dict]) -> Html | None:
    """Accuracy of each class in percent, mean over a row's models; None where no audit says."""
    classes: dict[str, None] = {}
    for row in rows.values():
        for model in row["models"]:
            classes |= dict.fromkeys(model["per_class"].get(split, {}))
    if not classes:
        return None

    def cells(row: dict) -> list[Html]:
        accuracies = [model["per_class"].get(split, {}) for model in row["models"]]
        return [_mean_cell([each.get(label) for each in accuracies]) for label in classes]

    shown, which = _furthest_apart(list(classes), split, rows)
    classes = dict.fromkeys(shown)
    header = [column(label, f"class {label}") for label in classes]
    caption = f"Accuracy by class in percent, {words}, mean over seeds{which}"
    return sortable(caption, header, *by_role(rows, cells))


def _furthest_apart(classes: list[str], split: str, rows: dict[str, dict]) -> tuple[list[str], str]:
    """The classes that a table has room for, in their order, and words on which they are."""
    if len(classes) <= MOST_CLASSES:
        return classes, ""

    def apart(label: str) -> float:
        found = []
        for row in rows.values():
            values = [model["per_class"].get(split, {}).get(label) for model in row["models"]]
            known = [value for value in values if value is not None]
            found += [sum(known) / len(known)] if known else []
        return max(found, default=0.0) - min(found, default=0.0)

    chosen = set(sorted(classes, key=apart, reverse=True)[:MOST_CLASSES])
    which = f"; the {MOST_CLASSES} of {len(classes)} classes in which rows differ most"
    return [label for label in classes if label in chosen], which


def _mean_cell(values: Sequence[float | None]) -> Html:
    known = [value for value in values if value is not None]
    if not known:
        return tag("td", "-")
    mean = sum(known) / len(known)
    return tag("td", f"{mean:.1f}", data_value=sort_value(mean))


def metric_table(title: str, metrics: list[str], audit: dict, rows: dict[str, dict]) -> Html:
    """The means of some metrics, a line per audited row, with what Retrain runs differ by.

    A column with gaps is sorted by their size, the others by the mean.
    """
    others = [row for row in rows.values() if row["role"] != "retrain"]
    by_gap = {metric for row in others for metric, gap in row["gap"].items() if gap is not None}
    digits = {}
    for metric in metrics:
        unit = audit["metrics"].get(metric, {}).get("unit")
        digits[metric] = 2 if unit == "percent" else 3

    def cells(row: dict) -> list[Html]:
        return [_cell(row, metric, places, metric in by_gap) for metric, places in digits.items()]

    fixed, body = by_role(rows, cells)
    floors = {metric: audit["floors"].get(metric) for metric in metrics}
    if any(floor is not None for floor in floors.values()):
        numbers = [_floor_cell(metric, floors[metric], digits[metric]) for metric in metrics]
        fixed.append(tag("tr", tag("th", _floor_name(audit), scope="row"), *numbers))
    header = []
    for metric in metrics:
        words = _definition(audit, metric) + (f"; {BY_GAP}" if metric in by_gap else "")
        header.append(column(metric, words))
    return sortable(title, header, fixed, body)


def _floor_name(audit: dict) -> str:
    """Older audits do not say of how many runs their floors are: of one against one."""
    runs = audit["floors"].get("runs")
    if runs is None:
        return "Two Retrain runs differ by"
    return f"{AGAIN} ({runs:.0f} run{'s' * (runs > 1)})"


def _floor_cell(metric: str, floor: float | None, digits: int) -> Html:
    """A difference has a sign; a distance between models, or an average gap, has none."""
    if floor is None:
        return tag("td", "-")
    is_whole = is_distance(metric) or is_agreement(metric) or metric.startswith(tuple(AVERAGES))
    return tag("td", ("" if is_whole else "±") + _fixed(floor, digits))


def _cell(row: dict, metric: str, digits: int, by_gap: bool) -> Html:
    mean, deviation, gap, ends = (row[name].get(metric) for name in ("mean", "sd", "gap", "ci"))
    if mean is None:
        return tag("td", "-")
    is_retrain = row["role"] == "retrain"
    inside = bool(row["inside_noise"].get(metric)) and not is_retrain
    mark = " ~" if inside else ""
    shown = [_fixed(mean, digits)]
    if mark and gap is None:  # an average of gaps has no gap of its own
        shown.append(mark)
    if deviation is not None:
        shown.append(tag("span", f" ±{_fixed(deviation, digits)}", class_="sd"))
    if gap is not None and not is_retrain:
        shown.append(tag("span", f"({_fixed(gap, digits, '+')}){mark}", class_="gap"))
    if chance := row["chance"].get(metric):
        words = f"(chance {_fixed(chance[0], digits)} to {_fixed(chance[1], digits)})"
        shown.append(tag("span", words, class_="gap"))
    why = None
    if ends is not None:
        of = "its uncertainty" if metric.startswith("ulira_") else "the mean over seeds"
        why = f"95 % interval of {of}: {_fixed(ends[0], digits)} to {_fixed(ends[1], digits)}"
    kind = "noise" if inside else None
    place = mean if not by_gap else None if gap is None else abs(gap)
    return tag("td", *shown, class_=kind, title=why, data_value=sort_value(place))


def _fixed(number: float, digits: int, sign: str = "") -> str:
    """``digits`` after the point, unless that would show a small number as nothing."""
    is_shown = abs(number) < 1e-12 or abs(number) >= 0.5 * 10**-digits
    return f"{number:{sign}.{digits}f}" if is_shown else f"{number:{sign}.1e}"
