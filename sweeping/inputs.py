"""Whether a plan's finished runs are of what its files hold now: a file of the same name may have
other content.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from datasets import load_dataset
from runtime.files import hash_arrays, load, load_json, save_json
from sweeping.plan import Run
from sweeping.runs import DONE, state_of
from utils import UserError

RECORD = "inputs.json"
EMBEDDED = ("digits", "fashion_mini")  # part of scikit-learn and of this project
MOST_FILES = 2000  # of a folder of images; beyond it the folders' own times stand for their files


FILES = ("model_path", "mask_path", "indexes_to_replace", "leave_out")  # flags that name a file


def check_inputs(runs: Sequence[Run], root: Path) -> None:
    """Refuse a sweep whose finished runs were made of other images, models, masks or lists than the
    plan's files hold now.

    inputs.json keeps what the files looked like (size, times of the last change, inode) and the
    hash of their content, which is taken anew only when one of these changes.

    Raises:
        UserError: a finished run's images are others, or another file of a finished run has
            changed.
    """
    known = load_json(root / RECORD, "record") if (root / RECORD).is_file() else {}
    found = {}
    for key, using in _by_file(runs).items():
        file = Path(key.removeprefix("file|"))
        looks, before = appearance(file), known.get(key, {})
        sha256 = before["sha256"] if before.get("looks") == looks else _content(file)
        finished = [run for run in using if state_of(run, root) == DONE]
        if before.get("sha256", sha256) != sha256 and finished:
            raise _other_inputs(f"{file} has another content", finished, root)
        found[key] = {"looks": looks, "sha256": sha256}
    for key, using in _by_data(runs).items():
        name, data, size = key.split("|")
        looks = appearance(Path(data))
        before = known.get(key, {})
        if before.get("looks") == looks:
            found[key] = before
            continue
        finished = [run for run in using if state_of(run, root) == DONE]
        images = (
            load_dataset(name, data, input_size=int(size) if size else None) if finished else None
        )
        hashes = (
            {"data_sha256": images.sha256(), "test_sha256": images.test_sha256()} if images else {}
        )
        _refuse_others(finished, root, hashes, data)
        found[key] = {"looks": looks, **hashes}
    if found != known:
        save_json(found, root / RECORD)


def _by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that name a data set of the user's, by 'dataset|path|input size'; those that take it
    from their original are left out.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        name, data = run.settings.get("dataset"), run.settings.get("data", "data")
        if name is not None and name not in EMBEDDED and Path(data).exists():
            found.setdefault(f"{name}|{data}|{run.settings.get('input_size') or ''}", []).append(
                run
            )
    return found


def appearance(path: Path) -> str:
    """A hash over size, times of the last change and inode of a file, or of a folder's parts."""
    stats = [os.stat(path)]
    for count, (folder, _, files) in enumerate(sorted(os.walk(path))):
        stats.append(os.stat(folder))
        if count + len(stats) + len(files) < MOST_FILES:
            stats += [os.stat(Path(folder) / file) for file in sorted(files)]
    words = " ".join(
        f"{each.st_size} {each.st_mtime_ns} {each.st_ctime_ns} {each.st_ino}" for each in stats
    )
    return hashlib.sha256(words.encode()).hexdigest()


def _by_file(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that name a file which is there: a model, a mask or a list; those of other runs of
    the plan have no name before them.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        for flag in FILES:
            file = str(run.settings.get(flag) or "").removeprefix("@")
            if flag == "mask_path" and os.path.isdir(file):
                file = os.path.join(file, f"with_{run.settings.get('mask_ratio')}.pt")
            if os.path.isfile(file):
                found.setdefault(f"file|{file}", []).append(run)
    return found


def _content(file: Path) -> str:
    """A hash of a model's weights or of a mask, or else of a file's bytes."""
    if file.suffix not in (".tar", ".pt", ".pth"):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    content = load(file, "file")
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    return hash_arrays(
        {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    )


def _refuse_others(finished: Sequence[Run], root: Path, hashes: dict[str, str], data: str) -> None:
    def is_other(run: Run) -> bool:
        theirs = load_json(root / run.name / run.result, "result")["data"]
        return any(theirs.get(name, sha256) != sha256 for name, sha256 in hashes.items())

    if others := [run for run in finished if is_other(run)]:
        raise _other_inputs(f"{data} holds other images", others, root)


def _other_inputs(what: str, others: Sequence[Run], root: Path) -> UserError:
    where = root / others[0].name
    return UserError(
        f"{what} now than {len(others)} finished runs were made of ({where}); give the plan another"
        " folder, or put it back"
    )
