"""A run of several processes: torchrun, with the exit code of the process that failed first.

torchrun itself ends with 1 for whatever went wrong. Each process ends with the one that started it:
worker, torchrun, the run's own.
"""

import os
import runpy
import subprocess
import sys
from io import TextIOBase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130  # an exit code of the scripts


def call(script: Path, words: list[str], processes: int, log: TextIOBase) -> int:
    """The exit code of a script that ``processes`` processes make, their output in ``log``; they
    share the threads of this one.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The current folder, from which the run's paths are, must not hide this project's modules.
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "sweeping.processes", "launch", str(os.getpid())]
    command += [str(processes), str(script), *words]
    streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=os.environ | environment, **streams) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            return INTERRUPTED


def launch(processes: int, script: str, words: list[str]) -> int:
    """What ``torchrun --standalone --nproc_per_node=PROCESSES SCRIPT WORDS`` does."""
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // processes))
    options = ["--standalone", f"--nproc_per_node={processes}", "--module", "sweeping.processes"]
    try:
        run(parse_args([*options, "rank", str(os.getpid()), script, *words]))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 1
    except SignalException:
        return INTERRUPTED
    return 0


def main(role: str, parent: str, *words: str) -> int:
    from runtime.signals import end_with

    end_with(int(parent))
    if role == "launch":
        processes, script, *rest = words
        return launch(int(processes), script, rest)
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
