"""Seeds, devices, safe and atomic files, content hashes, run records: what every stage needs and no
method knows.
"""

import codecs
import contextlib
import contextvars
import ctypes
import functools
import glob
import hashlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

import parallel
from claims import FalseClaim, check_content, check_torch
from here import GONE


def _allow_numpy_numbers() -> None:
    """Let torch read what the reference's checkpoints hold besides tensors: numbers of numpy 1 or
    2. They run no code.
    """
    build = np.float64().__reduce__()[0]
    for core in ("core", "_core"):

        def scalar(dtype: np.dtype, data: bytes) -> np.generic:
            if dtype.kind not in "biuf":
                raise ValueError(f"a number of dtype {dtype}")
            return build(dtype, data)

        scalar.__module__, scalar.__qualname__ = f"numpy.{core}.multiarray", scalar.__name__
        torch.serialization.add_safe_globals([scalar])
    # A numpy number's bytes travel as encoded text; later versions of torch allow that function by
    # themselves.
    torch.serialization.add_safe_globals(
        [codecs.encode, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]
    )


_allow_numpy_numbers()


class _Call(NamedTuple):
    """A script that runs: its file's name and its words, and the machine's load before it, or the
    script that called it, began.
    """

    command: list[str]
    load: float | None


_call: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("call", default=None)


# What is said of memory in a plain RuntimeError: of the CPU's by torch, of a GPU's by CUDA and its
# libraries.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class UserError(Exception):
    """Something impossible was asked for: one line (what was given, what is allowed, what to do),
    exit code 2.
    """


class RunFailed(Exception):
    """A run went wrong in a way that we recognise, such as a non-finite loss: one line, exit code
    1.
    """


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
        if parallel.count() > 1 and main.__module__ == "__main__":
            parallel.leave(code)
        return code

    def ended(name: str, argv: list[str]) -> int:
        try:
            with _stopped_by_signals():
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
    return parallel.misnumbered()


@contextlib.contextmanager
def _called(name: str, argv: list[str]) -> Iterator[None]:
    """Know the script's command for the block; --threads holds for it, too."""
    outer, threads = _call.get(), torch.get_num_threads()
    token = _call.set(_Call([name, *argv], outer.load if outer else machine_load()))
    try:
        yield
    finally:
        _call.reset(token)
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
    met_before = parallel.has_met()
    with parallel.one_voice():
        yield
    # Not after an error, which may be one process's alone: leaving can wait for the others for
    # ever.
    if not met_before:
        parallel.stop()


def _end(name: str, message: str, code: int, *, alone: bool = True) -> int:
    """Say how it ended; what all processes of a run end with (not ``alone``) is said by the first
    one on each machine.
    """
    if alone or parallel.local_rank() == 0:
        with contextlib.suppress(
            OSError
        ):  # where standard error is on a full disk too, the code has to say it
            print(
                f"{name}: {parallel.who() if alone or parallel.rank() else ''}{printable(message)}",
                file=sys.stderr,
            )
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
    if parallel.is_lost(error):
        return (
            "another process of this run is gone; the same command with --resume goes on from the"
            " last finished epoch"
        )
    return None


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let signals raise ``KeyboardInterrupt`` with their name, unless whoever started the script
    ignores them.
    """

    def stop(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if _signals["held"]:
            _signals["waiting"] = name
            return
        raise KeyboardInterrupt(name)

    _signals.update(held=False, waiting=None)
    here = threading.current_thread() is threading.main_thread()
    numbers = [
        getattr(signal, name)
        for name in ("SIGINT", "SIGTERM", "SIGUSR1")
        if here and hasattr(signal, name)
    ]
    before = {
        number: signal.signal(number, stop)
        for number in numbers
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


# Whether signals wait, and for which one that came in the meantime.
_signals = {"held": False, "waiting": None}


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let a signal wait for the end of the block: torch's writer aborts the process where an
    exception unwinds it.
    """
    _signals["held"] = True
    try:
        yield
    finally:
        _signals["held"] = False
    if _signals["waiting"]:
        raise KeyboardInterrupt(_signals["waiting"])


class _Steady:
    """A file for torch's writer that keeps its first error until the end, for the same reason."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, content: memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(content)
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        """Left to :func:`_write`."""


def printable(text: str) -> str:
    """``text`` with a replacement character for what moves a terminal's cursor or turns its
    direction; line breaks stay.
    """
    return "".join(
        character if character.isprintable() or character == "\n" else "\ufffd"
        for character in text
    )


def warn_of_standstill(seconds: float) -> None:
    """Say what RTE leaves out, if anything."""
    if seconds:
        warn(
            f"the process stood still for {seconds:.1f} s (stopped, suspended or not scheduled);"
            " RTE leaves them out"
        )


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"warning: {printable(message)}", file=sys.stderr)


# --------------------------------------------------------------------------------------- randomness


def stream(seed: int, *names: object) -> int:
    """The seed in [0, 2^63) of the random stream that belongs to one purpose.

    Every purpose (a split's order, its crops, an initialisation, random labels, ...) at every epoch
    has a stream of its own. No draw can shift another, and a resumed run needs no saved generator
    state: the epoch says it all.
    """
    key = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, *names: object) -> torch.Generator:
    """A fresh generator on ``device`` at the start of the stream of ``names``."""
    return torch.Generator(device).manual_seed(stream(seed, *names))


def device_rng(device: torch.device) -> torch.Tensor | None:
    """The state of an accelerator's own generator, which dropout there draws from; None for the
    CPU.
    """
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def set_device_rng(device: torch.device, state: torch.Tensor | None) -> None:
    """Continue from what :func:`device_rng` gave; without a state (saved on the CPU) the generator
    is left alone.
    """
    if state is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    if state is not None and device.type == "mps":
        torch.mps.set_rng_state(state)


# ------------------------------------------------------------------------------------------ devices


def pick_device(name: str, gpu: int) -> torch.device:
    """The device that ``--device`` names; ``auto`` takes CUDA, then MPS, then the CPU.

    Of several processes on a machine each has a GPU of its own, counted from ``gpu``; with
    SHARE_GPUS=1 they go round the GPUs from there.
    """
    available = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        name = next(kind for kind, ready in available.items() if ready())
    if not available[name]():
        raise UserError(f"--device {name}: not available here; use --device auto or cpu")
    if name == "mps" and parallel.count() > 1:
        raise UserError("--device mps: one process at a time; torchrun needs --device cuda or cpu")
    if name != "cuda":
        return torch.device(name)
    there = torch.cuda.device_count()
    if parallel.shares_gpus() and 0 <= gpu < there:
        return torch.device("cuda", gpu + parallel.local_rank() % (there - gpu))
    last = gpu + parallel.local_count() - 1  # every process refuses what one of them could not have
    if not 0 <= gpu <= last < there:
        raise UserError(f"--gpu {last}: this machine has GPUs 0 to {there - 1}")
    return torch.device("cuda", gpu + parallel.local_rank())


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic has units of its own; emulated bf16 is ten times slower than fp32 on
    an AVX2 CPU.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def pick_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` for training; ``auto`` takes bf16 where the hardware has
    native units.
    """
    if name == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    return name


def machine_load() -> float | None:
    """How many processes ran or waited for a core in the last minute; None where the system does
    not say.
    """
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(wanted: int | None, device: torch.device) -> None:
    """Compute on the CPU with ``wanted`` threads, or as many as torch has; warn where the cores are
    busy with other work already.

    A thread that waits for its turn lets the others of an operation wait for it.
    """
    if wanted is not None:
        torch.set_num_threads(wanted)
    call, cores = _call.get(), usable_cores()
    if (
        device.type == "cpu"
        and torch.get_num_threads() > 1
        and call
        and call.load is not None
        and call.load > cores
    ):
        slow = "two torch processes on two busy cores are 15 to 60 times slower"
        warn(
            f"the machine's load is {call.load:.1f} on {cores} usable cores: {slow}; take"
            " --threads 1"
        )


def with_threads(device: torch.device) -> str:
    """A device and how many CPU threads compute, such as ``cpu, 2 threads``."""
    count = torch.get_num_threads()
    return f"{device}, {count} thread{'s' if count > 1 else ''}"


def keep_freed_memory() -> None:
    """Let glibc hand a freed block to the next tensor instead of giving it back to the kernel.

    Each large tensor on the CPU is otherwise mapped, zeroed page by page and unmapped again: a
    sixth of an fp32 step of ResNet-18 at batch 256. Freed memory stays with the process. Other C
    libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the top of the heap is never given back


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next measures finished work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Seconds of finished device work, summed over ``with`` blocks, without those in which the
    process stood still (``stopped``).
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, stopped: float = 0.0):
        self.device, self.seconds, self.stopped = device, seconds, stopped

    def __enter__(self) -> "Stopwatch":
        synchronize(self.device)
        self.standstill = _Standstill()
        self.started = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        synchronize(self.device)
        elapsed, stopped = time.perf_counter() - self.started, self.standstill.end()
        self.seconds += max(elapsed - stopped, 0.0)
        self.stopped += stopped

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside a ``with`` block of this watch, do not count this one."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


class _Standstill:
    """A thread that looks at the clock every fifth of a second: what lies between two looks beyond
    that is a standstill.

    SIGSTOP, a suspended job and gang scheduling are such. Two seconds or more count, and only those
    in which the process took no processor time: one long call into C holds the thread up, too.
    """

    EVERY, LEAST, IDLE = 0.2, 2.0, 0.1

    def __init__(self) -> None:
        self.total, self.over = 0.0, threading.Event()
        self.last = time.perf_counter(), time.process_time()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.over.wait(self.EVERY):
            self._look()

    def _look(self) -> None:
        wall, busy = time.perf_counter(), time.process_time()
        gap = wall - self.last[0] - self.EVERY
        if gap >= self.LEAST and busy - self.last[1] < self.IDLE * gap:
            self.total += gap
        self.last = wall, busy

    def end(self) -> float:
        """Stop looking; the seconds of all standstills."""
        self.over.set()
        self.thread.join()
        self._look()
        return self.total


def tune_cuda(device: torch.device) -> None:
    """How CUDA computes in a script: fp32 is never TF32, in training neither, and cuDNN takes the
    fastest of its convolutions.

    cuDNN tries them once for each shape: batches have few. Another try may find another one, and
    with it other roundings.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        _set_tf32("highest", False)


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Full fp32 for what is measured (masks, influence, evaluation): no TF32, whatever the caller
    has set.

    An autocast region stays what it is: not for ``losses``, whose forward passes the loop runs
    under autocast.
    """
    before = _set_tf32("highest", False)
    try:
        yield
    finally:
        _set_tf32(*before)


def _set_tf32(matmul: str, convolutions: bool) -> tuple[str, bool]:
    """Set the precision of fp32 matrix products ("highest" is no TF32) and whether convolutions use
    TF32; returns what was set.

    By the older of torch's two interfaces: the newer one, ``fp32_precision``, came with 2.9, one
    must not be read where the other one was written, and torch.compile reads the older one.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*TF32"
        )  # 2.9 and some later versions advise the newer one
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
    return before


# -------------------------------------------------------------------------------------------- files


def _write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write under a temporary name, flush to disk, rename: readers see the old file or the whole
    new one.

    In a run of several processes the first one writes, and all of them call this.
    """
    parallel.by_first(lambda: _write_here(path, write))


def _write_here(path: Path, write: Callable[[BinaryIO], None]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise RunFailed(
            f"cannot write {path}: {reason}; earlier files are untouched, make room and use"
            " --resume"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _flush_folder(folder: Path) -> None:
    """Put a rename on disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save(obj: object, path: Path) -> None:
    """``torch.save``, atomically; a signal waits until the file is there."""

    def write(file: BinaryIO) -> None:
        steady = _Steady(file)
        torch.save(obj, steady)
        if steady.error is not None:
            raise steady.error

    with _signals_held():
        _write(Path(path), write)


def save_json(obj: object, path: Path) -> None:
    """Indented JSON, atomically; a number that is not finite becomes null, as JSON has no other
    word for it.
    """
    save_text(json.dumps(finite(obj), indent=1, allow_nan=False) + "\n", path)


def finite(obj: object) -> object:
    """The same nested value with None for every number that is not finite: JSON has no word for
    them.
    """
    if isinstance(obj, dict):
        return {name: finite(value) for name, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [finite(value) for value in obj]
    return None if isinstance(obj, float) and not math.isfinite(obj) else obj


def save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """``numpy.savez``, atomically."""
    _write(Path(path), lambda file: np.savez(file, **arrays))


def save_text(text: str, path: Path) -> None:
    """``text`` as UTF-8, atomically; ends of lines stay as they are."""
    save_bytes(text.encode(), path)


def save_bytes(content: bytes, path: Path) -> None:
    """A file of exactly these bytes, atomically."""
    _write(Path(path), lambda file: file.write(content))


def load(path: Path, what: str) -> object:
    """Read a torch file on the CPU with ``weights_only=True``, after its checksums and the sizes
    that it claims.

    Raises:
        UserError: the file is missing, is not a torch file, is damaged, or holds anything but
            tensors, numbers and plain containers.
    """
    require_file(path, what)
    try:
        check_torch(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_content(content, os.path.getsize(path))
    except FalseClaim as error:
        reason = str(error)
    # zipfile, pickletools and torch raise two dozen types here, all of one meaning to the user.
    except Exception as error:
        reason = f"damaged, or another kind of file ({type(error).__name__})"
    else:
        return content
    raise UserError(f"{what} {path} is not a readable torch file of plain tensors: {reason}")


def load_json(path: Path, what: str) -> dict:
    """Read one JSON object; anything else is a :class:`UserError`."""
    require_file(path, what)
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} holds no JSON object")
    return content


def require_file(path: Path, what: str) -> None:
    """Refuse a path that is not a file, by its role."""
    if os.path.isdir(path):
        raise UserError(f"{what} {path}: a folder, a file is wanted")
    if not os.path.isfile(
        path
    ):  # unlike Path.is_file, also for a folder that may not be entered, or a name too long
        raise UserError(f"{what} {path}: no such file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{what} {path}: may not be read")


@contextlib.contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn what a record with missing or odd entries raises in the block into a
    :class:`UserError`.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{what} {path} is damaged ({reason[:100]}); {remedy}") from None


@contextlib.contextmanager
def lock(folder: Path, name: str, files: Iterable[Path] = ()) -> Iterator[None]:
    """Hold ``folder/.name.lock`` for the block; a second run of the same method there is refused at
    once.

    What a killed run had begun to write of ``files`` is removed. Of a run of several processes the
    first one holds it, and none goes on before it does.
    """
    with contextlib.ExitStack() as held:
        parallel.by_first(lambda: held.enter_context(_lock_here(folder, name, files)))
        yield


@contextlib.contextmanager
def _lock_here(folder: Path, name: str, files: Iterable[Path]) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # not on Windows: atomic renames still keep every file whole there
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"--save_dir {folder} cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is writing {name} files in {folder}; wait for it or use another"
                " --save_dir"
            ) from None
        except OSError as error:
            warn(
                f"{folder} has no locks ({error.strerror}): nothing keeps a second run of {name}"
                " out of it"
            )
        else:
            for file in files:
                for left in folder.glob(f".{glob.escape(file.name)}.*.tmp"):
                    left.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------- hashes and records


def hash_arrays(named: dict[str, np.ndarray | torch.Tensor]) -> str:
    """SHA-256 over sorted names, dtypes, shapes and bytes: a hash of the content, whatever file
    holds it.
    """
    digest = hashlib.sha256()
    for name in sorted(named):
        array = named[name]
        dtype, shape = str(array.dtype).removeprefix("torch."), tuple(array.shape)
        if isinstance(array, torch.Tensor):  # as bytes: numpy has no bfloat16
            array = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name}|{dtype}|{shape}|".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def git_revision() -> str:
    """The commit of this code, with ``+`` where the tree has changes; empty outside of a git
    checkout of its own.

    A copy of the code inside another repository has none: that repository's commit says nothing of
    it. No lock is taken.
    """
    here = Path(__file__).resolve().parent
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # such as a hook's
    try:
        run = functools.partial(
            subprocess.run,
            cwd=here,
            env=plain,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        top, commit = run(["git", "rev-parse", "--show-toplevel", "HEAD"]).stdout.splitlines()
        if Path(top).resolve() != here:
            return ""
        changed = run(
            ["git", "--no-optional-locks", "status", "--porcelain", "-uno"]
        ).stdout.strip()
        return commit + ("+" if changed else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def provenance(device: torch.device, precision: str, seeds: dict[str, int]) -> dict:
    """Where a result comes from: command, code, machine, versions, seeds."""
    call = _call.get()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "command": call.command if call else [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_revision(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "processes": parallel.count(),
        "precision": precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **seeds,
    }
