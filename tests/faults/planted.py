"""Each trial of inputs, stops, tables and surroundings with a fault planted: prints the names of
those that do not see it.

python tests/faults/planted.py FOLDER      # where a world may be made
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from faults import inputs, stops, surroundings, tables
from faults.cases import make_world

import reporting.formats
from stages import run_folder, task


@contextlib.contextmanager
def planted(module: object, name: str, value: object) -> Iterator[None]:
    """Put something else in the place of a function."""
    real = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, real)


def torn(folder: Path, seed: int) -> None:
    """A writer that writes in place."""
    real = tables.save_json

    def in_place(content: dict, file: Path) -> None:
        real(content, file)
        whole = file.read_text()
        for _ in range(50):
            file.write_text(whole[: len(whole) // 2])

    tables.save_json = in_place
    tables.writer(folder, seed)


def trials(world: Path) -> Iterator[tuple[str, dict]]:
    """(what was planted, the trial's finding)."""
    real = task.stream
    with planted(task, "stream", lambda seed, *names: real(seed, os.getcwd(), *names)):
        yield (
            "a run that depends on its working folder",
            inputs.moved_trial(world, "forget anew", 7),
        )
    with planted(task, "check_lineage", lambda *unused: None):
        yield "other images that nobody compares", inputs.changed_trial(world, "next_step", 1)
    yield (
        "another outcome after a stop",
        stops.stop_trial(world, "main_forget wfisher", 1, True, True, {}),
    )
    whole = stops.plain_json(stops.whole_of(world, "main_forget wfisher")[0])
    with planted(run_folder, "is_resumable", lambda there: False):
        yield (
            "a folder that nothing accepts",
            stops.stop_trial(world, "main_forget wfisher", 1, False, True, whole),
        )
    yield "a torn file beside a report", tables.beside_trial(world, 1, 100, torn)
    with planted(reporting.formats, "spreadsheet", str):
        found = [tables.json_trial(world, seed) for seed in range(1, 9)]
        yield "formulas in a table", next((each for each in found if not each["ok"]), found[0])
    yield (
        "another outcome in odd surroundings",
        surroundings.around_trial(world, "no stdin", 1, lambda case: {}),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    unseen = [
        name for name, found in trials(make_world(Path(sys.argv[1]) / "world")) if found["ok"]
    ]
    print("\n".join(unseen))
    sys.exit(bool(unseen))
