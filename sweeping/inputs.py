"""Whether a plan's finished runs are of the images that its files hold now: a file of the same name may have other content."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from datasets import load_dataset
from sweeping.plan import Run
from sweeping.runs import DONE, state_of
from utils import UserError, load_json, save_json

RECORD = "inputs.json"
EMBEDDED = ("digits", "fashion_mini")  # part of scikit-learn and of this project
MOST_FILES = 2000  # of a folder of images; beyond it the folders' own times stand for their files


def check_inputs(runs: Sequence[Run], root: Path) -> None:
    """Refuse a sweep whose finished runs were made of other images than the plan's data sets hold now.

    inputs.json keeps what the files looked like (size, time of the last change, inode) and the hash of the images, which is taken
    anew only when one of these changes.

    Raises:
        UserError: a finished run's data_sha256 is another one.
    """
    known = load_json(root / RECORD, "record") if (root / RECORD).is_file() else {}
    found = {}
    for key, using in _by_data(runs).items():
        name, data, size = key.split("|")
        looks = appearance(Path(data))
        before = known.get(key, {})
        if before.get("looks") == looks:
            found[key] = before
            continue
        finished = [run for run in using if state_of(run, root) == DONE]
        sha256 = load_dataset(name, data, input_size=int(size) if size else None).sha256() if finished else None
        _refuse_others(finished, root, sha256, data)
        found[key] = {"looks": looks, "data_sha256": sha256}
    if found != known:
        save_json(found, root / RECORD)


def _by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that name a data set of the user's, by 'dataset|path|input size'; those that take it from their original are left out."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        name, data = run.settings.get("dataset"), run.settings.get("data", "data")
        if name is not None and name not in EMBEDDED and Path(data).exists():
            found.setdefault(f"{name}|{data}|{run.settings.get('input_size') or ''}", []).append(run)
    return found


def appearance(path: Path) -> str:
    """A hash over size, time of the last change and inode of a file, or of a folder's parts."""
    stats = [os.stat(path)]
    for count, (folder, _, files) in enumerate(sorted(os.walk(path))):
        stats.append(os.stat(folder))
        if count + len(stats) + len(files) < MOST_FILES:
            stats += [os.stat(Path(folder) / file) for file in sorted(files)]
    words = " ".join(f"{each.st_size} {each.st_mtime_ns} {each.st_ino}" for each in stats)
    return hashlib.sha256(words.encode()).hexdigest()


def _refuse_others(finished: Sequence[Run], root: Path, sha256: str | None, data: str) -> None:
    others = [run.name for run in finished if sha256 != load_json(root / run.name / run.result, "result")["data"]["data_sha256"]]
    if others:
        raise UserError(
            f"{data} holds other images now than {len(others)} finished runs were made of ({root / others[0]}); "
            "give the plan another folder, or put the images back"
        )
