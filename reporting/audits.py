"""What stands beside the results: audits of the models (audit.json) and what each epoch of a run
left (METHODcurve.jsonl).
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evaluation.gaps import AVERAGES as GAPS
from evaluation.gaps import FEWEST
from evaluation.metrics import define
from reporting.tables import AUDIT, LARGEST, Scenario, find, scenario_of, told_apart, unless_gone
from runtime.files import load_json, reading
from utils import UserError

REMEDY = "run evaluate.py again, or move the file away"
# U-LiRA's numbers in the order and the words in which they are printed.
ULIRA = {
    "ulira_auc": "U-LiRA AUC",
    "ulira_tpr_at_fpr_1": "TPR at 1 % FPR",
    "ulira_tpr_at_fpr_0.1": "TPR at 0.1 % FPR",
    "ulira_sample_auc_median": "AUC of the median image",
    "ulira_worst_1_percent_auc": "AUC of the worst 1 %",
    "ulira_low_memorisation_auc": "AUC at low memorisation",
    "ulira_middle_memorisation_auc": "AUC at middle memorisation",
    "ulira_high_memorisation_auc": "AUC at high memorisation",
    "ulira_TA": "TA on the shadow models",
}
# Of a row over its metrics; they are shown as metrics of their own.
AVERAGES = tuple(f"{gap}{end}" for end in GAPS for gap in ("gap_of_means", "mean_paired_gap"))


def read_audits(folders: Sequence[Path]) -> list[dict]:
    """Every audit.json below ``folders``, checked and reduced to what is shown.

    Returns:
        Dictionaries with "data", "metrics" {name: {"unit", "good", "text"}}, "rows", "floors"
        {metric: number}, "warnings", "attack" and "provenance". A row is {"label", "role",
        "models", "mean", "sd", "ci", "chance", "gap", "inside_noise", "warnings"}, its models
        {"weights_sha256", "seed", "per_class", "curves"}.

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


def ulira_cells(row: dict) -> dict[str, str]:
    """What an audit's row says of U-LiRA, by the words of :data:`ULIRA`; each number with what it
    is at chance, or how sure it is.
    """
    cells = {}
    for name, words in ULIRA.items():
        if (value := row["mean"].get(name)) is None:
            continue
        end = define(name).chance
        floor = None if end is None else row["mean"].get(name + end)
        chance, ends = (row.get("chance") or {}).get(name), row["ci"].get(name)
        beside = ""
        if floor is not None:
            beside = f" (chance {floor:.3f})"
        elif chance is not None:
            beside = f" (chance {chance[0]:.3f} to {chance[1]:.3f})"
        elif ends is not None:
            beside = f" ({ends[0]:.3f} to {ends[1]:.3f})"
        cells[words] = (f"{value:.2f}" if name == "ulira_TA" else f"{value:.3f}") + beside
    return cells


def attack_numbers(
    audits: Sequence[dict], groups: dict[str, list[dict]]
) -> dict[str, dict[str, float]]:
    """By the name of a table's row what the first audit with the number says: rmia_auc with the
    ends where chance puts it, U-LiRA's.
    """
    found: dict[str, dict[str, float]] = {}
    for audit in audits:
        for name, row in named_rows(audit, groups).items():
            if name not in groups:
                continue
            mine = found.setdefault(name, {})
            ends = [model["chance"].get("rmia_auc") for model in row["models"]]
            if "rmia_auc" not in mine and "rmia_auc" in row["mean"] and None not in ends:
                low, high = (statistics.fmean(side) for side in zip(*ends, strict=True))
                mine |= {
                    "rmia_auc": row["mean"]["rmia_auc"],
                    "rmia_auc_chance_low": low,
                    "rmia_auc_chance_high": high,
                }
            mine |= {
                metric: value
                for metric in ULIRA
                if metric not in mine and (value := row["mean"].get(metric)) is not None
            }
    return found


def rmia_cells(audits: Sequence[dict], groups: dict[str, list[dict]]) -> dict[str, str]:
    """By the name of a table's row the AUC of RMIA and where chance puts it, as printed."""
    return {
        name: (
            f"{mine['rmia_auc']:.3f} ({mine['rmia_auc_chance_low']:.3f} to"
            f" {mine['rmia_auc_chance_high']:.3f})"
        )
        for name, mine in attack_numbers(audits, groups).items()
        if mine.get("rmia_auc") is not None
    }


def named_rows(audit: dict, groups: dict[str, list[dict]]) -> dict[str, dict]:
    """The audited rows by name: that of the row in the table of ``groups`` with the same weights,
    else the audit's own label.

    In the order of the table, rows without a result behind them.
    """
    name_of = {
        run["provenance"].get("unlearned_sha256"): name
        for name, runs in groups.items()
        for run in runs
    }
    found: list[tuple[str, dict]] = []
    for row in audit["rows"]:
        joined = {name_of.get(model["weights_sha256"]) for model in row["models"]}
        found.append(((joined.pop() if len(joined) == 1 else None) or row["label"], row))
    order = list(groups)
    found.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return dict(
        zip(told_apart([name for name, _ in found]), (row for _, row in found), strict=True)
    )


def with_curves(scenario: Scenario) -> Scenario:
    """``scenario`` with the epochs of each row's runs, where a METHODcurve.jsonl lies beside the
    result.

    ``curves`` holds a list of epochs per run by the row's name; an epoch is {"epoch": number,
    "loss", "accuracy", ...: number or None}.

    Raises:
        UserError: one line that names the damaged file.
    """
    curves = {}
    for name, runs in scenario.groups.items():
        files = [
            run["file"].with_name(run["file"].name.removesuffix("result.json") + "curve.jsonl")
            for run in runs
        ]
        curves[name] = [
            curve for file in files if file.is_file() if (curve := unless_gone(file, _curve))
        ]
    return dataclasses.replace(
        scenario, curves={name: mine for name, mine in curves.items() if mine}
    )


def _curve(file: Path) -> list[dict]:
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        epochs = [{_text(name): _number(value) for name, value in line.items()} for line in lines]
        if any(epoch["epoch"] is None for epoch in epochs):
            raise ValueError("an epoch without a number")
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"curve {file} is damaged ({reason[:100]}); move the file away") from None
    return epochs


# ------------------------------------------------------------------- one function per kind of entry


def _audit(content: dict) -> dict:
    json.dumps(
        content, ensure_ascii=False
    ).encode()  # half a character, which JSON can hold, could not be written anywhere
    scenario_of(content)
    models = [_model(model) for model in _list(content["models"])]
    rows = [_row(row, models) for row in _list(content["rows"])]
    if sum(len(row["models"]) for row in rows) > len(models):
        raise ValueError("its rows list a model twice")
    if sum(len(row["models"]) for row in rows if row["role"] == "retrain") < FEWEST:
        rows = [
            row | {"inside_noise": {}} for row in rows
        ]  # audits of before marked gaps to two Retrains
    return {
        "data": content["data"],
        "metrics": _by_name(content["metrics"], _definition),
        "rows": rows,
        "floors": _by_name(content.get("floors", {}), _number),
        "warnings": _each(content.get("warnings", []), _text),
        "attack": _attack(content.get("attack") or {}),
        "provenance": _by_name(content["provenance"], lambda value: value),
    }


def _attack(entry: dict) -> dict:
    """The rule of the attack's draw, as :func:`evaluation.membership.rule_of` reads it."""
    texts = {
        name: _text(entry[name]) for name in ("members", "seeded_by") if entry.get(name) is not None
    }
    return texts | ({"draws": int(_number(entry["draws"]))} if "draws" in entry else {})


def _definition(entry: dict) -> dict:
    good = entry["good"]
    return {
        "unit": _text(entry["unit"]),
        "good": good if isinstance(good, str) else _number(good),
        "text": _text(entry["text"]),
    }


def _model(model: dict) -> dict:
    curves = model.get("curves") or {}
    return {
        "weights_sha256": _text(model["weights_sha256"]),
        "seed": model.get("seed"),
        "chance": _by_name(model.get("chance") or {}, _interval),
        "per_class": _by_name(model.get("per_class") or {}, lambda split: _by_name(split, _number)),
        "curves": {
            "histograms": _by_name(curves.get("histograms") or {}, _histogram),
            "roc": _by_name(curves.get("roc") or {}, lambda curve: _columns(curve, ("fpr", "tpr"))),
            "relearn": _relearn(curves["relearn"]) if curves.get("relearn") else None,
        },
    }


def _row(row: dict, models: list[dict]) -> dict:
    averages = {name: row[name] for name in AVERAGES if row.get(name) is not None}
    return {
        "label": _text(row["label"]),
        "role": _text(row["role"]),
        "models": _each(row["models"], lambda index: models[_index(index)]),
        "mean": _by_name({**row.get("mean", {}), **averages}, _number),
        **{name: _by_name(row.get(name, {}), _number) for name in ("sd", "gap")},
        "ci": _by_name(row.get("ci", {}), _interval),
        "chance": _by_name(row.get("chance", {}), _interval),
        "inside_noise": _by_name(row.get("inside_noise", {}), _flag),
        "warnings": _each(row.get("warnings", []), _text),
    }


def _histogram(entry: dict) -> dict:
    histogram = {name: _finite(entry[name]) for name in ("edges", "forget", "held_out")}
    if (
        not len(histogram["edges"]) - 1
        == len(histogram["forget"])
        == len(histogram["held_out"])
        > 0
    ):
        raise ValueError("a histogram needs one edge more than shares")
    return histogram


def _relearn(entry: dict) -> dict:
    names = [
        name for name in ("steps", "accuracy", "sd", "never_seen") if entry.get(name) is not None
    ]
    return _columns(
        entry, ["steps", "accuracy", *(name for name in names if name in ("sd", "never_seen"))]
    )


def _columns(entry: dict, names: Sequence[str]) -> dict[str, list[float]]:
    columns = {name: _finite(entry[name]) for name in names}
    if len(set(map(len, columns.values()))) != 1:
        raise ValueError(f"{', '.join(names)} are of different lengths")
    return columns


def _finite(values: list) -> list[float]:
    numbers = _each(values, _number)
    if None in numbers:
        raise ValueError("a curve needs finite numbers")
    return numbers


def _interval(value: list | None) -> list[float] | None:
    if value is None:
        return None
    low, high = _each(value, _number)
    return None if low is None or high is None else [low, high]


def _number(value: object) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{value!r:.40} is no number")
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if abs(value) > LARGEST:
        raise ValueError(f"a number in it is larger than {LARGEST:.0e}")
    return float(value)


def _index(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r:.40} is no position")
    return value


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is neither true nor false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _list(value: object) -> list:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is no list")
    return value


def _each(values: object, read: Callable[[Any], Any]) -> list:
    return [read(value) for value in _list(values)]


def _by_name(entries: dict, read: Callable[[Any], Any]) -> dict:
    return {_text(name): read(value) for name, value in entries.items()}
