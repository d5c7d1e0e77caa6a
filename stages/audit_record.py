"""An audit that is there: whether it is of the same inputs, and what the terminal is told of it."""

from pathlib import Path

from evaluation.gaps import AVERAGED, IN_AUDIT
from evaluation.membership import draws_line
from evaluation.metrics import define
from reporting.attacks import ulira_cells
from runtime import distributed
from runtime.files import load_json
from stages.file_names import AUDIT
from stages.requests import AuditRequest
from stages.run_folder import free_folder
from stages.saved import Saved
from utils import UserError, warn


def inputs_of(request: AuditRequest, saved: list[Saved]) -> dict:
    """What makes two audits the same: the models, in any order, and the flags that numbers depend
    on.
    """
    names = ("reference", "suite", "mia_members", "relearn_steps", "relearn_lr", "relearn_seeds")
    flags = {name: getattr(request, name) for name in (*names, "shadows", "batch_size")}
    return flags | {"models": sorted([each.role, each.label, each.sha256] for each in saved)}


def finished(request: AuditRequest, folder: Path, inputs: dict) -> dict | None:
    """The audit that is there, where --resume asks for the same one; None where there is none.

    Raises:
        UserError: an audit is there and nothing says what to do with it, or it is of other inputs.
    """
    if request.overwrite and request.resume:
        raise UserError("--overwrite starts anew and --resume goes on; give one of them")
    file = folder / AUDIT
    if request.overwrite or not distributed.on_main(file.is_file):
        return None
    elsewhere = f"--overwrite replaces it, --save_dir {free_folder(folder)} keeps both"
    if not request.resume:
        raise UserError(f"{file} exists; --resume keeps it if it is of the same, {elsewhere}")
    found = load_json(file, "audit")
    if differing := [name for name in inputs if found.get("inputs", {}).get(name) != inputs[name]]:
        raise UserError(f"--resume: {file} was made with other {', '.join(differing)}; {elsewhere}")
    print(f"finished already; {file} says")
    say(request, found, file)
    return found


def say(request: AuditRequest, found: dict, file: Path) -> None:
    """One line for each row, and what else the terminal is told."""
    for row in found["rows"]:
        print(line_of(row))
        if cells := ulira_cells(row):
            print("  " + ", ".join(f"{words} {cell}" for words, cell in cells.items()))
    for message in found["warnings"]:
        warn(message)
    print(draws_line(found["attack"]))
    print(
        f"RESULT audit={file} suite={request.suite} models={len(found['models'])}"
        f" rows={len(found['rows'])}"
    )


def line_of(row: dict) -> str:
    """A row for the terminal; report.py has them all."""
    shown = {IN_AUDIT.get(name, name): name for name in AVERAGED}
    shown |= {"loss_auc": "AUC", "rmia_auc": "RMIA", "js_forget": "JS"}
    cells = [f"{row['label']} ({len(row['models'])})"]
    for name, short in shown.items():
        if name in row["mean"]:
            digits = 2 if define(name).scale.unit == "percent" else 3
            cells.append(f"{short} {row['mean'][name]:.{digits}f}")
    if "gap_of_means" in row:
        entropy = row["gap_of_means_entropy"]
        cells.append(f"Avg. Gap {row['gap_of_means']:.2f} (entropy {entropy:.2f})")
    return "  ".join([*cells, *(f"[{text}]" for text in row["warnings"])])
