"""A sweep on a real Slurm of one node, started for the test where Debian's packages are (slurmctld,
slurmd, slurm-client).

``SLURM_PREFIX`` may name a folder into which they were unpacked.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import finished, starts, tiny

from sweeping import launchers
from sweeping.plan import read_plan
from sweeping.runs import read_record

ROOT = Path(__file__).parents[2]

PREFIX = Path(os.environ.get("SLURM_PREFIX", "/"))
DAEMONS = [PREFIX / "usr/sbin" / name for name in ("slurmctld", "slurmd", "slurmstepd")]


def found(path):
    """The daemon, which Debian's alternatives may not have linked in an unpacked folder."""
    return next(
        (each for each in (path, path.with_name(path.name + "-wlm")) if each.exists()), None
    )


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A controller and a node in a temporary folder, without munge; yields the folder when the node
    is idle.

    A job that is queued again waits until its credential has expired: 120 s, or as few as 5.
    ``JobRequeue=0`` is the harder case: only those jobs are queued again that ask for it.
    """
    pytest.importorskip("submitit", reason="pip install -r requirements-slurm.txt")
    daemons = [found(path) for path in DAEMONS]
    if None in daemons or os.geteuid() != 0:
        pytest.skip(
            "Slurm's daemons are not installed (apt-get install slurmctld slurmd slurm-client), or"
            " this is not root"
        )
    folder = tmp_path / "slurm"
    folder.mkdir()
    plugins = next(PREFIX.glob("usr/lib/*/slurm-wlm"))
    host, ports = socket.gethostname().split(".")[0], free_ports(2)
    (folder / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
PluginDir={plugins}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
JobRequeue=0
KillWait=1
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # this node binds no job to its cores
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{PREFIX / 'usr/bin'}:{os.environ['PATH']}")
    libraries = ":".join(
        map(str, (plugins, plugins.parent, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])))
    )
    if Path("/") != PREFIX:
        monkeypatch.setenv("LD_LIBRARY_PATH", libraries)
    controller, node, step = map(str, daemons)
    with open(folder / "out.log", "w") as log:
        processes = [
            subprocess.Popen(words, stdout=log, stderr=log)
            for words in ([controller, "-D"], [node, "-D", "-d", step])
        ]
    try:
        until(lambda: "idle" in told("sinfo", "-h", "-o", "%T"), folder)
        yield folder
    finally:
        told("scancel", "--state=RUNNING", "--state=PENDING", "-u", "root")
        until(
            lambda: not told("squeue", "--noheader"), folder
        )  # workers end with their job, and slurmd sees to it
        for process in processes:
            process.terminate()
            process.wait(30)


def told(*words):
    return (
        subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout
        if shutil.which(words[0])
        else ""
    )


def until(condition, folder, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        if time.time() > deadline:
            pytest.fail("\n".join(file.read_text() for file in folder.glob("*.log")))
        time.sleep(0.2)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_a_sweep_as_a_job_array(slurm, tmp_path, capsys):
    finished(
        tiny(tmp_path),
        capsys,
        "--launcher",
        "slurm",
        "--workers",
        "2",
        "--options",
        "cpus_per_task=1",
        "timeout_min=10",
    )
    assert len(starts(tmp_path / "plan.json")) == 3


def test_workers_whose_jobs_are_queued_again_go_on(slurm, tmp_path):
    plan = tiny(
        tmp_path,
        stages={
            "retrain": {"script": "main_forget", "flags": {"unlearn": "retrain", "epochs": 40}}
        },
    )
    folder = read_plan(plan).folder
    flags = [
        "--launcher",
        "slurm",
        "--workers",
        "2",
        "--options",
        "cpus_per_task=1",
        "timeout_min=30",
    ]
    with open(slurm / "sweep.log", "w") as log:
        launcher = subprocess.Popen(
            [sys.executable, ROOT / "sweep.py", plan, *flags], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        until(
            lambda: len(list(folder.glob("retrain/*/retraincheckpoint.pth.tar"))) == 2, slurm, 180
        )
        runs = {read_record(path).starts[0]["worker"]: path for path in folder.glob("retrain/*")}
        preempted, requeued = (
            runs[worker] for worker in sorted(runs)
        )  # the name begins with the slot, as does the job's index
        jobs = queue()
        subprocess.run(
            ["scancel", "--signal=USR2", jobs[0]], check=True
        )  # what --signal, which submitit sets, has Slurm send
        subprocess.run(["scontrol", "requeue", jobs[1]], check=True)
        assert launcher.wait(240) == 0, (slurm / "sweep.log").read_text()
    finally:
        launcher.terminate()
        launcher.wait(60)
    assert "done=2" in (slurm / "sweep.log").read_text()
    assert queue("--states=all") == jobs  # nobody was taken for dead and replaced
    assert all("Restarts=1 " in told("scontrol", "show", "job", job) for job in jobs)
    for path in runs.values():
        assert read_record(path).code == 0
        log = (path / "log.txt").read_text()
        assert (
            log.count("RESULT method=Retrain") == log.count("epoch 1/40 ") == 1
        )  # resumed, not begun again
    assert len(read_record(preempted).starts) == 2
    # A requeue leaves a worker some seconds (KillWait, but never under 5), in which a fast machine
    # ends its run.
    assert len(read_record(requeued).starts) in (1, 2)


def queue(*flags):
    return sorted(told("squeue", "--noheader", "--array", "--format=%i", *flags).split())


# ------------------------------------------------------------------------------------ without Slurm


def test_a_worker_goes_on_through_the_signals_of_its_job_and_ends_with_it(tmp_path):
    up = tmp_path / "pid"
    code = (
        f"import os, time; print(os.getpid(), end=' ', flush=True, file=open({str(up)!r}, 'w'));"
        " time.sleep(100)"
    )
    job = (
        "import signal, sys; from sweeping.launchers import Task; signal.signal(signal.SIGUSR2,"
        " lambda *_: sys.exit(7)); "
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{job}Task([sys.executable, '-c', {code!r}])()"], cwd=ROOT
    )
    until(lambda: up.exists() and up.read_text().endswith(" "), tmp_path)
    worker = int(up.read_text())
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker, number)
    time.sleep(0.2)
    os.kill(worker, 0)  # it is there
    process.send_signal(signal.SIGUSR2)  # submitit leaves from its handler
    assert process.wait(10) == 7
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize(
    ("listed", "outcome", "expected"),
    [
        (True, None, None),
        (True, "error", None),  # of a life before it was queued again
        (True, "success", 0),
        (False, None, 1),
        (False, "error", 1),
        (False, "success", 0),
    ],
)
def test_a_job_is_dead_when_slurm_no_longer_has_it(tmp_path, listed, outcome, expected):
    result = tmp_path / "result.pkl"
    if outcome:
        result.touch()
    job = SimpleNamespace(
        job_id="3_1",
        paths=SimpleNamespace(result_pickle=result),
        exception=lambda: outcome if outcome == "error" else None,
    )
    asked = launchers.Queue()
    asked.jobs = {"3_1"} if listed else {"3_0", "31"}
    assert launchers.Queued(job, asked).poll() == expected


def test_a_controller_that_does_not_answer_has_every_job(tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "LOOK", 0.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = launchers.Queue()
    asked.jobs = {"3_1"}
    for text, expected in (
        ("echo 3_0; exit 1", True),
        ("echo 3_0; echo 3_1", True),
        ("echo 3_0", False),
    ):
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "squeue").chmod(0o755)
        assert asked.has("3_1") == expected
