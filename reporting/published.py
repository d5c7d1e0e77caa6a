"""Our rows beside published ones: a verdict per cell, and why some cannot be compared.

The numbers are in recipes/published.json, by the key of a table: each with its source and the tag
of how it was seen (P: the authors' artefact, C: public code or its results, T: the table in a full
text).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.gaps import AVERAGES, ENTROPY
from evaluation.membership import rule_of
from evaluation.reproduction import (
    Error,
    average_error,
    difference_error,
    too_few_runs,
    verdict,
)
from reporting.groups import forget_sets
from reporting.rows import METRICS, values_of
from reporting.tables import Scenario
from runtime.files import load_json

FILE = Path(__file__).parent.parent / "recipes" / "published.json"
NOT_COMPARABLE = "not comparable"
RULE = (
    "reproduced: the difference is within Student's 95 % interval of seeds, here and there, and the"
    " last printed digit. Beside an average gap the interval is a bound: at least 95 %."
)
NAMES = {
    ENTROPY: "MIA (entropy)",
    **dict(zip((f"avg_gap{end}" for end in AVERAGES), ("Avg. Gap", "Gap (entropy)"), strict=True)),
}
NOT_UNLEARNING = ("retrain", "raw")  # have no budget of unlearning

# ---------------------------------------------------------------------------------- what is known


@functools.cache
def published() -> dict[str, dict]:
    """Every published table by its key."""
    return load_json(FILE, "published numbers")


def published_list() -> str:
    """The keys with a line each: what ``--published list`` prints."""
    width = max(map(len, published()))
    return "\n".join(
        f"{key:{width}}  {table['title']} [{table['tag']}]" for key, table in published().items()
    )


def _cell(table: dict, row: dict, metric: str) -> tuple[float | None, float | None, float | None]:
    """A published mean, the SD that is printed beside it, and the SD to compare by; None each
    where it is not known.
    """
    mean, sd = _parts(row, metric)
    if "sd_of" not in table:
        return mean, sd, sd
    (same, *_) = [
        other for other in published()[table["sd_of"]]["rows"] if other["label"] == row["label"]
    ] or [{"values": {}}]
    return mean, sd, _parts(same, metric)[1]


def _parts(row: dict, metric: str) -> tuple[float | None, float | None]:
    value = row["values"].get(metric)
    return tuple(value) if isinstance(value, list) else (value, None)


# ------------------------------------------------------------------------------------- comparison


def compare(scenario: Scenario, key: str) -> dict:
    """One table's rows beside those that are published under ``key``.

    Returns:
        {"title", "published", "source", "reasons", "cells", "notes"}. A cell is {"method",
        "version", "metric", "here", "here_sd", "runs", "there", "there_sd", "trials",
        "difference", "verdict"}; ``reasons`` say what sets the whole table apart, and then no cell
        has another verdict than that.
    """
    table, groups = published()[key], scenario.groups
    rows = {row["name"]: row for row in scenario.table["rows"]}
    retrain = next((groups[name] for name, row in rows.items() if row["is_retrain"]), [])
    reasons = _table_reasons(table["protocol"], groups, retrain)
    cells, met = [], set()
    for theirs in table["rows"]:
        for name, group in groups.items():
            if group[0]["label"] == theirs["label"] and _is_whole(rows[name], group):
                met.add(theirs["label"])
                cells += _cells(table, theirs, rows[name], (group, retrain), reasons)
    return {
        "title": scenario.table["title"],
        "published": key,
        "source": f"{table['source']} [{table['tag']}]",
        "reasons": reasons,
        "cells": cells,
        "notes": [
            *table["notes"],
            *_left_out(table["rows"], groups, met),
            *(note for note in scenario.table["notes"] if not note.startswith("~")),
        ],
    }


def _is_whole(row: dict, group: Sequence[dict]) -> bool:
    """Not a Retrain of another recipe, which stands among the methods."""
    return row["is_retrain"] or group[0]["method"] != "retrain"


def _left_out(theirs: Sequence[dict], groups: Mapping[str, list[dict]], met: set) -> list[str]:
    labels = list(dict.fromkeys(row["label"] for row in theirs if row["label"] not in met))
    ours = dict.fromkeys(group[0]["label"] for group in groups.values())
    here = [label for label in ours if label not in met]
    lines = []
    if labels:
        lines.append(f"Published and not run here: {', '.join(labels)}.")
    if here:
        lines.append(f"Run here and not published there: {', '.join(here)}.")
    return lines


def _cells(
    table: dict,
    theirs: dict,
    row: dict,
    runs: tuple[list[dict], list[dict]],
    reasons: Sequence[str],
) -> list[dict]:
    """The cells of one published row beside one of ours."""
    cells = []
    for metric in theirs["values"]:
        there, there_sd, _ = _cell(table, theirs, metric)
        here = row[metric]
        known = here is not None and math.isfinite(here)
        difference = here - there if known else None
        cells.append(
            {
                "method": row["name"],
                "version": theirs.get("version", ""),
                "metric": NAMES.get(metric, metric),
                "here": here,
                "here_sd": row.get(f"{metric}_std"),
                "runs": row["runs"],
                "there": there,
                "there_sd": there_sd,
                "trials": table["protocol"].get("trials"),
                "difference": difference,
                "verdict": _verdict(table, theirs, metric, runs, (difference, reasons)),
            }
        )
    return cells


def _verdict(
    table: dict,
    theirs: dict,
    metric: str,
    runs: tuple[list[dict], list[dict]],
    known: tuple[float | None, Sequence[str]],
) -> str:
    difference, reasons = known
    if reasons:
        return NOT_COMPARABLE
    if reason := _cell_reason(table["protocol"], metric, runs, difference):
        return f"{NOT_COMPARABLE}: {reason}"
    return verdict(difference, _error(table, theirs, metric, runs))


# ---------------------------------------------------------------------------------------- reasons


def _table_reasons(
    protocol: dict, groups: Mapping[str, list[dict]], retrain: list[dict]
) -> list[str]:
    """What sets all of our rows apart from the published ones: data, forget set, budget."""
    runs = [run for group in groups.values() for run in group]
    data = runs[0]["data"]
    forget, retained = data["forget"], data["sizes"]["retain"]
    recorded = (run.get("original_recipe") for run in runs)
    recipe = next(filter(None, recorded), {})  # what Retrain would take over
    if retrain:
        recipe = {**retrain[0]["hyperparameters"], **(retrain[0].get("recipe") or {})}
    sets = len(forget_sets(runs))
    facts = (
        ("dataset", "data set", data["dataset"]),
        ("arch", "architecture", data["arch"]),
        ("kind", "what is forgotten", forget["kind"]),
        ("share", "percent forgotten", round(100 * forget["count"] / (forget["count"] + retained))),
        ("forget", "images forgotten", forget["count"]),
        ("training_images", "training images", forget["count"] + retained),
        ("epochs", "epochs of Retrain", recipe.get("unlearn_epochs")),
        ("schedule", "schedule of Retrain", recipe.get("schedule")),
        ("forget_sets", "forget sets", "one" if sets == 1 else "several"),
    )
    reasons = []
    for name, words, here in facts:
        there = protocol.get(name)
        if there is not None and here is not None and here != there:
            reasons.append(f"{words} {here}, there {there}")
    return reasons


def _cell_reason(
    protocol: dict,
    metric: str,
    runs: tuple[list[dict], list[dict]],
    difference: float | None,
) -> str | None:
    """Why one cell has no verdict; None where it has one."""
    group, retrain = runs
    budget = protocol.get("unlearn_epochs")
    here = group[0]["hyperparameters"].get("unlearn_epochs")
    if group[0]["method"] not in NOT_UNLEARNING and None not in (budget, here) and here != budget:
        return f"{here} epochs of unlearning, there {budget}"
    if reason := too_few_runs(len(group)):
        return reason
    if metric in NAMES and metric != ENTROPY and (reason := too_few_runs(len(retrain))):
        return f"{reason}, of Retrain"
    if metric in ("MIA", "avg_gap") and retrain and rule_of(group[0]) != rule_of(retrain[0]):
        return "its MIA is by another rule than Retrain's"
    if difference is None and metric in (ENTROPY, "avg_gap_entropy"):
        return "its MIA is the entropy attack's share of members, which these results do not record"
    return "not known here" if difference is None else None


# ----------------------------------------------------------------------------------------- errors


def _error(table: dict, theirs: dict, metric: str, runs: tuple[list[dict], list[dict]]) -> Error:
    group, retrain = runs
    if metric in (*METRICS, ENTROPY):
        return _metric_error(table, theirs, metric, group)
    reference = next(row for row in table["rows"] if row["label"] == "Retrain")
    return average_error(
        [
            (
                _metric_error(table, theirs, name, group),
                _metric_error(table, reference, name, retrain),
            )
            for name in AVERAGES[metric.removeprefix("avg_gap")]
        ]
    )


def _metric_error(table: dict, theirs: dict, metric: str, group: list[dict]) -> Error:
    sd = _cell(table, theirs, metric)[2]
    return difference_error(values_of(group, metric), sd, table["protocol"].get("trials"))
