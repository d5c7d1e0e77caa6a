"""A stop between any two writes of a command, and pools of shadow models and sweeps killed at
random moments.
"""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from faults.cases import FEW, SETUP, Child, outcome, run, whole_files
from faults.study import LEAN, audit_words, copy_study, count_writes, make_study, stop_at

# A command as trials start it: the script, its flags, and the folder of its outcome.
Command = tuple[str, list[str], Path]
WRITERS = (
    "main_train",
    "generate_mask",
    "main_forget RL masked",
    "main_random RL",
    "main_forget wfisher",
    "evaluate basic",
    "evaluate standard",
    "sweep",
)


# Of a sweep itself, while they are written.
NOTES = (".run.json.", ".cmd.txt.", ".inputs.json.")


def fresh(world: Path, name: str) -> Command:
    """A command of WRITERS in a folder where nothing of it is done; ``sweep`` has two runs."""
    folder = world / "stopped"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    original, mask = world / "original" / "0model_SA_best.pth.tar", world / "mask" / "with_0.5.pt"
    if name.startswith("evaluate"):
        study, suite = make_study(world, "npz absolute"), name.split()[1]
        copy_study(study, folder / "study", pool=False, caches=False)
        return (
            "evaluate",
            audit_words(folder / "study", suite),
            folder / "study" / "runs" / f"audit_{suite}",
        )
    if name == "sweep":
        return "sweep", [str(write_plan(folder, world))], folder / "plan"
    rest = [*SETUP, *FEW, "--model_path", str(original)]
    masked = ["--unlearn", "RL", "--unlearn_epochs", "2", "--mask_path", str(mask)]
    found = {
        "main_train": ("main_train", [*SETUP, "--epochs", "2", "--lr", "0.1"]),
        "generate_mask": ("generate_mask", rest),
        "main_forget RL masked": ("main_forget", [*rest, *masked]),
        "main_random RL": ("main_random", [*rest, *masked]),
        "main_forget wfisher": (
            "main_forget",
            [*rest, "--unlearn", "wfisher", "--samples", "40", "--max_iterations", "4"],
        ),
    }
    script, words = found[name]
    return script, [*words, "--save_dir", str(folder / "run")], folder / "run"


def write_plan(folder: Path, world: Path) -> Path:
    """A plan of an original and one unlearned model, in ``folder``/plan.json; its runs go to
    ``folder``/plan.
    """
    base = {
        "dataset": "digits",
        "arch": "resnet20s",
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 64,
    }
    unlearned = {
        "unlearn": "FT",
        "unlearn_epochs": 2,
        "num_indexes_to_replace": 130,
        "retain_fraction": 0.25,
    }
    unlearned["model_path"] = str(world / "original" / "0model_SA_best.pth.tar")
    stages = {
        "original": {"script": "main_train", "flags": {"epochs": 1, "lr": 0.1}},
        "FT": {"script": "main_forget", "flags": unlearned},
    }
    file = folder / "plan.json"
    file.write_text(json.dumps({"folder": str(folder / "plan"), "base": base, "stages": stages}))
    return file


def until_done(command: Command, log: Path) -> list[str]:
    """Start the command as its user would who read its last line: anew, or with --resume where the
    refusal offers it; complaints.
    """
    script, words, _ = command
    code, said = run(script, words, log)
    if code == 2 and "--resume goes on from it" in said:
        code, said = run(script, [*words, "--resume"], log)
    return [] if code == 0 else [f"started again it gave {code}: {said[-500:]}"]


def whole_of(world: Path, name: str) -> tuple[dict, int]:
    """The undisturbed outcome of a command of WRITERS, and how many files it finished."""
    script, words, folder = fresh(world, name)
    tally = world / "tally"
    tally.unlink(missing_ok=True)
    code, said = run(script, words, world / "stopped.log", lambda: count_writes(tally))
    assert code == 0, said
    return outcome(script, words, folder), tally.stat().st_size


def every_stop(writes: dict[str, int]) -> Iterator[tuple[str, int, bool, bool]]:
    """(command, write, before it or after it, kill -9 or Ctrl-C), for each of the writes of each
    command.
    """
    for name, count in writes.items():
        for number in range(1, count + 1):
            for before in (True, False):
                for kill in (True, False):
                    yield name, number, before, kill


def stop_trial(world: Path, name: str, number: int, before: bool, kill: bool, whole: dict) -> dict:
    """Stop a command at one of its writes and start it again: it ends as ever."""
    script, words, folder = command = fresh(world, name)
    log = world / "stopped.log"
    code, said = run(script, words, log, lambda: stop_at(number, before=before, kill=kill))
    complaints = []
    if code != (9 if kill else 130) or "Traceback" in said:
        complaints.append(f"the stop gave {code}: {said[-500:]}")
    if folder.is_dir():
        whole_files(folder)
    complaints += until_done(command, log)
    if not complaints and plain_json(outcome(script, words, folder)) != whole:
        complaints.append("another outcome than without a stop")
    complaints += left_behind(folder)
    when = f"{'before' if before else 'after'} write {number}"
    return {
        "case": name,
        "seed": 0,
        "when": when,
        "kill": kill,
        "complaints": complaints,
        "ok": not complaints,
    }


def plain_json(found: dict) -> dict:
    """An outcome as it comes back from a file."""
    return json.loads(json.dumps(found))


def left_behind(folder: Path) -> list[str]:
    """What is named as if it were still being written, below a folder.

    But for kept logits, which have no lock and several writers, and for a sweep's own notes, which
    a finished run is not asked for again.
    """
    left = [file for file in sorted(folder.rglob(".*.tmp")) if file.parent.name != "logits"]
    return [f"left behind: {file}" for file in left if not file.name.startswith(NOTES)]


# --------------------------------------------------------------------------------- pools and sweeps


def pool_command(world: Path, name: str) -> Command:
    """An audit of --suite full without its shadow models, or a sweep of eight runs, from the
    beginning.
    """
    folder = world / "pool"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if name == "pool":
        study = copy_study(
            make_study(world, "digits absolute"), folder / "study", pool=False, caches=False
        )
        shutil.rmtree(study / "runs" / "audit_full", ignore_errors=True)
        return "evaluate", audit_words(study, "full"), study / "runs" / "audit_full"
    base = {
        "dataset": "digits",
        **dict(zip([word[2:] for word in LEAN[::2]], LEAN[1::2], strict=True)),
        "batch_size": 128,
    }
    of_run = {
        "num_indexes_to_replace": 130,
        "unlearn_epochs": 2,
        "model_path": "{original}/0model_SA_best.pth.tar",
    }
    stages = {
        "original": {"script": "main_train", "flags": {"epochs": 1, "lr": 0.1}},
        "mask": {
            "script": "generate_mask",
            "flags": {name: value for name, value in of_run.items() if name != "unlearn_epochs"},
        },
        "RL": {
            "script": "main_random",
            "flags": {"unlearn": "RL", "mask_path": "{mask}/with_0.5.pt", **of_run},
        },
        "FT": {"script": "main_forget", "flags": {"unlearn": "FT", **of_run}},
    }
    file = folder / "plan.json"
    file.write_text(
        json.dumps(
            {"folder": str(folder / "plan"), "seeds": [2, 3], "base": base, "stages": stages}
        )
    )
    return "sweep", [str(file)], folder / "plan"


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """{result file: (inode, time of its last change)} of all runs that are finished below a
    folder.
    """
    stats = {str(file.relative_to(folder)): file.stat() for file in folder.rglob("*result.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def whole_pool(world: Path, name: str) -> tuple[dict, float]:
    """The undisturbed outcome of an audit with a pool, or of a sweep, and its seconds."""
    script, words, folder = pool_command(world, name)
    child = Child(script, words, world / "pool.log")
    assert child.wait() == 0, child.output()
    return outcome(script, words, folder), child.seconds


def pool_trial(
    world: Path, name: str, seed: int, whole: dict, seconds: float, kills: int = 3
) -> dict:
    """Kill an audit with a pool, or a sweep, up to ``kills`` times; then the same command: equal
    results, nothing finished made twice.
    """
    rng = random.Random(f"pools/{name}/{seed}")
    script, words, folder = pool_command(world, name)
    log, found = world / "pool.log", {"case": name, "seed": seed, "killed": 0, "complaints": []}
    before: dict[str, tuple[int, int]] = {}
    for _ in range(kills):
        child = Child(script, words, log)
        code = child.end(signal.SIGKILL, rng.uniform(0.05, seconds / 2))
        if code not in (0, -signal.SIGKILL) or "Traceback" in child.output():
            found["complaints"].append(f"killed it gave {code}: {child.output()[-500:]}")
        found["killed"] += code == -signal.SIGKILL
        found["complaints"] += made_twice(before, finished(folder))
        before = finished(folder)
    code, said = run(script, words, log)
    if code:
        found["complaints"].append(f"the last start gave {code}: {said[-500:]}")
    elif plain_json(outcome(script, words, folder)) != whole:
        found["complaints"].append("another outcome than without a kill")
    found["complaints"] += made_twice(before, finished(folder)) + left_behind(folder)
    return found | {"finished_before": len(before), "ok": not found["complaints"]}


def made_twice(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> list[str]:
    """Complaints about finished runs whose result is another file by now."""
    return [f"made again: {name}" for name, file in before.items() if now.get(name) != file]
