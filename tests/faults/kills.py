"""Kill a run at random moments, go on each time, and compare what it leaves with a run that nothing
disturbed.
"""

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.cases import Child, checkpoint_of, commands, outcome, whole_files

from runtime.files import load
from utils import UserError

ROOT = Path(__file__).parents[2]
# Two thirds of the ends are kill -9, which no run can prepare for.
SIGNALS = [signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


def undisturbed(world: Path, case: str) -> tuple[dict, float]:
    """The outcome of a run from start to end, and how long it took."""
    script, words = commands(world)[case]
    folder = world / "whole" / case.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    child = Child(script, [*words, "--save_dir", str(folder)], folder / "log.txt")
    assert child.wait() == 0, child.output()
    return outcome(script, words, folder), child.seconds


def progress(script: str, words: list[str], folder: Path) -> tuple[int, int]:
    """How far the checkpoint is: epochs, and steps inside the next one."""
    with contextlib.suppress(UserError, TypeError):
        state = load(folder / checkpoint_of(script, words), "checkpoint")
        return state["epoch"], (state.get("meter") or {"steps": 0})["steps"]
    return -1, 0


def trial(
    world: Path,
    case: str,
    seed: int,
    whole: dict,
    seconds: float,
    kills: int = 4,
    signals: list[int] = SIGNALS,
) -> dict:
    """End a run up to ``kills`` times, then let it finish. Returns what happened; ``ok`` is whether
    nothing was lost or torn.
    """
    rng = random.Random(f"{case}/{seed}")
    script, words = commands(world)[case]
    folder = world / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    log, folder = world / "killed.log", folder / "run"
    found = {"case": case, "seed": seed, "killed": 0, "stopped": 0, "resumed": 0, "complaints": []}
    before = (-1, 0)

    def go() -> Child:
        on = folder.is_dir() and any(
            (folder / name).exists() for name in (checkpoint_of(script, words), "with_0.1.pt")
        )
        found["resumed"] += on
        return Child(
            script, [*words, "--save_dir", str(folder), *(["--resume"] if on else [])], log
        )

    for _ in range(kills):
        number = rng.choice(signals)
        child = go()
        code = child.end(
            number, rng.uniform(0.05, seconds * (1 if before < (0, 1) else 0.5))
        )  # less is left to kill after a resume
        if number == signal.SIGKILL:
            found["killed"] += code == -number
            expected = (-number, 0)
        else:
            found["stopped"] += code == 130
            expected = (130, 0)
        said = child.output()
        if code not in expected or "Traceback" in said or (code == 130 and "--resume" not in said):
            found["complaints"].append(f"signal {number} gave {code}: {said[-500:]}")
        if folder.is_dir():
            whole_files(folder)
            now = progress(script, words, folder)
            if now < before:
                found["complaints"].append(f"progress fell from {before} to {now}")
            before = now
    child = go()
    code = child.wait()
    if code:
        found["complaints"].append(f"the last run gave {code}: {child.output()[-500:]}")
    elif outcome(script, words, folder) != whole:
        found["complaints"].append("another outcome than without a kill")
    if left := list(folder.glob(".*.tmp")):
        found["complaints"].append(f"left behind: {left}")
    return found | {"ok": not found["complaints"]}


def process_trial(world: Path, case: str, seed: int, whole: dict, seconds: float) -> dict:
    """:func:`trial` with a real process, which also spends its time on imports."""
    rng = random.Random(f"process/{case}/{seed}")
    script, words = commands(world)[case]
    folder = world / "killed" / "process"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(ROOT / f"{script}.py"), *words, "--save_dir", str(folder)]
    started = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    time.sleep(5 + rng.uniform(0, seconds))
    started.kill()
    code = started.wait()
    if folder.is_dir():
        whole_files(folder)
    resume = (
        ["--resume"]
        if (folder / checkpoint_of(script, words)).exists() or (folder / "with_0.1.pt").exists()
        else []
    )
    again = subprocess.run(
        [*command, *resume], capture_output=True, text=True, cwd=ROOT, check=False
    )
    ok = again.returncode == 0 and outcome(script, words, folder) == whole
    complaints = [] if ok else [again.stderr[-500:] or "another outcome"]
    killed = int(code == -signal.SIGKILL)
    return {
        "case": case,
        "seed": seed,
        "killed": killed,
        "stopped": 0,
        "resumed": len(resume),
        "complaints": complaints,
        "ok": ok,
    }


def full_disk_trial(world: Path, case: str, seed: int, whole: dict) -> dict:
    """No file may grow past a random size: what fitted stays, one line says what did not, and a
    later --resume ends as ever.
    """
    rng = random.Random(f"disk/{case}/{seed}")
    script, words = commands(world)[case]
    folder = world / "disk"
    shutil.rmtree(folder, ignore_errors=True)
    limit = int(10 ** rng.uniform(4.3, 6.6))  # the log must fit
    words_there = [*words, "--save_dir", str(folder)]
    child = Child(script, words_there, world / "disk.log", file_limit=limit)
    code, said = child.wait(), child.output()
    complaints = []
    if code not in (0, 1) or "Traceback" in said or (code == 1 and "cannot write" not in said):
        complaints.append(f"limit {limit} gave {code}: {said[-500:]}")
    whole_files(folder)
    on = (
        ["--resume"]
        if any((folder / name).exists() for name in (checkpoint_of(script, words), "with_0.1.pt"))
        else []
    )
    child = Child(script, [*words_there, *on], world / "disk.log")
    if child.wait() or outcome(script, words, folder) != whole:
        complaints.append(f"limit {limit}, then: {child.output()[-500:]}")
    return {
        "case": case,
        "seed": seed,
        "limit": limit,
        "full": code == 1,
        "complaints": complaints,
        "ok": not complaints,
    }


def crowd_trial(
    world: Path, case: str, seed: int, whole: dict, seconds: float, runs: int = 3
) -> dict:
    """Several runs of one command in one folder, begun at random moments: one writes, the others
    are refused in one line.
    """
    rng = random.Random(f"crowd/{case}/{seed}")
    script, words = commands(world)[case]
    folder = world / "crowd"
    shutil.rmtree(folder, ignore_errors=True)
    children = []
    for number in range(runs):
        children.append(
            Child(script, [*words, "--save_dir", str(folder)], world / f"crowd{number}.log")
        )
        time.sleep(rng.uniform(0, seconds / 2))
    codes = [child.wait() for child in children]
    said = "".join(child.output() for child in children)
    ok = (
        sorted(codes) == [0] + [2] * (runs - 1)
        and "Traceback" not in said
        and outcome(script, words, folder) == whole
    )
    return {
        "case": case,
        "seed": seed,
        "codes": codes,
        "complaints": [] if ok else [said[-1500:]],
        "ok": ok,
    }
