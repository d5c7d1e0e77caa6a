"""Launchers: they start workers on this machine, by Slurm (submitit) or by Ray.

A worker is the same command everywhere (:func:`sweeping.runs.work`). What is to be done, and by
whom, is in the folders.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from runtime.distributed import shares_gpus
from utils import UserError

LOOK = 10.0  # seconds between two calls of squeue
INSTALL = {
    "submitit": "pip install -r requirements-slurm.txt",
    "ray": "pip install -r requirements-ray.txt",
    "optuna": "pip install -r requirements-search.txt",
}


class Handle(Protocol):
    """A started worker."""

    def poll(self) -> int | None:
        """None while it runs, else 0 or what it ended with."""

    def stop(self) -> None:
        """End it; its run is resumed by whoever takes it next."""


def need(module: str, flag: str) -> None:
    """Refuse a flag whose package is not installed, and say how to install it."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{flag} needs {module}, which is not installed: {INSTALL[module]}")


# -------------------------------------------------------------------------------------------- local


class Local:
    """Processes of this machine, which end when this process is gone.

    Slot i has the ``gpus`` GPUs of group i modulo their number, if there are any, and keeps them if
    its worker is replaced.
    """

    def __init__(self, workers: int, options: dict[str, str], logs: Path, gpus: int = 1):
        if options:
            raise UserError(f"--options {next(iter(options))}: --launcher local has none")
        self.workers, self.logs = workers, logs
        self.groups = gpu_groups(gpus)
        self.threads = str(max(1, (os.cpu_count() or 1) // workers))

    def start(self, commands: dict[int, list[str]]) -> dict[int, Handle]:
        """{slot: handle} of the workers started by {slot: command}."""
        return {slot: self._start(slot, words) for slot, words in commands.items()}

    def _start(self, slot: int, words: list[str]) -> Handle:
        environment = {"OMP_NUM_THREADS": self.threads, **os.environ}
        if self.groups:
            environment["CUDA_VISIBLE_DEVICES"] = self.groups[slot % len(self.groups)]
        with open(self.logs / f"worker-{slot}.log", "a") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            command = [*words, f"--parent={os.getpid()}"]
            return Process(subprocess.Popen(command, env=environment, **streams))


class Process:
    """A worker that is a child process."""

    def __init__(self, process: subprocess.Popen):
        self.process, self.poll = process, process.poll

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def visible_gpus() -> list[str]:
    """The names of this machine's GPUs for CUDA_VISIBLE_DEVICES, or of those that it lists already.

    As for CUDA, a negative number ends the list: -1 is none.
    """
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return list(itertools.takewhile(lambda name: not name.startswith("-"), filter(None, names)))
    return [str(index) for index in range(torch.cuda.device_count())]


def gpu_groups(size: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each group of ``size`` GPUs of this machine; those that are left over
    are in none. Where processes share GPUs by SHARE_GPUS=1, too few are a group.

    Raises:
        UserError: there are GPUs, but fewer.
    """
    gpus = visible_gpus()
    if gpus and len(gpus) < size and not shares_gpus():
        raise UserError(
            f"a run of the plan is {size} processes, of which each takes a GPU, and here are"
            f" {len(gpus)} GPUs; lower its stage's processes, or set SHARE_GPUS=1 to try it"
        )
    size = min(size, max(1, len(gpus)))
    return [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


# ------------------------------------------------------------------------------------ slurm and ray


class Task:
    """A worker's command as a submitit job; submitit calls ``checkpoint`` to requeue a job."""

    def __init__(self, words: list[str]):
        self.words = words

    def __call__(self) -> None:
        command = [*self.words, f"--parent={os.getpid()}"]
        options = {"stdin": subprocess.DEVNULL, "preexec_fn": _ignore_signals}
        with subprocess.Popen(command, **options) as worker:
            try:
                code = worker.wait()
            finally:
                worker.kill()  # the job may be requeued, and only one process is to make the run
        if code:
            raise subprocess.CalledProcessError(code, command)

    def checkpoint(self) -> object:
        """The same worker again; its run resumes from disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Task(self.words))


def _ignore_signals() -> None:
    """Let a worker ignore the signals by which Slurm warns every process of its job.

    Only submitit's process handles them: a worker that ended by one would fail a job that is to be
    requeued. Slurm ends what is left of the job with SIGKILL.
    """
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


class Slurm:
    """One Slurm job array; ``options`` are submitit's, such as slurm_partition and timeout_min."""

    def __init__(self, workers: int, options: dict[str, str], logs: Path):
        need("submitit", "--launcher slurm")
        import submitit

        cluster = options.pop("cluster", "slurm")
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError(
                "--launcher slurm: no sbatch here; run it where Slurm is, or try it with --options"
                " cluster=local"
            )
        self.executor = submitit.AutoExecutor(folder=logs / "%j", cluster=cluster)
        self.queue = Queue() if cluster == "slurm" else None
        array, limits = {}, {"timeout_min": 60}
        limits |= {name: _number_or_text(value) for name, value in options.items()}
        if self.queue:
            array["slurm_array_parallelism"] = workers
            # A preempted job is requeued whatever the cluster's JobRequeue.
            array["slurm_additional_parameters"] = {"requeue": True}
        try:
            self.executor.update_parameters(name="sweep", **array, **limits)
        except Exception as error:  # submitit's own checks of names and values
            raise UserError(f"--options: {str(error).splitlines()[0]}") from None
        _make_importable()

    def start(self, commands: dict[int, list[str]]) -> dict[int, Handle]:
        with self.executor.batch():  # one array
            jobs = [self.executor.submit(Task(words)) for words in commands.values()]
        if self.queue is None:
            return {slot: Job(job) for slot, job in zip(commands, jobs, strict=True)}
        self.queue.jobs |= {job.job_id for job in jobs}
        return {slot: Queued(job, self.queue) for slot, job in zip(commands, jobs, strict=True)}


class Job:
    """A worker that is a submitit job."""

    def __init__(self, job: Any):
        self.job = job

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        return 0 if self.job.exception() is None else 1

    def stop(self) -> None:
        self.job.cancel(check=False)  # a job that has ended must not keep others from being stopped


class Queued(Job):
    """A Slurm job, which may be requeued.

    It has succeeded when its result says so, and failed when Slurm no longer has it. An error in
    its result is no end: Slurm may have stopped the job in order to requeue it.
    """

    def __init__(self, job: Any, queue: "Queue"):
        super().__init__(job)
        self.queue = queue

    def poll(self) -> int | None:
        # Asked before the result is read: a job that is gone writes no more.
        queued = self.queue.has(self.job.job_id)
        result = self.job.paths.result_pickle
        # Listing the folder refreshes a network file system's cache; asking for one name does not.
        if result.name in os.listdir(result.parent) and self.job.exception() is None:
            return 0
        return None if queued else 1


class Queue:
    """The user's jobs in ``squeue``; not every cluster has the accounting that submitit asks."""

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self.asked = time.monotonic()

    def has(self, job: str) -> bool:
        if time.monotonic() - self.asked > LOOK:
            words = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)
            if answer.returncode == 0:  # else the controller did not answer
                self.jobs = set(answer.stdout.split())
            self.asked = time.monotonic()
        return job in self.jobs


class Ray:
    """Tasks of a Ray cluster; ``options`` are a task's, such as num_gpus=1, and address=auto for a
    running cluster, without which a local one is started.
    """

    def __init__(self, workers: int, options: dict[str, str], logs: Path):
        need("ray", "--launcher ray")
        import ray

        self.ray = ray
        settings = {name: _number_or_text(value) for name, value in options.items()}
        address = settings.pop("address", None)
        _make_importable()
        local = {} if address else {"num_cpus": workers, "include_dashboard": False}
        variables = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
        ray.init(address=address, logging_level="error", runtime_env=variables, **local)
        # Ray does not retry a task: the launcher counts the tries.
        self.remote = ray.remote(**{"num_cpus": 1, "max_retries": 0, **settings})(run_task)

    def start(self, commands: dict[int, list[str]]) -> dict[int, Handle]:
        started = {slot: self.remote.remote(words) for slot, words in commands.items()}
        return {slot: Reference(self.ray, task) for slot, task in started.items()}


def run_task(words: list[str]) -> None:
    """Run a worker's command in a Ray task."""
    subprocess.run([*words, f"--parent={os.getpid()}"], stdin=subprocess.DEVNULL, check=True)


class Reference:
    """A worker that is a Ray task."""

    def __init__(self, ray: Any, reference: Any):
        self.ray, self.reference = ray, reference

    def poll(self) -> int | None:
        if not self.ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            self.ray.get(self.reference)
        except self.ray.exceptions.RayError:
            return 1
        return 0

    def stop(self) -> None:
        self.ray.cancel(self.reference, force=True)


def _make_importable() -> None:
    """Put this project first in PYTHONPATH, for the processes that Slurm and Ray start."""
    root = str(Path(__file__).resolve().parents[1])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and path != root]
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *others])


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


GPUS_OF = {"slurm": "gpus_per_node", "ray": "num_gpus"}  # the options for a worker's GPUs
LAUNCHERS = {"local": Local, "slurm": Slurm, "ray": Ray}
