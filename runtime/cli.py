"""What each script does around its work: exit codes, one line for a mistake, output, signals."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from runtime import GONE, distributed
from runtime.provenance import calling
from runtime.signals import stop_on_signals
from utils import RunFailed, UserError, printable

# Words for exhausted memory in a plain RuntimeError of torch (CPU), CUDA or its libraries.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def script(main: Callable) -> Callable[..., int]:
    """Turn ``main(argv)`` into a function that returns an exit code; what users and machines cause
    is one line on standard error instead of a traceback.

    0 done, 1 failed, 2 impossible request, 130 stopped by SIGINT, SIGTERM or SIGUSR1 (which
    schedulers send before a job's end). Under torchrun only rank 0 prints, except errors that may
    be one rank's alone.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        _open_standard_files()
        argv = sys.argv[1:] if argv is None else argv
        name = Path(main.__code__.co_filename).name
        if fault := _environment_fault():
            print(f"{name}: error: {fault}", file=sys.stderr)
            return 2
        with calling(name, argv):
            code = _exit_code(main, name, argv)
        if distributed.world_size() > 1 and main.__module__ == "__main__":
            distributed.exit_process(code)
        return code

    return wrapped


def _exit_code(main: Callable, name: str, argv: list[str]) -> int:
    try:
        with stop_on_signals():
            with contextlib.suppress(AttributeError, ValueError):
                # A path with undecodable bytes must not end a run.
                sys.stdout.reconfigure(errors="backslashreplace")
            with _process_group():
                _run(main, argv)
    except UserError as error:
        return _end(name, f"error: {error}", 2, every_rank=True)
    except RunFailed as error:
        return _end(name, f"failed: {error}", 1, every_rank=True)
    except KeyboardInterrupt as stop:
        message = (
            f"stopped by {str(stop) or 'SIGINT'}; what was finished is on disk: the same command,"
            " with --resume where it has that flag, goes on from there"
        )
        return _end(name, message, 130, every_rank=True)
    except BrokenPipeError:
        _discard_output()
        return _end(name, "failed: nothing reads the output any more", 1)
    except (MemoryError, OSError, RuntimeError) as error:
        if (reason := _machine_fault(error)) is None:
            raise
        return _end(name, f"failed: {reason}", 1)
    return 0


def _open_standard_files() -> None:
    """Open closed standard streams to nowhere: the next opened file would take their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _environment_fault() -> str | None:
    """What in the process's environment makes any run impossible, in words, or None."""
    try:
        os.getcwd()
    except OSError:
        return GONE
    return distributed.environment_fault()


def _run(main: Callable, argv: list[str]) -> None:
    """``main(argv)``, then a flush, so that a closed pipe raises here and not at Python's exit."""
    try:
        main(argv)
    except SystemExit:  # --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """Only rank 0 prints in the block; a process group that was initialised in it is destroyed."""
    had_group = distributed.is_initialized()
    with distributed.only_main_prints():
        yield
    # Not after an error, which may be one rank's alone: destroying can wait for the others forever.
    if not had_group:
        distributed.destroy()


def _end(name: str, message: str, code: int, *, every_rank: bool = False) -> int:
    """Print how the script ended; an end that ``every_rank`` has is printed once a machine."""
    if not every_rank or distributed.local_rank() == 0:
        who = "" if every_rank and distributed.rank() == 0 else distributed.rank_prefix()
        with contextlib.suppress(OSError):  # standard error may be on a full disk, too
            print(f"{name}: {who}{printable(message)}", file=sys.stderr)
    return code


def _discard_output() -> None:
    """Send buffered output nowhere: at exit Python would report the closed pipe once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _machine_fault(error: Exception) -> str | None:
    """An error of memory, files or a lost rank in words; None for all others."""
    remedy = "try a smaller --batch_size, --precision bf16, or another --gpu"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in str(error) for sign in OUT_OF_MEMORY
    ):
        return f"out of memory; {remedy}"
    # torch's words where no convolution of cuDNN gets its workspace
    if "unable to find an engine to execute" in str(error):
        return f"cuDNN has no memory, or no program, for a convolution; {remedy}"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file or a device'}: {error.strerror or error}"
    if distributed.is_peer_lost(error):
        return (
            "another process of this run is gone; the same command with --resume goes on from the"
            " last finished epoch"
        )
    return None
