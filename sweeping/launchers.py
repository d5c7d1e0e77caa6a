"""Who runs the workers: this machine, Slurm (submitit) or Ray. A worker is the same command
everywhere; see :func:`sweeping.runs.work`.

A launcher only starts workers and starts another where one died. What is to be done, and by whom,
is in the folders.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from utils import RunFailed, UserError

IDLE_DEATHS = 3  # workers that die without having taken a run, until the launcher gives up
LOOK = 10.0  # seconds between two looks at Slurm's queue
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
    """Refuse a launcher or a search whose package is not installed, in a line that says how to
    install it.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{flag} needs {module}, which is not installed:"
            f" {INSTALL.get(module, f'pip install {module}')}"
        )


# -------------------------------------------------------------------------------------------- local


class Local:
    """Processes of this machine, each with one of its GPUs where it has any; they end when this
    process is gone.

    More workers than GPUs share them evenly: slot i has GPU i modulo their number, and keeps it if
    its worker is replaced.
    """

    def __init__(self, workers: int, options: dict[str, str], logs: Path):
        if options:
            raise UserError(f"--options {next(iter(options))}: --launcher local has none")
        self.workers, self.logs = workers, logs
        self.gpus = visible_gpus()
        self.threads = str(max(1, (os.cpu_count() or 1) // workers))

    def start(self, commands: dict[int, list[str]]) -> dict[int, Handle]:
        """A handle for each of {slot: command}; a slot has its GPU."""
        return {slot: self._start(slot, words) for slot, words in commands.items()}

    def _start(self, slot: int, words: list[str]) -> Handle:
        environment = {"OMP_NUM_THREADS": self.threads, **os.environ}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        with open(self.logs / f"worker-{slot}.log", "a") as log:
            process = subprocess.Popen(
                [*words, f"--parent={os.getpid()}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        return Process(process)


class Process:
    """A worker that is a process of ours."""

    def __init__(self, process: subprocess.Popen):
        self.process, self.poll = process, process.poll

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def visible_gpus() -> list[str]:
    """The names of this machine's GPUs for CUDA_VISIBLE_DEVICES, of which the user may have chosen
    some.

    As for CUDA, a negative number ends the list: -1 is none.
    """
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return list(itertools.takewhile(lambda name: not name.startswith("-"), filter(None, names)))
    return [str(index) for index in range(torch.cuda.device_count())]


# ------------------------------------------------------------------------------------ slurm and ray


class Task:
    """A worker's command, to be called in a job of submitit's, which calls ``checkpoint`` before it
    puts a preempted job back.
    """

    def __init__(self, words: list[str]):
        self.words = words

    def __call__(self) -> None:
        command = [*self.words, f"--parent={os.getpid()}"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_deaf) as worker:
            try:
                code = worker.wait()
            finally:
                # Submitit leaves from here once the job is back in the queue: no two are to be at
                # it
                worker.kill()
        if code:
            raise subprocess.CalledProcessError(code, command)

    def checkpoint(self) -> object:
        """The same worker again: what it was at is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Task(self.words))


def _deaf() -> None:
    """Let a worker go on when Slurm warns its job.

    Slurm sends its signals to every process of a job. A worker that ended by one would make a
    failure of what is to be queued again; so only submitit's process hears them, and Slurm ends
    with SIGKILL what is left of the job.
    """
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


class Slurm:
    """Jobs of a Slurm cluster, as an array. ``options`` are submitit's, such as slurm_partition=gpu
    timeout_min=240 gpus_per_node=1.
    """

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
        # Whether a preempted job is queued again must not depend on the cluster's JobRequeue.
        array = (
            {"slurm_array_parallelism": workers, "slurm_additional_parameters": {"requeue": True}}
            if self.queue
            else {}
        )
        limits = {"timeout_min": 60, **{name: _plain(value) for name, value in options.items()}}
        try:
            self.executor.update_parameters(name="sweep", **array, **limits)
        except Exception as error:  # submitit's own checks of names and values
            raise UserError(f"--options: {str(error).splitlines()[0]}") from None
        importable()

    def start(self, commands: dict[int, list[str]]) -> dict[int, Handle]:
        with self.executor.batch():  # one array
            jobs = [self.executor.submit(Task(words)) for words in commands.values()]
        if self.queue is None:
            return {slot: Job(job) for slot, job in zip(commands, jobs, strict=True)}
        self.queue.jobs |= {job.job_id for job in jobs}
        return {slot: Queued(job, self.queue) for slot, job in zip(commands, jobs, strict=True)}


class Job:
    """A worker that is a job of submitit's."""

    def __init__(self, job: Any):
        self.job = job

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        return 0 if self.job.exception() is None else 1

    def stop(self) -> None:
        self.job.cancel(
            check=False
        )  # it may have ended by itself, and others are still to be stopped


class Queued(Job):
    """A job of Slurm's, which may have several lives.

    It has ended well when its worker says so, and is dead when Slurm no longer has it. Anything
    else is no end: an error may be the word of a life that Slurm has ended in order to queue the
    job again.
    """

    def __init__(self, job: Any, queue: "Queue"):
        super().__init__(job)
        self.queue = queue

    def poll(self) -> int | None:
        queued = self.queue.has(
            self.job.job_id
        )  # before the look at the result: a job that is gone has written its last
        result = self.job.paths.result_pickle
        # Listing a folder makes a network file system look again, which a question for one name
        # does not.
        if result.name in os.listdir(result.parent) and self.job.exception() is None:
            return 0
        return None if queued else 1


class Queue:
    """The user's jobs that run or wait. This is asked of Slurm itself; submitit asks its
    accounting, which not every cluster has.
    """

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self.asked = time.monotonic()

    def has(self, job: str) -> bool:
        if time.monotonic() - self.asked > LOOK:
            words = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)
            if (
                answer.returncode == 0
            ):  # a controller that does not answer says nothing about the jobs
                self.jobs = set(answer.stdout.split())
            self.asked = time.monotonic()
        return job in self.jobs


class Ray:
    """Tasks of a Ray cluster; ``options``: address=auto for one that runs, else a local one is
    started, and a task's: num_gpus=1.
    """

    def __init__(self, workers: int, options: dict[str, str], logs: Path):
        need("ray", "--launcher ray")
        import ray

        self.ray, settings = ray, {name: _plain(value) for name, value in options.items()}
        address = settings.pop("address", None)
        importable()
        local = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(
            address=address,
            logging_level="error",
            runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
            **local,
        )
        # A task that fails is started again by the launcher, which counts; Ray itself is not to.
        self.remote = ray.remote(**{"num_cpus": 1, "max_retries": 0, **settings})(run_task)

    def start(self, commands: dict[int, list[str]]) -> dict[int, Handle]:
        return {
            slot: Reference(self.ray, self.remote.remote(words)) for slot, words in commands.items()
        }


def run_task(words: list[str]) -> None:
    """What a Ray task does."""
    subprocess.run([*words, f"--parent={os.getpid()}"], stdin=subprocess.DEVNULL, check=True)


class Reference:
    """A worker that is a task of Ray's."""

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


def importable() -> None:
    """Let processes that others start for us find this project's modules."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])


def _plain(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


LAUNCHERS = {"local": Local, "slurm": Slurm, "ray": Ray}


# -------------------------------------------------------------------------------------- supervision


def supervise(
    launcher: Any,
    command: list[str],
    workers: int,
    *,
    took_a_run: Callable[[str], bool],
    show: Callable[[], None],
    every: float = 0.5,
) -> None:
    """Keep ``workers`` workers at it until each ends by itself; one that dies is replaced.

    A worker's death costs the run that it was at a try, so that deaths are bounded; workers that
    die before they take a run, as on a machine without the packages, end the sweep.

    Raises:
        RunFailed: IDLE_DEATHS workers in all died without having taken a run.
    """
    names, idle = {}, 0

    def named(slot: int, generation: int) -> list[str]:
        names[slot] = f"{slot}-{os.getpid()}-{generation}"
        return [*command, f"--worker={names[slot]}"]

    running = launcher.start({slot: named(slot, 0) for slot in range(workers)})
    try:
        for generation in itertools.count(1):
            time.sleep(every)
            codes = {slot: handle.poll() for slot, handle in running.items()}
            died = [slot for slot, code in codes.items() if code]
            idle += sum(not took_a_run(names[slot]) for slot in died)
            running = {slot: handle for slot, handle in running.items() if codes[slot] is None}
            if idle >= IDLE_DEATHS:
                raise RunFailed(f"{idle} workers ended before they took a run")
            if died:
                running |= launcher.start({slot: named(slot, generation) for slot in died})
            show()
            if not running:
                return
    finally:
        for handle in running.values():
            handle.stop()


def worker_command(words: list[str]) -> list[str]:
    """sweep.py as a worker; its flags follow."""
    return [sys.executable, str(Path(__file__).resolve().parents[1] / "sweep.py"), *words]
