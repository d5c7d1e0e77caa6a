"""What stays on disk of a plan's finished runs: ``keep`` of the plan or of a stage."""

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from runtime.files import lock, save_json
from stages.file_names import BEST, CHECKPOINT, LAST, mask_name
from sweeping.expansion import Run
from sweeping.runs import COMMAND, DONE, LOCK, RECORD, SEARCH, read_record, state_of
from utils import UserError

# Names of the files that hold a model, a mask or a model's outputs, in a run's folder or below.
MODELS = (BEST, f"*{CHECKPOINT}", mask_name("*"), "logits/*.npz")
# Names of the files that go by each value of keep.
GOES = {"all": (), "weights": (LAST,), "none": MODELS}


def files_of(folder: Path, names: Sequence[str] = MODELS) -> dict[str, int]:
    """{path below ``folder``: bytes} of its files of these names."""
    found = {}
    for where, _, files in os.walk(folder) if names else ():
        for file in files:
            path = Path(where) / file
            if any(path.match(name) for name in names):
                with contextlib.suppress(FileNotFoundError):  # another process removes it
                    found[str(path.relative_to(folder))] = path.stat().st_size
    return found


def referred(run: Run, root: Path) -> dict[str, list[str]]:
    """{run: patterns of files below its folder} that a run's words name; "" is the whole folder.

    None for a report, which reads results alone.
    """
    found: dict[str, list[str]] = {}
    for word in run.words if run.script != "report" else ():
        value = word.partition("=")[2] if word.startswith("--") else word
        stage, _, rest = value.removeprefix(f"{root}/").partition("/")
        folder, _, file = rest.partition("/")
        if value.startswith(f"{root}/") and f"{stage}/{folder}" != run.name:
            found.setdefault(f"{stage}/{folder}", []).append(file)
    return found


class Keeper:
    """Removes what ``keep`` lets go of each run, once it and all that refer to it are done."""

    def __init__(self, runs: Sequence[Run], root: Path):
        self.root = root
        self.runs = {run.name: run for run in runs if GOES[run.keep]}
        self.waiting = {name: {name} for name in self.runs}
        self.needs = {run.name: self._needs(run) for run in runs} if self.runs else {}
        for name, needs in self.needs.items():
            for need in needs:
                self.waiting[need].add(name)

    def _needs(self, run: Run) -> set[str]:
        needs = set() if run.script == "report" else {*run.needs}
        return {*needs, *referred(run, self.root)} & self.runs.keys()

    def _is_searched_from(self, name: str) -> bool:
        """Whether trials of a search of the plan refer to a run."""
        commands = self.root.glob(f"{SEARCH}*/*/{COMMAND}")
        return any(f"{self.root / name}/" in file.read_text() for file in commands)

    def finished(self, run: Run) -> None:
        """Count a run as done; what nobody waits for any more goes."""
        for name in {run.name, *self.needs.get(run.name, ())} & self.runs.keys():
            self.waiting[name].discard(run.name)
            goes = GOES[self.runs[name].keep]
            if self.waiting[name] or not files_of(self.root / name, goes):
                continue
            if not self._is_searched_from(name):
                remove(self.runs[name], self.root)


def remove(run: Run, root: Path) -> None:
    """Remove what ``keep`` lets go of a finished run; its record names it before it is gone, and
    what a killed process has left is removed by the next.
    """
    folder = root / run.name
    with contextlib.suppress(UserError), lock(folder, LOCK):  # who holds it does the same
        found = files_of(folder, GOES[run.keep])
        record = read_record(folder)
        record.removed |= found
        save_json(dataclasses.asdict(record), folder / RECORD)
        for name in found:
            (folder / name).unlink(missing_ok=True)


def removed(folder: Path) -> dict[str, int]:
    """{path below ``folder``: bytes} of what ``keep`` removed and nothing has made again."""
    record = read_record(folder).removed
    return {name: size for name, size in record.items() if not (folder / name).exists()}


def check_kept(runs: Iterable[Run], root: Path, who: str | None = None) -> None:
    """Refuse a sweep with a run to make that needs what ``keep`` has removed; ``who`` needs it, by
    default that run.

    Raises:
        UserError: it names what is gone, and what to type to have it made again.
    """
    by_name = {run.name: run for run in runs}
    todo = [run for run in by_name.values() if state_of(run, root) != DONE]
    lacking: dict[str, list[str]] = {}
    needing = ""
    while todo:
        run = todo.pop()
        for name, patterns in referred(run, root).items():
            if name in lacking or name not in by_name or state_of(by_name[name], root) != DONE:
                continue
            gone = [file for file in removed(root / name) if _is_named(file, patterns)]
            if gone:
                needing, lacking[name] = needing or who or str(root / run.name), gone
                todo.append(by_name[name])  # to be made again, it needs what it was made of
    if lacking:
        first, (file, *_) = next(iter(lacking.items()))
        results = [str(root / name / by_name[name].result) for name in lacking]
        raise UserError(
            f"keep has removed files of {len(lacking)} finished runs that {needing} needs"
            f" ({root / first / file}); to have them made again, type"
            f" {shlex.join(['rm', *results])} and then the same command"
        )


def _is_named(file: str, patterns: Sequence[str]) -> bool:
    return any(not pattern or fnmatch(file, pattern) for pattern in patterns)


def words_of_space(runs: Iterable[Run], root: Path) -> str:
    """How much of models, masks and their outputs there is, and how much is gone."""
    kept, gone = [], []
    for run in runs:
        kept += files_of(root / run.name).values()
        gone += removed(root / run.name).values()
    words = f"models, masks and outputs: {len(kept)} files, {sum(kept) / 1e6:.1f} MB"
    more = f"; removed by keep: {len(gone)} files, {sum(gone) / 1e6:.1f} MB" if gone else ""
    return words + more
