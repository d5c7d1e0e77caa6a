"""Seeds, devices, safe and atomic files, content hashes, run records: what every stage needs and no method knows."""

import codecs
import contextlib
import ctypes
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch


def _allow_numpy_numbers() -> None:
    """Let torch read what the reference's checkpoints hold besides tensors: numbers of numpy 1 or 2. They run no code."""
    build = np.float64().__reduce__()[0]
    for core in ("core", "_core"):

        def scalar(dtype: np.dtype, data: bytes) -> np.generic:
            return build(dtype, data)

        scalar.__module__, scalar.__qualname__ = f"numpy.{core}.multiarray", scalar.__name__
        torch.serialization.add_safe_globals([scalar])
    # A numpy number's bytes travel as encoded text; later versions of torch allow that function by themselves.
    torch.serialization.add_safe_globals([codecs.encode, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}])


_allow_numpy_numbers()


class UserError(Exception):
    """Something impossible was asked for: one line (what was given, what is allowed, what to do), exit code 2."""


class RunFailed(Exception):
    """A run went wrong in a way that we recognise, such as a non-finite loss: one line, exit code 1."""


def script(main: Callable) -> Callable[..., int]:
    """Turn ``main(argv)`` into a well-mannered script: an exit code instead of a traceback for what users cause."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        name = Path(main.__code__.co_filename).name
        try:
            main(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            print(f"{name}: error: {error}", file=sys.stderr)
            return 2
        except RunFailed as error:
            print(f"{name}: failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{name}: interrupted; what was finished is on disk, --resume goes on from the last finished epoch", file=sys.stderr)
            return 130
        return 0

    return wrapped


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"warning: {message}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------- randomness


def stream(seed: int, *names: object) -> int:
    """The seed in [0, 2^63) of the random stream that belongs to one purpose.

    Every purpose (a split's order, its crops, an initialisation, random labels, ...) at every epoch has a stream
    of its own. No draw can shift another, and a resumed run needs no saved generator state: the epoch says it all.
    """
    key = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, *names: object) -> torch.Generator:
    """A fresh generator on ``device`` at the start of the stream of ``names``."""
    return torch.Generator(device).manual_seed(stream(seed, *names))


# ------------------------------------------------------------------------------------------------------- devices


def pick_device(name: str, gpu: int) -> torch.device:
    """The device that ``--device`` names; ``auto`` takes CUDA, then MPS, then the CPU."""
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if name == "auto":
        name = next(kind for kind, ready in available.items() if ready())
    if not available[name]():
        raise UserError(f"--device {name}: not available here; use --device auto or cpu")
    if name != "cuda":
        return torch.device(name)
    if not 0 <= gpu < torch.cuda.device_count():
        raise UserError(f"--gpu {gpu}: this machine has GPUs 0 to {torch.cuda.device_count() - 1}")
    return torch.device("cuda", gpu)


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic has units of its own; emulated bf16 is ten times slower than fp32 on an AVX2 CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def pick_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` for training; ``auto`` takes bf16 where the hardware has native units."""
    if name == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    return name


def keep_freed_memory() -> None:
    """Let glibc hand a freed block to the next tensor instead of giving it back to the kernel.

    Each large tensor on the CPU is otherwise mapped, zeroed page by page and unmapped again: a sixth of an fp32 step of
    ResNet-18 at batch 256. Freed memory stays with the process. Other C libraries are left alone.
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
    """Seconds of finished device work, summed over ``with`` blocks."""

    def __init__(self, device: torch.device, seconds: float = 0.0):
        self.device, self.seconds = device, seconds

    def __enter__(self) -> "Stopwatch":
        synchronize(self.device)
        self.started = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        synchronize(self.device)
        self.seconds += time.perf_counter() - self.started


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Full fp32 for what is measured (masks, influence, evaluation): no TF32, whatever training uses."""
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv


# --------------------------------------------------------------------------------------------------------- files


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write under a temporary name, flush to disk, rename: readers see the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}; earlier files are untouched") from None
    finally:
        temporary.unlink(missing_ok=True)


def save(obj: object, path: Path) -> None:
    """``torch.save``, atomically."""
    _write(Path(path), lambda temporary: torch.save(obj, temporary))


def save_json(obj: object, path: Path) -> None:
    """Indented JSON, atomically."""
    save_text(json.dumps(obj, indent=1) + "\n", path)


def save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """``numpy.savez``, atomically."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # a name would get a suffix of numpy's own
            np.savez(file, **arrays)

    _write(Path(path), write)


def save_text(text: str, path: Path) -> None:
    """``text`` as UTF-8, atomically; ends of lines stay as they are."""
    save_bytes(text.encode(), path)


def save_bytes(content: bytes, path: Path) -> None:
    """A file of exactly these bytes, atomically."""
    _write(Path(path), lambda temporary: temporary.write_bytes(content))


def load(path: Path, what: str) -> object:
    """Read a torch file on the CPU with ``weights_only=True``.

    Raises:
        UserError: the file is missing, is not a torch file, or holds anything but tensors, numbers and plain containers.
    """
    require_file(path, what)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types here, and each means the same to the user
        holds = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds {holds[1]}" if holds else f"damaged, or another kind of file ({type(error).__name__})"
        raise UserError(f"{what} {path} is not a readable torch file of plain tensors: {reason}") from None


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
    if not Path(path).is_file():
        raise UserError(f"{what} {path}: " + ("a folder, a file is wanted" if Path(path).is_dir() else "no such file"))


@contextlib.contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn what a record with missing or odd entries raises in the block into a :class:`UserError`."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{what} {path} is damaged ({reason[:100]}); {remedy}") from None


@contextlib.contextmanager
def lock(folder: Path, name: str) -> Iterator[None]:
    """Hold ``folder/.name.lock`` for the block; a second run of the same method there is refused at once."""
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
        except OSError:
            raise UserError(f"another run is writing {name} files in {folder}; wait for it or use another --save_dir") from None
        yield
    finally:
        os.close(handle)


# -------------------------------------------------------------------------------------------- hashes and records


def hash_arrays(named: dict[str, np.ndarray | torch.Tensor]) -> str:
    """SHA-256 over sorted names, dtypes, shapes and bytes: a hash of the content, whatever file holds it."""
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
    """The commit of this code, with ``+`` where the tree has changes; empty outside a git checkout."""
    here = Path(__file__).parent
    try:
        run = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, timeout=10, check=True)
        commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        return commit + ("+" if run(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def provenance(device: torch.device, precision: str, seeds: dict[str, int]) -> dict:
    """Where a result comes from: command, code, machine, versions, seeds."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_revision(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **seeds,
    }
