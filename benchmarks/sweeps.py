"""Sweeps killed with -9 and resumed, what a run costs beside its script, and how planning and
reporting grow to 10,000 runs.

    python benchmarks/sweeps.py    # about fifteen minutes on two cores; writes results/sweeps.md

The runs are real (digits, ResNet-20s, one epoch) but for the simulation, whose results are copies
of one.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import sweep
from benchmarks.hardware import describe, hardware_line
from sweeping import runs as execution
from sweeping.expansion import Run, expand
from sweeping.plan import Plan, make_plan
from sweeping.progress import Progress
from sweeping.runs import DONE, Worker, read_record, work

ORIGINAL = "{original}/0model_SA_best.pth.tar"
BASE = {
    "dataset": "digits",
    "arch": "resnet20s",
    "device": "cpu",
    "batch_size": 256,
    "num_indexes_to_replace": 130,
    "forget_seed": 2,
}
LAUNCHERS = {
    "local": [],
    "submitit's local executor": ["--launcher", "slurm", "--options", "cluster=local"],
    "ray, local": ["--launcher", "ray"],
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = [killed(Path(folder)), overhead(Path(folder)), simulated(Path(folder))]
    here = describe()
    text = (
        "\n\n".join(
            [
                (
                    f"# Sweeps\n\n{here['time'][:10]}, commit"
                    f" {here['git'][:9]}{'+' * here['git'].endswith('+')}, {hardware_line(here)}"
                ),
                *parts,
            ]
        )
        + "\n"
    )
    (ROOT / "benchmarks" / "results" / "sweeps.md").write_text(text)
    print(text)


# ------------------------------------------------------------------------------- killed and resumed


def full_plan(folder: Path) -> dict:
    """65 runs: an original, masks, five methods and Retrain of ten seeds, an evaluation, two
    reports.
    """
    methods = [
        {"unlearn": "raw"},
        {"unlearn": "FT", "unlearn_epochs": 1},
        {"unlearn": "GA", "unlearn_epochs": 1},
        {"unlearn": "RL", "unlearn_epochs": 1},
    ]
    masked = {
        "model_path": ORIGINAL,
        "unlearn": "RL",
        "unlearn_epochs": 1,
        "mask_path": "{masks}/with_0.5.pt",
    }
    everything = ["{retrain}", "{methods}", "{salun}"]
    stages = {
        "original": {"script": "main_train", "flags": {"epochs": 3, "lr": 0.1}},
        "masks": {"script": "generate_mask", "flags": {"model_path": ORIGINAL}},
        "retrain": {
            "script": "main_forget",
            "flags": {"unlearn": "retrain", "epochs": 1, "lr": 0.1},
        },
        "methods": {"script": "main_forget", "flags": {"model_path": ORIGINAL}, "list": methods},
        "salun": {"script": "main_random", "flags": masked},
        "evaluation": {
            "script": "evaluate",
            "flags": {
                "models": "{methods}/*checkpoint.pth.tar",
                "retrain": "{retrain}/retraincheckpoint.pth.tar",
                "original": ORIGINAL,
            },
        },
        "report": {
            "script": "report",
            "flags": {"dirs": everything},
            "list": [{"format": "json"}, {"format": "markdown"}],
        },
    }
    return {
        "folder": str(folder),
        "seeds": list(range(2, 12)),
        "tries": 2,
        "base": BASE,
        "stages": stages,
    }


def killed(folder: Path) -> str:
    """The same plan undisturbed, and with a worker and then the launcher killed with -9."""
    calm, calm_runs = written(folder, "calm", full_plan(folder / "calm"))
    began = time.time()
    assert start(calm, "--workers", "2").wait() == 0
    calm_seconds = time.time() - began
    rough, runs = written(folder, "rough", full_plan(folder / "rough"))
    progress, began = Progress(runs, folder / "rough"), time.time()
    launcher = start(rough, "--workers", "2")
    wait_for(progress, 15)
    os.kill(running_pid(progress), signal.SIGKILL)
    wait_for(progress, 35)
    launcher.kill()
    launcher.wait()
    time.sleep(20)
    left = [name for name, state in progress.look().items() if state == "running"]
    assert not left, f"workers without a launcher are still at {left}"
    at_second = sum(state == DONE for state in progress.states.values())
    assert start(rough, "--workers", "2").wait() == 0
    seconds = time.time() - began
    records = [read_record(folder / "rough" / run.name) for run in runs]
    assert all(record.code == 0 for record in records)
    twice = [len(record.starts) for record in records if len(record.starts) > 1]
    finished = [
        (folder / "rough" / run.name / "log.txt").read_text().count("RESULT ")
        for run in runs
        if run.script != "report"
    ]
    assert set(finished) == {1}, finished
    same = table(folder / "calm", calm_runs) == table(folder / "rough", runs)
    assert same
    return (
        f"## Killed and resumed\n\n{len(runs)} runs, two workers. Undisturbed: {calm_seconds:.0f}"
        " s. A worker was killed with -9 after 15 runs and the launcher after 35; its workers"
        f" ended after the run at hand ({at_second} runs done 20 s later). With those 20 s and the"
        f" same command again: {seconds:.0f} s.\nEvery run is finished exactly once, by its log and"
        f" by its record; {len(twice)} were started twice.\nThe report equals that of the"
        " undisturbed sweep in every number but the seconds (RTE)."
    )


def written(folder: Path, name: str, content: dict) -> tuple[Path, list[Run]]:
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json", expand(make_plan(content), sweep.check)


def start(plan: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweep.py"), str(plan), *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def wait_for(progress: Progress, count: int) -> None:
    while sum(state == DONE for state in progress.look().values()) < count:
        time.sleep(0.1)


def running_pid(progress: Progress) -> int:
    """The process that is at a run right now."""
    while True:
        for run in progress.runs:
            if progress.look()[run.name] == "running":
                return read_record(progress.root / run.name).starts[-1]["pid"]


def table(folder: Path, runs: list[Run]) -> list:
    """The report stage's JSON without what a clock says."""
    run = next(run for run in runs if run.stage == "report" and run.settings["format"] == "json")
    tables = json.loads((folder / run.name / run.result).read_text())
    return [
        {
            **each,
            "rows": [
                {name: value for name, value in row.items() if "RTE" not in name}
                for row in each["rows"]
            ],
        }
        for each in tables
    ]


# ----------------------------------------------------------------------------------------- overhead


def overhead(folder: Path) -> str:
    """Twelve Retrain runs of an epoch by one worker of each launcher."""
    lines = [
        (
            "| launcher | start to first run (s) | beside the script, per run (s) | script, per run"
            " (s) |"
        ),
        "|---|---:|---:|---:|",
    ]
    for index, (name, words) in enumerate(LAUNCHERS.items()):
        stages = {
            "retrain": {
                "script": "main_forget",
                "flags": {"unlearn": "retrain", "epochs": 1, "lr": 0.1},
            }
        }
        plan, runs = written(
            folder,
            f"launcher{index}",
            {
                "folder": str(folder / f"l{index}"),
                "seeds": list(range(12)),
                "base": BASE,
                "stages": stages,
            },
        )
        began = time.time()
        if start(plan, "--workers", "1", *words).wait() != 0:
            lines.append(f"| {name} | not installed here | | |")
            continue
        records = [read_record(folder / f"l{index}" / run.name) for run in runs]
        begins = sorted(record.starts[0]["time"] for record in records)
        inside = sum(record.seconds for record in records) / len(runs)
        between = (begins[-1] - begins[0]) / (len(runs) - 1) - sum(
            r.seconds for r in records if r.starts[0]["time"] != begins[-1]
        ) / (len(runs) - 1)
        lines.append(f"| {name} | {begins[0] - began:.1f} | {between:.3f} | {inside:.2f} |")
    alone = time.time()
    subprocess.run([sys.executable, "-c", "import main_forget"], cwd=ROOT, check=True)
    alone = time.time() - alone
    text = (
        f"A script that is started by itself pays {alone:.1f} s for its imports each time; a worker"
        " pays them once."
    )
    return "\n".join(
        [
            "## What a run costs beside its script",
            "",
            "One worker, 12 runs of one epoch, one measurement each.",
            "",
            *lines,
            "",
            text,
        ]
    )


# --------------------------------------------------------------------------------------- simulation


def simulated(folder: Path) -> str:
    """Plans of 100, 1,000 and 10,000 runs whose results are copies: planning, making, looking,
    reporting.
    """
    template = next(folder.glob("calm/methods/FT*/FTresult.json"))
    lines = [
        (
            "| runs | rows | plan (s) | make, without the scripts (s) | look (s) | table (s) | page"
            " (s) | page (MB) |"
        ),
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count in (100, 1000, 10000):
        content = simulation(folder / f"s{count}", count)
        plan, planned = clocked(lambda content=content: planned_runs(content))
        execution.call = copier(template)
        _, made = clocked(
            lambda plan=plan: work(plan[1], plan[0].folder, Worker("w", 0.0, tries=1))
        )
        progress = Progress(plan[1], plan[0].folder)
        states, looked = clocked(progress.look)
        assert set(states.values()) == {DONE}
        rows, reported, drawn, size = report_of(plan[0].folder, folder / "page.html", count)
        lines.append(
            f"| {count:,} | {rows:,} | {planned:.2f} | {made:.1f} | {looked:.2f} | {reported:.1f} |"
            f" {drawn:.1f} | {size / 1e6:.1f} |"
        )
    about = (
        "Each run's result and curve is a copy of one; ten seeds, one rate for each ten runs; three"
        " Retrains beside them. Making is what a worker does beside the script: lock, command, log,"
        " the record before and after; look is what --status does. Table and page are processor"
        " seconds of report.py, imports included, without and with --html; no --filter, no --top."
    )
    return "\n".join(["## Ten thousand runs, simulated", "", about, "", *lines])


def report_of(folder: Path, page: Path, count: int) -> tuple[int, float, float, int]:
    """The rows of the report on a folder and the calm sweep's Retrains, the processor seconds of
    the table and of table and page, and the page's bytes.
    """
    retrains = sorted(folder.parent.glob("calm/retrain/*"))[:3]
    words = [sys.executable, "report.py", *map(str, [folder, *retrains]), "--format", "json"]
    seconds = []
    for more in ([], ["--html", str(page)]):
        before = os.times()
        found = subprocess.run([*words, *more], cwd=ROOT, check=True, capture_output=True)
        after = os.times()
        seconds.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    rows = [row for table in json.loads(found.stdout) for row in table["rows"]]
    assert sum(row["runs"] for row in rows) == count + len(retrains)
    return len(rows), *seconds, page.stat().st_size


def simulation(folder: Path, count: int) -> dict:
    rates = [round(1e-4 * (1 + i), 6) for i in range(count // 10)]
    stages = {
        "FT": {
            "script": "main_forget",
            "flags": {"unlearn": "FT", "model_path": "original.pth.tar"},
            "axes": {"unlearn_lr": rates},
        }
    }
    return {"folder": str(folder), "seeds": list(range(10)), "base": BASE, "stages": stages}


def planned_runs(content: dict) -> tuple[Plan, list[Run]]:
    plan = make_plan(content)
    return plan, expand(plan, sweep.check)


def copier(file: Path):  # noqa: ANN201
    """In a script's place: the result in ``file`` under this run's rate and seed, and its curve."""
    template = json.loads(file.read_text())
    curve = file.with_name("FTcurve.jsonl").read_text()

    def call(script: str, words: list[str]) -> int:
        flags = dict(word.removeprefix("--").split("=", 1) for word in words)
        result = template | {
            "hyperparameters": (
                template["hyperparameters"] | {"unlearn_lr": float(flags["unlearn_lr"])}
            )
        }
        result = result | {"provenance": template["provenance"] | {"seed": int(flags["seed"])}}
        (Path(flags["save_dir"]) / "FTresult.json").write_text(json.dumps(result))
        (Path(flags["save_dir"]) / "FTcurve.jsonl").write_text(curve)
        return 0

    return call


def clocked(call):  # noqa: ANN001, ANN201
    began = time.perf_counter()
    found = call()
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main()
