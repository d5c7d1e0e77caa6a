"""Audits of saved models: every audit.json, checked and reduced to what is shown."""

from collections.abc import Sequence
from pathlib import Path

from evaluation.gaps import AVERAGES, FEWEST
from reporting.json_values import (
    by_name,
    each,
    encodable,
    finite_numbers,
    flag,
    interval,
    number,
    text,
)
from reporting.results import AUDIT, find, unless_gone
from reporting.tables import scenario_of
from runtime.files import load_json, reading

REMEDY = "run evaluate.py again, or move the file away"


def read_audits(folders: Sequence[Path]) -> list[dict]:
    """Every audit.json below ``folders``.

    Returns:
        Dictionaries with "data", "metrics" {name: {"unit", "good", "text"}}, "rows", "floors"
        {metric: number}, "warnings", "attack" and "provenance". A row is {"label", "role",
        "models", "mean", "sd", "ci", "chance", "gap", "inside_noise", "warnings"}, its models
        {"weights_sha256", "seed", "chance", "per_class", "curves"}.

    Raises:
        UserError: one line that names the damaged file.
    """
    audits = []
    for file in find(folders, AUDIT):
        content = unless_gone(file, lambda path: load_json(path, "audit"))
        if content is None:
            continue
        with reading(file, "audit", REMEDY):
            audits.append(_audit(content))
    return audits


def _audit(content: dict) -> dict:
    encodable(content)
    scenario_of(content)
    models = each(content["models"], _model)
    rows = each(content["rows"], lambda row: _row(row, models))
    if sum(len(row["models"]) for row in rows) > len(models):
        raise ValueError("its rows list a model twice")
    if sum(len(row["models"]) for row in rows if row["role"] == "retrain") < FEWEST:
        for row in rows:
            row["inside_noise"] = {}  # older audits marked gaps to two Retrain models
    return {
        "data": content["data"],
        "metrics": by_name(content["metrics"], _definition),
        "rows": rows,
        "floors": by_name(content.get("floors", {}), number),
        "warnings": each(content.get("warnings", []), text),
        "attack": _attack(content.get("attack") or {}),
        "provenance": by_name(content["provenance"], lambda value: value),
    }


def _attack(entry: dict) -> dict:
    """The rule of the attack's draw, as :func:`evaluation.membership.rule_of` reads it."""
    rule = {}
    for name in ("members", "seeded_by"):
        if entry.get(name) is not None:
            rule[name] = text(entry[name])
    if "draws" in entry:
        rule["draws"] = int(number(entry["draws"]))
    return rule


def _definition(entry: dict) -> dict:
    good = entry["good"]
    return {
        "unit": text(entry["unit"]),
        "good": good if isinstance(good, str) else number(good),
        "text": text(entry["text"]),
    }


def _model(model: dict) -> dict:
    curves = model.get("curves") or {}
    return {
        "weights_sha256": text(model["weights_sha256"]),
        "seed": model.get("seed"),
        "chance": by_name(model.get("chance") or {}, interval),
        "per_class": by_name(model.get("per_class") or {}, lambda split: by_name(split, number)),
        "curves": {
            "histograms": by_name(curves.get("histograms") or {}, _histogram),
            "roc": by_name(curves.get("roc") or {}, lambda curve: _columns(curve, ["fpr", "tpr"])),
            "relearn": _relearn(curves["relearn"]) if curves.get("relearn") else None,
        },
    }


def _row(row: dict, models: list[dict]) -> dict:
    """Averages over metrics, which a row keeps beside its "mean", are shown as metrics."""
    mean = {**row.get("mean", {})}
    for end in AVERAGES:
        for name in (f"gap_of_means{end}", f"mean_paired_gap{end}"):
            if row.get(name) is not None:
                mean[name] = row[name]
    return {
        "label": text(row["label"]),
        "role": text(row["role"]),
        "models": each(row["models"], lambda position: _at(models, position)),
        "mean": by_name(mean, number),
        "sd": by_name(row.get("sd", {}), number),
        "gap": by_name(row.get("gap", {}), number),
        "ci": by_name(row.get("ci", {}), interval),
        "chance": by_name(row.get("chance", {}), interval),
        "inside_noise": by_name(row.get("inside_noise", {}), flag),
        "warnings": each(row.get("warnings", []), text),
    }


def _at(models: list[dict], position: object) -> dict:
    if not isinstance(position, int) or position < 0:
        raise TypeError(f"{position!r:.40} is no position")
    return models[position]


def _histogram(entry: dict) -> dict:
    histogram = {name: finite_numbers(entry[name]) for name in ("edges", "forget", "held_out")}
    edges, forget, held_out = map(len, histogram.values())
    if not edges - 1 == forget == held_out > 0:
        raise ValueError("a histogram needs one edge more than shares")
    return histogram


def _relearn(entry: dict) -> dict:
    optional = [name for name in ("sd", "never_seen") if entry.get(name) is not None]
    return _columns(entry, ["steps", "accuracy", *optional])


def _columns(entry: dict, names: Sequence[str]) -> dict[str, list[float]]:
    columns = {name: finite_numbers(entry[name]) for name in names}
    if len(set(map(len, columns.values()))) != 1:
        raise ValueError(f"{', '.join(names)} are of different lengths")
    return columns
