"""Runs of several processes: their commands, exit codes, threads and GPUs, and how they end."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import content, refused, starts, tiny, weights

import sweep
from runtime.files import hash_arrays
from sweeping import launch, launchers
from sweeping.expansion import expand
from sweeping.plan import make_plan, read_plan
from sweeping.processes import call
from sweeping.runs import command

ROOT = Path(__file__).parents[2]


def runs_of(tmp_path, stage, **changes):
    plan = content(tmp_path)
    plan["stages"][stage] |= changes
    return {run.name: run for run in expand(make_plan(plan), sweep.check)}


@pytest.mark.parametrize(
    ("stage", "processes", "said"),
    [
        ("original", 0, "[stages.original]: processes is 0; at least 1 is wanted"),
        ("original", True, "processes is True; wanted is a int"),
        ("report", 2, "[stages.report]: processes is 2; 1 is wanted of report"),
    ],
)
def test_a_number_of_processes_that_cannot_be_is_refused(stage, processes, said, tmp_path, capsys):
    plan = content(tmp_path)
    plan["stages"][stage]["processes"] = processes
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    refused(capsys, sweep.main([str(tmp_path / "plan.json"), "--dry_run"]), said)


def test_several_processes_make_another_run_by_torchrun(tmp_path):
    one, same, two = (
        runs_of(tmp_path, "methods", **more) for more in ({}, {"processes": 1}, {"processes": 2})
    )
    assert one.keys() == same.keys()
    assert {run.stage for run in one.values() if run.name not in two} == {
        "methods",
        "evaluation",  # and what is made of them
        "report",
    }
    for run in two.values():
        words = shlex.split(command(run, tmp_path))
        start = ["torchrun", "--standalone", "--nproc_per_node=2"]
        if run.stage == "methods":
            assert words == [*start, str(ROOT / "main_forget.py"), *run.words] or words == [
                *start,
                "main_forget.py",
                *run.words,
            ]
        else:
            assert "torchrun" not in words


# ------------------------------------------------------------------------------- as torchrun does


@pytest.fixture
def script(tmp_path):
    """Two processes that say what they are, then end with a code each or sleep."""
    file = tmp_path / "script.py"
    file.write_text(
        "import os, sys, time, pathlib\n"
        "rank = int(os.environ['RANK'])\n"
        "name = pathlib.Path(sys.argv[0]).name\n"
        "print(__name__, name, *sys.argv[2:], os.environ['OMP_NUM_THREADS'], flush=True)\n"
        "pathlib.Path(sys.argv[1], str(rank)).write_text(str(os.getpid()))\n"
        "codes = sys.argv[2].split(',')\n"
        "time.sleep(0 if codes[rank] != 'sleep' else 100)\n"
        "sys.exit(int(codes[rank]))\n"
    )
    return file


@pytest.mark.parametrize(("codes", "expected"), [("0,0", 0), ("2,2", 2), ("sleep,130", 130)])
def test_the_exit_code_is_that_of_the_process_that_failed_first(codes, expected, script, tmp_path):
    with open(tmp_path / "log.txt", "w") as log:
        assert call(script, [str(tmp_path), codes], 2, log) == expected
    asked = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    threads = int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    said = (tmp_path / "log.txt").read_text()
    assert said.count(f"__main__ script.py {codes} {max(1, threads // 2)}\n") == 2


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def until(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("killed", "number"),
    [("worker", signal.SIGKILL), ("torchrun", signal.SIGKILL), ("torchrun", signal.SIGTERM)],
)
def test_its_processes_end_when_the_worker_or_torchrun_is_killed(killed, number, script, tmp_path):
    code = (
        "import sys; from pathlib import Path; from sweeping.processes import call;"
        " sys.exit(call(Path(sys.argv[1]), sys.argv[2:], 2, sys.stdout))"
    )
    words = [sys.executable, "-c", code, script, tmp_path, "sleep,sleep"]
    worker = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    files = [tmp_path / "0", tmp_path / "1"]
    until(lambda: all(file.exists() and file.read_text() for file in files))
    ranks = [int(file.read_text()) for file in files]
    torchrun = int(Path(f"/proc/{ranks[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill({"worker": worker.pid, "torchrun": torchrun}[killed], number)
    until(lambda: not any(map(alive, (*ranks, torchrun))))
    assert worker.wait(30) != 0


def test_a_run_whose_worker_is_killed_goes_on_and_ends_as_by_torchrun(tmp_path):
    """Bit for bit, and the processes of the killed worker leave no lock behind."""
    flags = {"unlearn": "retrain", "epochs": 12}
    stage = {"script": "main_forget", "flags": flags, "processes": 2}
    plan = tiny(tmp_path, seeds=[2], stages={"retrain": stage})
    folder = read_plan(plan).folder
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    words = [sys.executable, ROOT / "sweep.py", plan]
    launcher = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    until(lambda: list(folder.glob("retrain/*/retraincheckpoint.pth.tar")), 180)
    (run,) = folder.glob("retrain/*")
    victim = json.loads((run / "run.json").read_text())["starts"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    out, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, (run / "log.txt").read_text()
    assert "done=1" in out
    assert {*starts(plan).values()} == {2}
    given = shlex.split((run / "cmd.txt").read_text())[1:]
    again = [word.replace(str(run), str(tmp_path / "again")) for word in given]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *again]
    environment["OMP_NUM_THREADS"] = "1"
    subprocess.run(torchrun, cwd=ROOT, check=True, env=environment, capture_output=True)
    first, second = (
        hash_arrays(weights(each / "retraincheckpoint.pth.tar"))
        for each in (run, tmp_path / "again")
    )
    assert first == second


# --------------------------------------------------------------------------------------------- GPUs


@pytest.mark.parametrize(
    ("visible", "size", "groups"),
    [
        ("0,1,2,3", 1, ["0", "1", "2", "3"]),
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("0,1,2,3,4", 2, ["0,1", "2,3"]),
        ("3,GPU-5f", 2, ["3,GPU-5f"]),
        ("", 4, []),
    ],
)
def test_a_worker_has_as_many_gpus_as_a_run_has_processes(visible, size, groups, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("SHARE_GPUS", raising=False)
    assert launchers.gpu_groups(size) == groups
    assert launch.Workers("local", None, None, [], size).count() == max(1, len(groups))


def test_too_few_gpus_are_refused_unless_processes_share_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    plan = content(tmp_path)
    plan["base"] = {name: value for name, value in plan["base"].items() if name != "device"}
    plan["stages"]["original"]["processes"] = 4
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    said = "a run of the plan is 4 processes, of which each takes a GPU, and here are 2 GPUs"
    refused(capsys, sweep.main([str(tmp_path / "plan.json")]), said)
    monkeypatch.setenv("SHARE_GPUS", "1")
    assert launchers.gpu_groups(4) == ["0,1"]


@pytest.mark.parametrize(
    ("launcher", "options", "said"),
    [
        ("slurm", ["timeout_min=5"], "--options gpus_per_node=4"),
        ("slurm", ["gpus_per_node=4"], ""),
        ("ray", [], "--options num_gpus=4"),
    ],
)
def test_the_option_that_other_launchers_need_is_said(
    launcher, options, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(launchers.LAUNCHERS, launcher, lambda count, options, logs: "started")
    workers = launch.Workers(launcher, 1, None, options, 4)
    assert workers.start_launcher(tmp_path, 1) == "started"
    assert said in (err := capsys.readouterr().err)
    assert bool(said) == bool(err)


def test_runs_on_the_cpu_take_no_gpus(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(launch, "sweep", lambda plan, runs, file, workers: asked.append(workers))
    stage = {"script": "main_forget", "flags": {"unlearn": "retrain"}, "processes": 3}
    plan = tiny(tmp_path, stages={"retrain": stage})
    assert sweep.main([str(plan)]) == 0
    assert asked[0].gpus == 1
