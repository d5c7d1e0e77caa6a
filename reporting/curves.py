"""What each epoch of a run recorded: METHODcurve.jsonl beside its result."""

import dataclasses
import json
from pathlib import Path

from reporting.json_values import number, text
from reporting.results import unless_gone
from reporting.tables import Scenario
from stages.file_names import CURVE, RESULT
from utils import UserError

MOST_EPOCHS = 1e9  # ticks of axes are whole numbers, which numpy has up to 2**63


def with_curves(scenario: Scenario) -> Scenario:
    """``scenario`` with ``curves``: by the name of a row a list of epochs for each run that
    recorded them; an epoch is {"epoch": number, "loss", "accuracy", ...: number or None}.

    Raises:
        UserError: one line that names the damaged file.
    """
    curves = {}
    for name, runs in scenario.groups.items():
        known = []
        for run in runs:
            result = run["file"]
            file = result.with_name(result.name.removesuffix(RESULT) + CURVE)
            if file.is_file() and (curve := unless_gone(file, _curve)):
                known.append(curve)
        if known:
            curves[name] = known
    return dataclasses.replace(scenario, curves=curves)


def _curve(file: Path) -> list[dict]:
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        epochs = [{text(name): number(value) for name, value in line.items()} for line in lines]
        for epoch in epochs:
            if epoch["epoch"] is None:
                raise ValueError("an epoch without a number")
            if abs(epoch["epoch"]) > MOST_EPOCHS:
                raise ValueError(f"an epoch is numbered {epoch['epoch']:g}")
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"curve {file} is damaged ({reason[:100]}); move the file away") from None
    return epochs
