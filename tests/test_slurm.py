"""A sweep on a real Slurm of one node, started for the test where Debian's packages are (slurmctld, slurmd, slurm-client).

``SLURM_PREFIX`` may name a folder into which they were unpacked.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from test_sweep import finished, starts, tiny

PREFIX = Path(os.environ.get("SLURM_PREFIX", "/"))
DAEMONS = [PREFIX / "usr/sbin" / name for name in ("slurmctld", "slurmd", "slurmstepd")]


def found(path):
    """The daemon, which Debian's alternatives may not have linked in an unpacked folder."""
    return next((each for each in (path, path.with_name(path.name + "-wlm")) if each.exists()), None)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A controller and a node in a temporary folder, without munge; yields when the node is idle."""
    pytest.importorskip("submitit", reason="pip install -r requirements-slurm.txt")
    daemons = [found(path) for path in DAEMONS]
    if None in daemons or os.geteuid() != 0:
        pytest.skip("Slurm's daemons are not installed (apt-get install slurmctld slurmd slurm-client), or this is not root")
    folder = tmp_path / "slurm"
    folder.mkdir()
    plugins = next(PREFIX.glob("usr/lib/*/slurm-wlm"))
    host, ports = socket.gethostname().split(".")[0], free_ports(2)
    (folder / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
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
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{PREFIX / 'usr/bin'}:{os.environ['PATH']}")
    libraries = ":".join(map(str, (plugins, plugins.parent, *filter(None, [os.environ.get("LD_LIBRARY_PATH")]))))
    if Path("/") != PREFIX:
        monkeypatch.setenv("LD_LIBRARY_PATH", libraries)
    controller, node, step = map(str, daemons)
    with open(folder / "out.log", "w") as log:
        processes = [subprocess.Popen(words, stdout=log, stderr=log) for words in ([controller, "-D"], [node, "-D", "-d", step])]
    try:
        until(lambda: "idle" in told("sinfo", "-h", "-o", "%T"), folder)
        yield
    finally:
        told("scancel", "--state=RUNNING", "--state=PENDING", "-u", "root")
        for process in processes:
            process.terminate()
            process.wait(30)


def told(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout if shutil.which(words[0]) else ""


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
    finished(tiny(tmp_path), capsys, "--launcher", "slurm", "--workers", "2", "--options", "cpus_per_task=1", "timeout_min=10")
    assert len(starts(tmp_path / "plan.json")) == 3
