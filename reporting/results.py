"""Result files -> checked records.

Reports read folders of unknown origin, so a record is checked by using it once: whatever fails is
refused by the name of its file.
"""

import fnmatch
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reporting.json_values import LARGEST, each, encodable, number
from reporting.notes import original_standing, standing_of
from reporting.rows import METRICS, pair_key
from reporting.tables import scenario_of, summarise
from runtime.files import load_json
from stages.file_names import AUDIT, MASK_RECORD, TRAIN_RESULT
from unlearn import label_today
from utils import UserError, printable, warn

# Where evaluate.py --suite full keeps the runs on its shadow models. They are no rows of a table:
# each forgot other images.
OF_SHADOWS = re.compile(r"(^|/)shadows/shadow\d+/[^/]+-[0-9a-f]{8}/")


def find(folders: Sequence[Path], pattern: str) -> list[Path]:
    """The files below or among ``folders`` that match ``pattern``, each once, sorted.

    The runs on shadow models are left out, unless one of ``folders`` is their own folder or lies
    within it.

    Raises:
        UserError: a folder does not exist.
    """
    found = set()
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder}: no such folder")
        if folder.is_file() and (folder.name == AUDIT) == (pattern == AUDIT):
            found.add(folder.resolve())
        for file in _below(folder, pattern):
            if not OF_SHADOWS.search(file.relative_to(folder).as_posix()):
                found.add(file.resolve())
    return sorted(found)


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    """The files below a folder that match; symbolic links are followed, each folder once."""
    seen = set()
    for where, inside, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            inside.clear()
            continue
        seen.add(real)
        yield from (Path(where) / name for name in fnmatch.filter(files, pattern))


def collect(folders: Sequence[Path]) -> list[dict]:
    """The unlearning results below ``folders``, each once and with its path under "file".

    Files of one content are copies, of which the first counts; a warning gives their number.

    Raises:
        UserError: a folder does not exist, or a file is damaged.
    """
    found, copies = {}, []
    for file in find(folders, "*result.json"):
        if (result := unless_gone(file, _read)) is not None:
            content = json.dumps(result, sort_keys=True)
            if content in found:
                copies.append(file)
            found.setdefault(content, {**result, "file": file})
    if copies:
        results = "1 result is a copy" if len(copies) == 1 else f"{len(copies)} results are copies"
        warn(f"{results} of others and count once: {printable(str(copies[0]))}")
    return list(found.values())


def unless_gone(file: Path, read: Callable[[Path], Any]) -> Any | None:
    """What ``read`` makes of a file; None where a running job has deleted it.

    A file that cannot be read but exists is read once more: a job may be replacing it.
    """
    try:
        return read(file)
    except UserError:
        return read(file) if file.exists() else None


def _read(file: Path) -> dict | None:
    """One unlearning result with all that a row needs; None for the record of another step."""
    result = load_json(file, "result")
    remedy = "run its method again with --overwrite, or move the file away"
    try:
        if file.name in (TRAIN_RESULT, MASK_RECORD):
            return None
        if result.get("schema", 1) > 1:
            raise UserError(f"result {file} is of a later version of this project; update it")
        if not {"method", "metrics"} & result.keys():
            warn(f"{printable(str(file))} is no unlearning result and is left out")
            return None
        _check(result)
    except KeyError as error:
        raise UserError(f"result {file} lacks {error}; {remedy}") from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"result {file} is damaged: {error}; {remedy}") from None
    return result


def _check(result: dict) -> None:
    """Raise unless ``result`` makes a row; null metrics become NaN, the label today's."""
    metrics = result["metrics"]
    if missing := set(METRICS) - metrics.keys():
        raise KeyError(min(missing))
    for name, value in metrics.items():
        metrics[name] = math.nan if value is None else value  # the accuracy of an empty test set
    for value in (*metrics.values(), result["RTE"]["total"]):
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise ValueError(f"a number in it is larger than {LARGEST:.0e}")
    for name in METRICS:
        if not (math.isnan(metrics[name]) or 0 <= metrics[name] <= 100):
            raise ValueError(f"{name} is {metrics[name]}, a percentage is between 0 and 100")
    mask, label = result.get("mask"), result["label"]
    if not isinstance(label, str):
        raise TypeError(f"label is {label!r}")
    score = mask.get("score") if mask else None
    result["label"] = label_today(result["method"], label, bool(mask), score)
    encodable(result)
    scenario = scenario_of(result)
    hash(pair_key(result))
    (row,) = summarise(scenario, [result])["rows"]
    row["name"] + "".join(f"{row[metric]:.2f}" for metric in (*METRICS, "RTE"))
    _check_optional(result)


def _check_optional(result: dict) -> None:
    """Raise unless what only tables of several, or the page, use is absent or of the right kind."""
    draws = (result.get("attack") or {}).get("MIA")
    if isinstance(draws, list):
        each(draws, number)
    origin = result["provenance"]
    command, weights = origin.get("command", []), origin.get("unlearned_sha256", "")
    if not isinstance(command, list) or not isinstance(weights, str):
        raise TypeError("the command is no list, or the hash of the weights no text")
    for standing in filter(None, (standing_of(result), original_standing(result))):
        known = [value for value in standing if value is not None]
        if standing.accuracy is None or not all(isinstance(value, int | float) for value in known):
            raise TypeError(f"a standing holds {tuple(standing)}")
    mask = result.get("mask") or {}
    for name, share in (mask.get("layers") or {}).items():
        if not 0 <= share <= 1:
            raise ValueError(f"layer {name} of the mask has a density of {share}")
    for name, count in (mask.get("weights") or {}).items():
        if type(count) is not int or not 0 < count <= LARGEST:
            raise ValueError(f"layer {name} of the mask has {count!r:.40} weights")
