"""A script's manners: exit codes, one line for each mistake, standard output, signals."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from runtime import GONE, distributed
from runtime.provenance import Call, current_call, machine_load
from runtime.signals import stop_on_signals
from utils import RunFailed, UserError, printable

# What is said of memory in a plain RuntimeError: of the CPU's by torch, of a GPU's by CUDA and its
# libraries.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def script(main: Callable) -> Callable[..., int]:
    """Turn ``main(argv)`` into a well-mannered script: an exit code and one line instead of a
    traceback for what users and machines cause.

    SIGTERM and SIGUSR1 (what a scheduler sends before the end) stop it as SIGINT does. In a run of
    several processes only the first one speaks, but for what may have happened to one of them
    alone.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        _open_standard_files()
        argv = sys.argv[1:] if argv is None else argv
        name = Path(main.__code__.co_filename).name
        if fault := _environment_fault():
            print(f"{name}: error: {fault}", file=sys.stderr)
            return 2
        with _called(name, argv):
            code = ended(name, argv)
        if distributed.world_size() > 1 and main.__module__ == "__main__":
            distributed.exit_process(code)
        return code

    def ended(name: str, argv: list[str]) -> int:
        try:
            with stop_on_signals():
                with contextlib.suppress(AttributeError, ValueError):
                    sys.stdout.reconfigure(
                        errors="backslashreplace"
                    )  # a path of odd bytes must not end a run
                with _among_others():
                    _run(main, argv)
        except UserError as error:
            return _end(name, f"error: {error}", 2, alone=False)
        except RunFailed as error:
            return _end(name, f"failed: {error}", 1, alone=False)
        except KeyboardInterrupt as stop:
            by = str(stop) or "SIGINT"
            on = (
                "what was finished is on disk: the same command, with --resume where it has that"
                " flag, goes on from there"
            )
            return _end(name, f"stopped by {by}; {on}", 130, alone=False)
        except BrokenPipeError:
            _forget_output()
            return _end(name, "failed: nothing reads the output any more", 1)
        except (MemoryError, OSError, RuntimeError) as error:
            if (reason := _of_the_machine(error)) is None:
                raise
            return _end(name, f"failed: {reason}", 1)
        return 0

    return wrapped


def _open_standard_files() -> None:
    """Open what was closed of standard input, output and error to nowhere: the next file that is
    opened would take its place.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _environment_fault() -> str | None:
    """What around the process makes any run impossible, in words; None where all is in order."""
    try:
        os.getcwd()
    except OSError:
        return GONE
    return distributed.environment_fault()


@contextlib.contextmanager
def _called(name: str, argv: list[str]) -> Iterator[None]:
    """Know the script's command for the block; --threads holds for it, too."""
    outer, threads = current_call.get(), torch.get_num_threads()
    token = current_call.set(Call([name, *argv], outer.load if outer else machine_load()))
    try:
        yield
    finally:
        current_call.reset(token)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _run(main: Callable, argv: list[str]) -> None:
    """``main(argv)``, with its last words written out: a closed pipe is then found here and not at
    the interpreter's end.
    """
    try:
        main(argv)
    except SystemExit:  # --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


@contextlib.contextmanager
def _among_others() -> Iterator[None]:
    """The place of a script in a run of several processes: one speaks, and whoever met the others
    also leaves them.
    """
    met_before = distributed.is_initialized()
    with distributed.only_main_prints():
        yield
    # Not after an error, which may be one process's alone: leaving can wait for the others for
    # ever.
    if not met_before:
        distributed.destroy()


def _end(name: str, message: str, code: int, *, alone: bool = True) -> int:
    """Say how it ended; what all processes of a run end with (not ``alone``) is said by the first
    one on each machine.
    """
    if alone or distributed.local_rank() == 0:
        who = distributed.rank_prefix() if alone or distributed.rank() else ""
        # Where standard error is on a full disk too, the exit code alone says it.
        with contextlib.suppress(OSError):
            print(f"{name}: {who}{printable(message)}", file=sys.stderr)
    return code


def _forget_output() -> None:
    """Send what is still buffered nowhere: at exit Python would complain about the closed pipe once
    more.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_the_machine(error: Exception) -> str | None:
    """In words, an error of memory or files that is no mistake of this code; None for
    all others.
    """
    remedy = "try a smaller --batch_size, --precision bf16, or another --gpu"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in str(error) for sign in OUT_OF_MEMORY
    ):
        return f"out of memory; {remedy}"
    if "unable to find an engine to execute" in str(
        error
    ):  # torch's words where no convolution of cuDNN's gets its workspace
        return f"cuDNN has no memory, or no program, for a convolution; {remedy}"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file or a device'}: {error.strerror or error}"
    if distributed.is_peer_lost(error):
        return (
            "another process of this run is gone; the same command with --resume goes on from the"
            " last finished epoch"
        )
    return None
