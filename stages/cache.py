"""Arrays on disk under a hash of what they were made from: each model sees each split once."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from runtime import distributed
from runtime.file_checks import check_npz
from runtime.files import hash_arrays, save_arrays
from utils import warn

Arrays = dict[str, np.ndarray]


def cached(
    folder: Path,
    name: str,
    made_from: Mapping[str, object],
    shapes: Mapping[str, tuple],
    compute: Callable[[], Arrays],
) -> Arrays:
    """The arrays of ``folder/NAME-KEY.npz``, or else what ``compute`` gives, kept there.

    Args:
        made_from: everything that decides the arrays (hashes, settings): the key is a hash of it,
            so that a file is never taken for another model's, another split's or another setting's.
        shapes: the shape of each array, None where it may be anything. A file with others, or one
            that cannot be read, is made anew with a warning.
    """
    text = "|".join(f"{key}={made_from[key]}" for key in sorted(made_from))
    file = (
        folder / f"{name}-{hash_arrays({'key': np.frombuffer(text.encode(), np.uint8)})[:24]}.npz"
    )
    kept = distributed.on_main(
        lambda: _read(file, shapes) if file.is_file() else None
    )  # all processes compute, or none
    if kept is None:
        kept = compute()
        save_arrays(kept, file)
    return kept


def _read(file: Path, shapes: Mapping[str, tuple]) -> Arrays | None:
    try:
        check_npz(file, shapes)
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in shapes}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warn(f"{file} is damaged ({type(error).__name__}); it is made again")
        return None
    for name, shape in shapes.items():
        mine = found[name].shape
        if len(mine) != len(shape) or any(
            wanted not in (None, size) for wanted, size in zip(shape, mine, strict=True)
        ):
            warn(f"{file} holds {name} of shape {mine}; it is made again")
            return None
    return found
