"""The long fault trials, resumable: each one appends a line to runs/faults/KIND.jsonl, and what has
its line is not repeated.

    python tests/faults/harness.py KIND[=COUNT[:WORD]]... [--seed 1]
    python tests/faults/harness.py table      # the numbers of README.md

Kinds: kills, processes, disk, crowd, lines, real_lines, corruption, shrink, hostile, moved,
changed, every_write, pools, beside, json, environments. The lines of a seed are one run of
hypothesis, which is not resumed but repeated. WORD keeps the cases whose names have it.
"""

import argparse
import collections
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from faults import files, inputs, kills, lines, stops, surroundings, tables
from faults.cases import commands, make_world, outcome

RUNS, ONLY = ROOT / "runs" / "faults", ""


def read(kind: str) -> list[dict]:
    file = RUNS / f"{kind}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def note(kind: str, found: dict) -> None:
    with open(RUNS / f"{kind}.jsonl", "a") as file:
        file.write(json.dumps(found) + "\n")
    print(
        "ok  " if found["ok"] else "BAD ",
        kind,
        {name: value for name, value in found.items() if name != "ok"},
        flush=True,
    )


def undisturbed(
    world: Path, case: str, of: Callable[[Path, str], tuple] = kills.undisturbed
) -> tuple[dict, float]:
    """:func:`kills.undisturbed`, or another one, remembered on disk."""
    file = RUNS / f"{of.__name__} {case}.json".replace(" ", "_")
    if not file.exists():
        file.write_text(json.dumps(of(world, case)))
    return tuple(json.loads(file.read_text()))


def rounds(kind: str, seed: int, count: int, cases: list[str]) -> Iterator[tuple[str, int]]:
    """Cases in turn, each with a seed of its own, until ``count`` trials of this kind and seed have
    their line.
    """
    cases = [case for case in cases if ONLY in case]
    done = {(found["case"] if len(cases) > 1 else cases[0], found["seed"]) for found in read(kind)}
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
    for case, number in rounds(
        "crowd", seed, count, ["main_train", "generate_mask", "main_random RL", "main_forget GA"]
    ):
        note("crowd", kills.crowd_trial(world, case, number, *undisturbed(world, case)))


def run_lines(world: Path, seed: int, count: int) -> None:
    lines.line_trials(files.make_files(world), seed, count, lambda found: note("lines", found))


def run_real_lines(world: Path, seed: int, count: int) -> None:
    lines.line_trials(
        files.make_files(world), seed, count, lambda found: note("real_lines", found), real=True
    )


def run_corruption(world: Path, seed: int, count: int) -> None:
    folder = files.make_files(world)
    for case, number in rounds("corruption", seed, count, list(files.places(folder))):
        note("corruption", files.corruption_trial(folder, case, number))


def run_shrink(world: Path, seed: int, count: int) -> None:
    folder = files.make_files(world)
    cases = [
        name for name, (_, (_, words)) in files.places(folder).items() if "--resume" not in words
    ]
    for case, number in rounds("shrink", seed, count, cases):
        note("shrink", files.shrinking_trial(folder, case, number, world / "shrink.log"))


def run_hostile(world: Path, seed: int, count: int) -> None:
    """Every hostile and greedy file in every place; the first ``count`` of them in an order drawn
    by the seed.
    """
    folder, trap = files.make_files(world), world / "executed"
    kinds = files.hostile_files(trap) | {
        f"greedy: {name}": write for name, write in files.greedy_files().items()
    }
    every = [(case, kind) for case in files.places(folder) for kind in kinds]
    random.Random(seed).shuffle(every)
    done = {(found["case"], found["kind"]) for found in read("hostile")}
    for case, kind in every[:count]:
        if (case, kind) not in done:
            note(
                "hostile",
                files.hostile_trial(folder, case, kind, kinds[kind], trap, world / "hostile.log"),
            )


def run_every_write(world: Path, seed: int, count: int) -> None:
    """Every stop of every command; or as many as ``count`` of them in an order drawn
    by the seed.
    """
    wholes = {
        name: undisturbed(world, name, stops.whole_of) for name in stops.WRITERS if ONLY in name
    }
    every = list(stops.every_stop({name: writes for name, (_, writes) in wholes.items()}))
    random.Random(seed).shuffle(every)
    done = {(found["case"], found["when"], found["kill"]) for found in read("every_write")}
    for name, number, before, kill in every[:count]:
        if (name, f"{'before' if before else 'after'} write {number}", kill) not in done:
            note(
                "every_write", stops.stop_trial(world, name, number, before, kill, wholes[name][0])
            )


def run_pools(world: Path, seed: int, count: int) -> None:
    for case, number in rounds("pools", seed, count, ["pool", "sweep"]):
        note(
            "pools",
            stops.pool_trial(world, case, number, *undisturbed(world, case, stops.whole_pool)),
        )


def run_moved(world: Path, seed: int, count: int) -> None:
    for case, number in rounds("moved", seed, count, list(inputs.ACTIONS)):
        note("moved", inputs.moved_trial(world, case, number))


def run_changed(world: Path, seed: int, count: int) -> None:
    for case, number in rounds("changed", seed, count, list(inputs.CHANGES)):
        note("changed", inputs.changed_trial(world, case, number))


def run_json(world: Path, seed: int, count: int) -> None:
    for _, number in rounds("json", seed, count, [""]):
        note("json", tables.json_trial(world, number))


def run_beside(world: Path, seed: int, count: int) -> None:
    """``count`` reads, a hundred beside each writer."""
    for _, number in rounds("beside", seed, -(-count // 100), ["beside"]):
        note("beside", tables.beside_trial(world, number, min(count, 100)))


def run_environments(world: Path, seed: int, count: int) -> None:
    def whole(case: str) -> dict:
        return undisturbed(world, case, usual_surroundings)[0]

    for case, number in rounds("environments", seed, count, list(surroundings.SURROUNDINGS)):
        note("environments", surroundings.around_trial(world, case, number, whole))


def usual_surroundings(world: Path, case: str) -> tuple[dict, float]:
    """The outcome of a command of the environments' trials where nothing is odd."""
    script, words = surroundings.commands_around(world)[case]
    code, said, out = surroundings.process(world / "around", surroundings.Around(), script, words)
    assert code == 0, said
    return outcome(script, words, out), 0.0


KINDS = {
    "kills": (run_kills, 96),
    "processes": (run_processes, 12),
    "disk": (run_disk, 24),
    "crowd": (run_crowd, 12),
    "lines": (run_lines, 2000),
    "real_lines": (run_real_lines, 150),
    "corruption": (run_corruption, 1007),
    "shrink": (run_shrink, 70),
    "hostile": (run_hostile, 1000),
    "every_write": (run_every_write, 10_000),
    "pools": (run_pools, 50),
    "environments": (run_environments, 55),
    "json": (run_json, 500),
    "beside": (run_beside, 10_000),
    "moved": (run_moved, 50),
    "changed": (run_changed, 52),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "kinds",
        nargs="+",
        metavar="KIND[=COUNT[:WORD]]",
        help="with WORD in the case's name; or: table",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--runs",
        type=Path,
        default=ROOT / "runs" / "faults",
        help="where trials are noted (default: %(default)s)",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    global RUNS, ONLY
    RUNS = args.runs
    RUNS.mkdir(parents=True, exist_ok=True)
    if args.kinds == ["table"]:
        return print(table())
    for kind in args.kinds:
        name, _, count = kind.partition("=")
        count, _, ONLY = count.partition(":")
        trials, usual = KINDS[name]
        trials(make_world(RUNS / "world"), args.seed, int(count or usual))
    sys.exit(any(not found["ok"] for kind in KINDS for found in read(kind)))


def table() -> str:
    """The rows of README.md."""
    lines = ["| what | seed | trials | good | what happened |", "|---|---|---:|---:|---|"]
    for kind, words in WORDS.items():
        found = read(kind)
        if not found:
            continue
        seeds = sorted(
            {line["seed"] // 1000 if line["seed"] >= 1000 else line["seed"] for line in found}
        )
        shown = ", ".join(map(str, seeds)) if kind not in ("hostile", "every_write") else "all"
        trials, good = (
            sum(line.get("reads", 1) for line in found if line["ok"] or not of_good)
            for of_good in (False, True)
        )
        lines.append(f"| {words} | {shown} | {trials} | {good} | {DETAILS[kind](found)} |")
    return "\n".join(lines)


def ends(found: list[dict]) -> str:
    """``exit 0: 12, exit 2: 30``."""
    counts = collections.Counter(str(line["code"]) for line in found)
    return ", ".join(f"exit {code}: {counts[code]}" for code in sorted(counts))


def total(found: list[dict], name: str) -> int:
    return sum(line[name] for line in found)


def of_kills(found: list[dict]) -> str:
    cases = len({line["case"] for line in found})
    counts = {name: total(found, name) for name in ("killed", "stopped", "resumed")}
    ends = (
        f"kill -9: {counts['killed']}, stopped by SIGTERM, SIGINT, SIGUSR1: {counts['stopped']},"
        f" resumed: {counts['resumed']}"
    )
    return f"{cases} commands; {ends}"


WORDS = {
    "kills": "runs ended up to four times each, forked from one warm process",
    "processes": "the same, processes of their own",
    "disk": "no file may grow past a random size, then `--resume`",
    "crowd": "three runs of one command in one folder",
    "lines": "command lines under `--dry_run`",
    "real_lines": "command lines that train",
    "corruption": "files with bytes changed, lost, added",
    "shrink": "files cut off while they are read",
    "hostile": "hostile and greedy files, in every place where a file is read",
    "moved": "studies moved, copied or linked elsewhere, from other working folders",
    "changed": "inputs changed at the same path between two steps or two starts",
    "json": "hostile JSON in results, audits and curves, each in six formats",
    "beside": "reads of report.py beside a process that writes, overwrites and deletes",
    "environments": "odd surroundings: closed files, variables, paths, limits",
    "every_write": (
        "a stop right before or right after a finished file gets its name, every one of eight"
        " commands"
    ),
    "pools": "shadow pools and sweeps killed up to three times, and started again",
}
DETAILS = {
    "kills": of_kills,
    "processes": of_kills,
    "disk": lambda found: f"the limit was hit in {total(found, 'full')}",
    "crowd": lambda found: "one finished, two were refused, in each",
    "lines": ends,
    "real_lines": ends,
    "shrink": ends,
    "corruption": lambda found: (
        f"{ends(found)}; a torch file that was read held the very same values"
    ),
    "moved": lambda found: f"{len({line['case'] for line in found})} kinds of going on",
    "changed": lambda found: (
        f"{len({line['case'] for line in found})} kinds of change, each named or honestly used"
    ),
    "environments": ends,
    "json": ends,
    "beside": lambda found: f"{total(found, 'tables')} tables, the others one line",
    "every_write": lambda found: (
        f"kill -9: {total(found, 'kill')}, Ctrl-C: {len(found) - total(found, 'kill')}"
    ),
    "pools": lambda found: f"kill -9: {total(found, 'killed')}; no finished run was made again",
    "hostile": lambda found: (
        f"{ends(found)}; largest memory {max(line['megabytes'] for line in found)} MB, 440 of it"
        " the libraries"
    ),
}


if __name__ == "__main__":
    main()
