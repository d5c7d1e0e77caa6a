"""The long fault trials, resumable: each one appends a line to runs/faults/KIND.jsonl, and what has its line is not repeated.

    python tests/faults/harness.py KIND [--seed 1] [--count N]
    python tests/faults/harness.py table      # the numbers of README.md

Kinds: kills, processes, disk, crowd, lines, corruption, hostile.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from faults import kills
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


KINDS = {"kills": (run_kills, 96), "processes": (run_processes, 12), "disk": (run_disk, 24), "crowd": (run_crowd, 12)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "table"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="trials (default: as many as the table shows)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if args.kind == "table":
        return print(table())
    trials, count = KINDS[args.kind]
    trials(make_world(RUNS / "world"), args.seed, args.count or count)


def table() -> str:
    lines = ["| kind | trials | good |", "|---|---:|---:|"]
    for kind in KINDS:
        found = read(kind)
        lines.append(f"| {kind} | {len(found)} | {sum(line['ok'] for line in found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
