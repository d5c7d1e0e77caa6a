"""The long fault trials, resumable: each one appends a line to runs/faults/KIND.jsonl, and what has its line is not repeated.

    python tests/faults/harness.py KIND[=COUNT]... [--seed 1]
    python tests/faults/harness.py table      # the numbers of README.md

Kinds: kills, processes, disk, crowd, lines, real_lines, corruption, hostile. The lines of a seed are one run of hypothesis, which is
not resumed but repeated.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from faults import files, kills, lines
from faults.cases import commands, make_world

RUNS = ROOT / "runs" / "faults"


def read(kind: str) -> list[dict]:
    file = RUNS / f"{kind}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def note(kind: str, found: dict) -> None:
    with open(RUNS / f"{kind}.jsonl", "a") as file:
        file.write(json.dumps(found) + "\n")
    print("ok  " if found["ok"] else "BAD ", kind, {name: value for name, value in found.items() if name != "ok"}, flush=True)


def undisturbed(world: Path, case: str) -> tuple[dict, float]:
    """:func:`kills.undisturbed`, remembered on disk."""
    file = RUNS / "whole.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if case not in known:
        known[case] = kills.undisturbed(world, case)
        file.write_text(json.dumps(known))
    return tuple(known[case])


def rounds(kind: str, seed: int, count: int, cases: list[str]) -> Iterator[tuple[str, int]]:
    """Cases in turn, each with a seed of its own, until ``count`` trials of this kind and seed have their line."""
    done = {(found["case"], found["seed"]) for found in read(kind)}
    for number in range(count):
        trial = cases[number % len(cases)], 1000 * seed + number // len(cases)
        if trial not in done:
            yield trial


def run_kills(world: Path, seed: int, count: int) -> None:
    for case, number in rounds("kills", seed, count, list(commands(world))):
        note("kills", kills.trial(world, case, number, *undisturbed(world, case)))


def run_processes(world: Path, seed: int, count: int) -> None:
    for case, number in rounds("processes", seed, count, list(commands(world))[:6]):
        note("processes", kills.process_trial(world, case, number, *undisturbed(world, case)))


def run_disk(world: Path, seed: int, count: int) -> None:
    cases = [
        "main_train, saved every 4 steps",
        "generate_mask",
        "main_random RL",
        "main_forget FT",
        "main_forget scrub_r",
        "main_forget raw",
    ]
    for case, number in rounds("disk", seed, count, cases):
        note("disk", kills.full_disk_trial(world, case, number, undisturbed(world, case)[0]))


def run_crowd(world: Path, seed: int, count: int) -> None:
    for case, number in rounds("crowd", seed, count, ["main_train", "generate_mask", "main_random RL", "main_forget GA"]):
        note("crowd", kills.crowd_trial(world, case, number, *undisturbed(world, case)))


def run_lines(world: Path, seed: int, count: int) -> None:
    lines.line_trials(files.make_files(world), seed, count, lambda found: note("lines", found))


def run_real_lines(world: Path, seed: int, count: int) -> None:
    lines.line_trials(files.make_files(world), seed, count, lambda found: note("real_lines", found), real=True)


def run_corruption(world: Path, seed: int, count: int) -> None:
    folder = files.make_files(world)
    for case, number in rounds("corruption", seed, count, list(files.places(folder))):
        note("corruption", files.corruption_trial(folder, case, number))


def run_hostile(world: Path, seed: int, count: int) -> None:
    """Every hostile and greedy file in every place; the first ``count`` of them in an order drawn by the seed."""
    folder, trap = files.make_files(world), world / "executed"
    kinds = files.hostile_files(trap) | {f"greedy: {name}": write for name, write in files.greedy_files().items()}
    every = [(case, kind) for case in files.places(folder) for kind in kinds]
    random.Random(seed).shuffle(every)
    done = {(found["case"], found["kind"]) for found in read("hostile")}
    for case, kind in every[:count]:
        if (case, kind) not in done:
            note("hostile", files.hostile_trial(folder, case, kind, kinds[kind], trap, world / "hostile.log"))


KINDS = {
    "kills": (run_kills, 96), "processes": (run_processes, 12), "disk": (run_disk, 24), "crowd": (run_crowd, 12),
    "lines": (run_lines, 2000), "real_lines": (run_real_lines, 150), "corruption": (run_corruption, 1007), "hostile": (run_hostile, 400),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", metavar="KIND[=COUNT]", help="or: table")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "faults", help="where trials are noted (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    global RUNS
    RUNS = args.runs
    RUNS.mkdir(parents=True, exist_ok=True)
    if args.kinds == ["table"]:
        return print(table())
    for kind in args.kinds:
        name, _, count = kind.partition("=")
        trials, usual = KINDS[name]
        trials(make_world(RUNS / "world"), args.seed, int(count or usual))
    sys.exit(any(not found["ok"] for kind in KINDS for found in read(kind)))


def table() -> str:
    lines = ["| kind | trials | good |", "|---|---:|---:|"]
    for kind in KINDS:
        found = read(kind)
        lines.append(f"| {kind} | {len(found)} | {sum(line['ok'] for line in found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
