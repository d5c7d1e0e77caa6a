"""Files: written atomically, read without running code, locked, hashed."""

import codecs
import contextlib
import errno
import glob
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from runtime import distributed
from runtime.file_checks import FalseClaim, check_content, check_torch
from runtime.signals import hold_signals
from utils import RunFailed, UserError, warn


def _allow_numpy_numbers() -> None:
    """Let ``weights_only=True`` read numpy scalars, which the reference's checkpoints hold."""
    build = np.float64().__reduce__()[0]
    for core in ("core", "_core"):  # the module's name in numpy 1 and 2

        def scalar(dtype: np.dtype, data: bytes) -> np.generic:
            if dtype.kind not in "biuf":
                raise ValueError(f"a number of dtype {dtype}")
            return build(dtype, data)

        scalar.__module__, scalar.__qualname__ = f"numpy.{core}.multiarray", scalar.__name__
        torch.serialization.add_safe_globals([scalar])
    # Their bytes are pickled as encoded text; later versions of torch allow that by themselves.
    torch.serialization.add_safe_globals(
        [codecs.encode, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]
    )


_allow_numpy_numbers()


# ------------------------------------------------------------------------------------------ writing


class _Steady:
    """A file that stores its first OSError instead of raising it: torch's writer aborts the process
    if an exception unwinds it.
    """

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


def _write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a temporary file, flush it to disk and rename it: readers see the old or the new file.

    Rank 0 writes; every rank must call it.
    """
    distributed.on_main(lambda: _write_on_this_rank(path, write))


def _write_on_this_rank(path: Path, write: Callable[[BinaryIO], None]) -> None:
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
        full = error.errno in (None, errno.ENOSPC, errno.EDQUOT)
        remedy = "make room" if full else "see to it that it can be written"
        raise RunFailed(
            f"cannot write {path}: {reason}; earlier files are untouched, {remedy} and start again,"
            " with --resume where the script has it"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _flush_folder(folder: Path) -> None:
    """Flush a rename to disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save(obj: object, path: Path) -> None:
    """``torch.save``, atomically; a signal waits until the file is written."""

    def write(file: BinaryIO) -> None:
        steady = _Steady(file)
        torch.save(obj, steady)
        if steady.error is not None:
            raise steady.error

    with hold_signals():
        _write(Path(path), write)


def save_json(obj: object, path: Path) -> None:
    """Indented JSON, atomically; NaN and infinities become null (:func:`finite`)."""
    save_text(json.dumps(finite(obj), indent=1, allow_nan=False) + "\n", path)


def save_json_alone(obj: object, path: Path) -> None:
    """:func:`save_json` by this process alone, where the other ranks do something else."""
    text = json.dumps(finite(obj), indent=1, allow_nan=False) + "\n"
    _write_on_this_rank(Path(path), lambda file: file.write(text.encode()))


def finite(obj: object) -> object:
    """The same nested value with None for NaN and infinities, which JSON cannot express."""
    if isinstance(obj, dict):
        return {name: finite(value) for name, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [finite(value) for value in obj]
    return None if isinstance(obj, float) and not math.isfinite(obj) else obj


def save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """``numpy.savez``, atomically."""
    _write(Path(path), lambda file: np.savez(file, **arrays))


def save_text(text: str, path: Path) -> None:
    """``text`` as UTF-8, atomically, line endings unchanged."""
    save_bytes(text.encode(), path)


def save_bytes(content: bytes, path: Path) -> None:
    """Exactly these bytes, atomically."""
    _write(Path(path), lambda file: file.write(content))


# ------------------------------------------------------------------------------------------ reading


def load(path: Path, what: str) -> object:
    """Read a torch file on the CPU with ``weights_only=True``, after checking it, or a file of
    safetensors.

    Args:
        what: the file's role in error messages, such as "original model".

    Raises:
        UserError: the file is missing, is not a torch file, is damaged, or holds anything but
            tensors, numbers and plain containers.
    """
    require_file(path, what)
    if Path(path).suffix == ".safetensors":
        return _load_safetensors(path, what)
    try:
        check_torch(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_content(content, os.path.getsize(path))
    except FalseClaim as error:
        reason = str(error)
    except Exception as error:  # zipfile, pickletools and torch raise two dozen types
        reason = f"damaged, or another kind of file ({type(error).__name__})"
    else:
        return content
    raise UserError(f"{what} {path} is not a readable torch file of plain tensors: {reason}")


def _load_safetensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file  # an extra
    except ImportError:
        raise UserError(f"{what} {path} needs an extra: pip install safetensors") from None
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{what} {path} is not readable as safetensors: {error}") from None


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


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or it and they where it is not there yet."""
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def require_file(path: Path, what: str) -> None:
    """Refuse a path that is not a readable file; ``what`` is its role in the error message."""
    if os.path.isdir(path):
        raise UserError(f"{what} {path}: a folder, a file is wanted")
    # Path.is_file raises for a folder that may not be entered and for a name that is too long.
    if not os.path.isfile(path):
        raise UserError(f"{what} {path}: no such file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{what} {path}: may not be read")


@contextlib.contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn what missing or malformed entries of a record raise in the block into a UserError."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{what} {path} is damaged ({reason[:100]}); {remedy}") from None


# --------------------------------------------------------------------------------- locks and hashes


@contextlib.contextmanager
def lock(folder: Path, name: str, files: Iterable[Path] = ()) -> Iterator[None]:
    """Hold ``folder/.name.lock`` for the block, and remove temporary files of ``files`` that a
    killed run has left.

    Rank 0 holds the lock; every rank must call it and none goes on before rank 0 holds it.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        distributed.on_main(lambda: held.enter_context(_lock_on_this_rank(folder, name, files)))
        yield


@contextlib.contextmanager
def _lock_on_this_rank(folder: Path, name: str, files: Iterable[Path]) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: atomic renames still keep every file whole
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
                for temporary in folder.glob(f".{glob.escape(file.name)}.*.tmp"):
                    temporary.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def hash_arrays(named: dict[str, np.ndarray | torch.Tensor]) -> str:
    """SHA-256 over names (sorted), dtypes, shapes and bytes: independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(named):
        array = named[name]
        digest.update(array_header(name, array))
        if isinstance(array, torch.Tensor):  # as bytes: numpy has no bfloat16
            array = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def array_header(name: str, array: np.ndarray | torch.Tensor) -> bytes:
    """What :func:`hash_arrays` takes in before the bytes of an array."""
    dtype, shape = str(array.dtype).removeprefix("torch."), tuple(array.shape)
    return f"{name}|{dtype}|{shape}|".encode()
