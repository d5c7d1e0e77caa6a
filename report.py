"""Result files -> one table: how close did each method come to Retrain?

    python report.py DIR... [--format {text,markdown,csv,json}]

Reads every *result.json below each DIR. A row is a method with its hyper-parameters, averaged over its runs (mean and
sample standard deviation where there are several). Beside each metric stands its signed gap to Retrain; Avg. Gap is the
mean of the four absolute gaps between means, in percentage points: lower is better.
"""

import argparse
import csv
import io
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from arg_parser import Parser
from utils import UserError, load_json, script

METRICS = ("UA", "RA", "TA", "MIA")


@script
def main(argv: list[str]) -> None:
    parser = Parser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dirs", metavar="DIR", nargs="+", type=Path, help="folders to search for *result.json")
    parser.add_argument("--format", default="text", choices=FORMATS, help="default: %(default)s")
    args = parser.parse_args(argv)
    print(FORMATS[args.format](tables(args.dirs)))


def tables(folders: Sequence[Path]) -> list[dict]:
    """A table for each scenario among the results below ``folders``; a file stands for itself."""
    return [summarise(scenario, runs) for scenario, runs in sorted(by_scenario(collect(folders)).items())]


def collect(folders: Sequence[Path]) -> list[dict]:
    """The unlearning results below ``folders``, each file once.

    Raises:
        UserError: a folder does not exist, a file is damaged, or there is no result at all.
    """
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder}: no such folder")
    files = {file.resolve() for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("*result.json"))}
    results = [result for file in sorted(files) if (result := _read(file)) is not None]
    if not results:
        raise UserError(f"no unlearning result in {', '.join(map(str, folders))}; main_forget.py and main_random.py write them")
    return results


def _read(file: Path) -> dict | None:
    """One unlearning result with all that a row needs; None for the record of another step."""
    result = load_json(file, "result")
    try:
        if not set(METRICS) <= result.get("metrics", {}).keys():
            return None
        scenario = _scenario(result)
        if [type(part) for part in scenario] != [str, str, str, int, int, str]:
            raise TypeError(f"data is {scenario}")
        hash(_pair_key(result))
        as_text([summarise(scenario, [result])])
    except KeyError as error:
        raise UserError(f"result {file} lacks {error}; run its method again with --overwrite, or move the file away") from None
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"result {file} is damaged: {error}; run its method again with --overwrite, or move the file away") from None
    return result


def by_scenario(results: list[dict]) -> dict[tuple, list[dict]]:
    """Runs that may stand in one table: same images, architecture and kind of forget set."""
    scenarios = defaultdict(list)
    for result in results:
        scenarios[_scenario(result)].append(result)
    return scenarios


def _scenario(run: dict) -> tuple:
    data, forget = run["data"], run["data"]["forget"]
    what = f"class {forget['class']}" if forget["kind"] == "class" else forget["kind"]
    return data["dataset"], data["arch"], what, forget["count"], data["sizes"]["retain"], data["data_sha256"]


def summarise(scenario: tuple, runs: list[dict]) -> dict:
    """One table: ``{"title", "rows", "notes"}``, rows sorted with Retrain first and then by Avg. Gap."""
    groups = defaultdict(list)
    for run in runs:
        groups[_row_key(run)].append(run)
    retrains = [group for group in groups.values() if _is_retrain(group[0])]
    retrain = max(retrains, key=len, default=[])
    names = _row_names(list(groups.values()))
    rows = [_row(name, group, retrain) for name, group in zip(names, groups.values(), strict=True)]
    rows.sort(key=lambda row: (not row["is_retrain"], row["avg_gap"] if row["avg_gap"] is not None else 0, row["name"]))
    dataset, arch, what, count, retained, images = scenario
    share = 100 * count / (count + retained)
    title = f"{dataset} ({images[:8]}), {arch}: forget {count} training images ({share:.0f} %, {what})"
    return {"title": title, "rows": rows, "notes": _notes(runs, retrain, len(retrains))}


def _is_retrain(run: dict) -> bool:
    """What gaps are measured against: all weights, trained on all that is retained."""
    return run["method"] == "retrain" and not run.get("mask") and "retain_fraction" not in (run.get("recipe") or {})


def _row_key(run: dict) -> str:
    density = round(run["mask"]["density"], 6) if run.get("mask") else None
    return json.dumps([run["label"], run["hyperparameters"], run.get("recipe"), density, run.get("attack")], sort_keys=True)


def _row_names(groups: list[list[dict]]) -> list[str]:
    """The labels, with what sets them apart where one label has several rows."""
    settings = []
    for group in groups:
        run = group[0]
        mask = {"mask": round(run["mask"]["density"], 6)} if run.get("mask") else {}
        settings.append({**run["hyperparameters"], **(run.get("recipe") or {}), **mask, **(run.get("attack") or {})})
    labels = [group[0]["label"] for group in groups]
    names = []
    for label, mine in zip(labels, settings, strict=True):
        others = [other for name, other in zip(labels, settings, strict=True) if name == label]
        differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
        names.append(label + (" (" + ", ".join(f"{key} {mine[key]}" for key in differing) + ")" if differing else ""))
    return names


def _row(name: str, group: list[dict], retrain: list[dict]) -> dict:
    columns = {metric: [run["metrics"][metric] for run in group] for metric in METRICS}
    columns["RTE"] = [run["RTE"]["total"] for run in group]
    row = {"name": name, "runs": len(group), "is_retrain": bool(retrain) and group is retrain}
    for metric, values in columns.items():
        row[metric] = statistics.fmean(values)
        row[f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
    if retrain:
        gaps = {metric: row[metric] - statistics.fmean(run["metrics"][metric] for run in retrain) for metric in METRICS}
    else:
        gaps = dict.fromkeys(METRICS)
    row |= {f"{metric}_gap": gap for metric, gap in gaps.items()}
    row["avg_gap"] = statistics.fmean(map(abs, gaps.values())) if retrain else None
    row["mean_paired_gap"] = _paired_gap(group, retrain)
    return row


def _paired_gap(group: list[dict], retrain: list[dict]) -> float | None:
    """The mean over runs of the mean absolute difference to the Retrain of the same forget set and seed."""
    partners = {_pair_key(run): run for run in retrain}
    gaps = [
        statistics.fmean(abs(run["metrics"][metric] - partners[_pair_key(run)]["metrics"][metric]) for metric in METRICS)
        for run in group
        if _pair_key(run) in partners
    ]
    return statistics.fmean(gaps) if gaps else None


def _pair_key(run: dict) -> tuple:
    return run["data"]["forget"]["sha256"], run["provenance"]["seed"]


def _notes(runs: list[dict], retrain: list[dict], kinds: int) -> list[str]:
    notes = []
    if not retrain:
        notes.append(
            "No Retrain result: how close a method came is not known. Run main_forget.py --unlearn retrain on the same forget set."
        )
    if kinds > 1:
        notes.append(f"{kinds} kinds of Retrain; the gaps are to the one with most runs.")
    sets = {run["data"]["forget"]["sha256"] for run in runs}
    if len(sets) > 1:
        notes.append(f"The runs cover {len(sets)} forget sets.")
    notes += sorted({f"{run['label']}: {message}" for run in runs for message in run.get("warnings", [])})
    return notes


# -------------------------------------------------------------------------------------------------------- formats


def _cells(row: dict) -> list[str]:
    cells = [row["name"]]
    for metric in METRICS:
        spread = "" if row[f"{metric}_std"] is None else f"±{row[f'{metric}_std']:.2f}"
        gap = row[f"{metric}_gap"]
        beside = "" if gap is None or row["is_retrain"] else f" ({gap:+.2f})"
        cells.append(f"{row[metric]:.2f}{spread}{beside}")
    cells.append("-" if row["avg_gap"] is None else f"{row['avg_gap']:.2f}")
    spread = "" if row["RTE_std"] is None else f"±{row['RTE_std']:.1f}"
    return [*cells, f"{row['RTE']:.1f}{spread}", str(row["runs"])]


HEADER = ["method", *METRICS, "Avg. Gap", "RTE (s)", "runs"]


def as_text(tables: list[dict]) -> str:
    """Aligned columns for a terminal."""
    parts = []
    for table in tables:
        lines = [HEADER, *map(_cells, table["rows"])]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts.append(table["title"])
        for line in lines:
            first, *rest = (
                cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            parts.append("  ".join([first, *rest]))
        parts += ["In brackets: signed gap to Retrain. Percent; closer to Retrain is better.", *table["notes"], ""]
    return "\n".join(parts).rstrip()


def as_markdown(tables: list[dict]) -> str:
    """One Markdown table per scenario."""
    parts = []
    for table in tables:
        parts += [f"**{table['title']}**", "", "| " + " | ".join(HEADER) + " |", "|---" + "|---:" * (len(HEADER) - 1) + "|"]
        parts += ["| " + " | ".join(_cells(row)) + " |" for row in table["rows"]]
        parts += ["", *(f"{note}\n" for note in table["notes"])]
    return "\n".join(parts).rstrip()


def as_csv(tables: list[dict]) -> str:
    """Every number of every row, one line each."""
    out = io.StringIO()
    writer = csv.DictWriter(out, ["scenario", *tables[0]["rows"][0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"scenario": table["title"], **row} for table in tables for row in table["rows"])
    return out.getvalue().rstrip()


def as_json(tables: list[dict]) -> str:
    """The tables as they are."""
    return json.dumps(tables, indent=1)


FORMATS = {"text": as_text, "markdown": as_markdown, "csv": as_csv, "json": as_json}


if __name__ == "__main__":
    sys.exit(main())
