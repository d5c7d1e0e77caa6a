"""Whether a plan's files still hold what its finished runs were made of."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from datasets import load_dataset
from datasets.cache import FOLDER
from datasets.lists import file_and_column
from runtime.files import hash_arrays, load, load_json, save_json
from sweeping.expansion import Run
from sweeping.runs import DONE, state_of
from utils import UserError

RECORD = "inputs.json"
EMBEDDED = ("digits", "fashion_mini")  # data sets of scikit-learn and of this project
FILE_FLAGS = ("model_path", "mask_path", "indexes_to_replace", "leave_out", "forget")
# Files of a folder of images whose times are read; beyond it only the folders' own times count.
MOST_FILES = 2000


def check_inputs(runs: Sequence[Run], root: Path) -> None:
    """Refuse a sweep whose finished runs were made of other images, models, masks or lists than the
    plan's files hold now.

    inputs.json keeps size, times and inode of the files and a hash of their content, which is
    computed again only when one of these changes.

    Raises:
        UserError: images or another file of a finished run have changed, or a file is missing that
            no run makes.
    """
    _check_presence(runs, root)
    known = load_json(root / RECORD, "record") if (root / RECORD).is_file() else {}
    current = _check_files(runs, root, known) | _check_images(runs, root, known)
    if current != known:
        save_json(current, root / RECORD)


def _check_files(runs: Sequence[Run], root: Path, known: dict) -> dict:
    """The record's entries for models, masks and lists."""
    entries = {}
    for name, users in _by_file(runs).items():
        key, file = f"file|{name}", Path(name)
        looks, before = _appearance(file), known.get(key, {})
        sha256 = before["sha256"] if before.get("looks") == looks else _content(file)
        if before.get("sha256", sha256) != sha256 and (finished := _finished(users, root)):
            raise _changed(f"{file} has another content", finished, root)
        entries[key] = {"looks": looks, "sha256": sha256}
    return entries


def _check_images(runs: Sequence[Run], root: Path, known: dict) -> dict:
    """The record's entries for data sets; their images are compared with the runs' own results."""
    entries = {}
    for (name, data, size, fit, cache, augment), users in _by_data(runs).items():
        key, looks = f"{name}|{data}|{size or ''}", _appearance(Path(data))
        for option in (fit, augment):
            key += f"|{option}" if option else ""
        if known.get(key, {}).get("looks") == looks:
            entries[key] = known[key]
            continue
        hashes = {}
        if finished := _finished(users, root):
            read = {"input_size": size, "fit": fit, "cache": cache, "augment": augment}
            images = load_dataset(name, data, **read)
            hashes = {"data_sha256": images.sha256(), "test_sha256": images.test_sha256()}
        others = [run for run in finished if _differs(run, root, hashes)]
        if others:
            raise _changed(f"{data} holds other images", others, root)
        entries[key] = {"looks": looks, **hashes}
    return entries


def _check_presence(runs: Sequence[Run], root: Path) -> None:
    """Refuse models, masks and lists that are neither there nor in the folder of a run."""
    for run in runs:
        for flag in FILE_FLAGS:
            file = _path(flag, str(run.settings.get(flag) or ""))
            made = "{" in file or Path(file).absolute().is_relative_to(root.absolute())
            if file and not made and not os.path.exists(file):
                raise UserError(
                    f"plan: {flag} {file}: there is no such file, and no stage makes it"
                )


def _by_file(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that name an existing model, mask or list, by its path."""
    users: dict[str, list[Run]] = {}
    for run in runs:
        for flag in FILE_FLAGS:
            file = _path(flag, str(run.settings.get(flag) or ""))
            if flag == "mask_path" and os.path.isdir(file):
                file = os.path.join(file, f"with_{run.settings.get('mask_ratio')}.pt")
            if os.path.isfile(file):
                users.setdefault(file, []).append(run)
    return users


def _path(flag: str, value: str) -> str:
    """The file that a flag's value names, such as ``positions:@FILE.csv:COLUMN``."""
    if flag in ("model_path", "mask_path"):
        return value
    listed = value if value.startswith("@") else value.partition(":@")[2]
    return str(file_and_column(listed)[0]) if listed else ""


def _by_data(runs: Sequence[Run]) -> dict[tuple, list[Run]]:
    """The runs that name a data set of the user's, by (dataset, path, input size, fit, cache,
    augment).
    """
    users: dict[tuple, list[Run]] = {}
    for run in runs:
        name, data = run.settings.get("dataset"), run.settings.get("data", "data")
        if name is not None and name not in EMBEDDED and Path(data).exists():
            size, fit = run.settings.get("input_size") or None, run.settings.get("fit")
            more = run.settings.get("cache"), run.settings.get("augment")
            users.setdefault((name, data, size, fit, *more), []).append(run)
    return users


def _finished(runs: Sequence[Run], root: Path) -> list[Run]:
    return [run for run in runs if state_of(run, root) == DONE]


def _appearance(path: Path) -> str:
    """A hash over size, times of the last change and inode of a file, or of all in a folder."""
    stats = [os.stat(path)]
    walked = (each for each in os.walk(path) if FOLDER not in Path(each[0]).parts)
    for count, (folder, _, files) in enumerate(sorted(walked)):
        stats.append(os.stat(folder))
        if count + len(stats) + len(files) < MOST_FILES:
            stats += [os.stat(Path(folder) / file) for file in sorted(files)]
    words = " ".join(
        f"{each.st_size} {each.st_mtime_ns} {each.st_ctime_ns} {each.st_ino}" for each in stats
    )
    return hashlib.sha256(words.encode()).hexdigest()


def _content(file: Path) -> str:
    """A hash of a model's weights or of a mask, else of the file's bytes."""
    if file.suffix not in (".tar", ".pt", ".pth"):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    content = load(file, "file")
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = [item for item in weights.items() if isinstance(item[1], torch.Tensor)]
    return hash_arrays(dict(tensors))


def _differs(run: Run, root: Path, hashes: dict[str, str]) -> bool:
    recorded = load_json(root / run.name / run.result, "result")["data"]
    return any(recorded.get(name, sha256) != sha256 for name, sha256 in hashes.items())


def _changed(what: str, runs: Sequence[Run], root: Path) -> UserError:
    return UserError(
        f"{what} now than {len(runs)} finished runs were made of ({root / runs[0].name}); give the"
        " plan another folder, or put it back"
    )
