"""CIFAR-10 from a packed file of JPEG images, as the plain arrays that ``--dataset npz`` reads.

    python benchmarks/gpu/cifar.py PACKED.npz FOLDER

A packed file holds for each half (train, test) ``jpeg_HALF`` (bytes of all images one after
another, uint8), ``end_HALF`` (n,) where each image ends, ``y_HALF`` (n,) labels, and ``classes``
(k,) names.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from runtime.cli import script
from runtime.file_checks import check_npz
from runtime.files import require_file, save_arrays
from utils import UserError

PACKED = ("jpeg_train", "end_train", "y_train", "jpeg_test", "end_test", "y_test", "classes")


def unpacked(path: Path, folder: Path) -> Path:
    """The npz of plain arrays: ``path`` itself, or ``folder/NAME_unpacked.npz``, which is made once
    from a packed file.

    Raises:
        UserError: ``path`` is no npz file, or one of neither kind.
    """
    require_file(path, "--data")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--data {path} is no npz file ({error}); give CIFAR-10 as an npz"
        ) from None
    if "x_train" in names:
        return path
    if missing := [name for name in PACKED if name not in names]:
        raise UserError(
            f"--data {path} lacks {missing[0]}; it needs x_train, y_train, x_test, y_test, or"
            f" {', '.join(PACKED)}"
        )
    target = folder / f"{path.stem}_unpacked.npz"
    if not target.is_file():
        save_arrays(decode(path), target)
    return target


def decode(path: Path) -> dict[str, np.ndarray]:
    """x_train (n, h, w, 3) uint8, y_train (n,), x_test, y_test and classes of a packed file.

    Raises:
        UserError: an image or an array of the file is damaged.
    """
    try:
        check_npz(path, PACKED)
        with np.load(path, allow_pickle=False) as packed:
            arrays = {"classes": packed["classes"]}
            for half in ("train", "test"):
                arrays[f"x_{half}"] = _images(packed[f"jpeg_{half}"], packed[f"end_{half}"])
                arrays[f"y_{half}"] = packed[f"y_{half}"]
    except (OSError, ValueError) as error:  # Pillow's own errors are OSErrors, too
        raise UserError(f"--data {path} is damaged ({error}); copy it again") from None
    return arrays


def _images(stream: np.ndarray, ends: np.ndarray) -> np.ndarray:
    from PIL import Image

    if not len(ends) or ends[-1] != len(stream) or np.any(np.diff(ends, prepend=0) <= 0):
        raise ValueError("its ends are not those of its images")
    images = []
    content = stream.tobytes()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        images.append(np.asarray(Image.open(io.BytesIO(content[start:end])).convert("RGB")))
    return np.stack(images)


@script
def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError("two arguments are wanted: the packed file and the folder of the plain one")
    print(unpacked(Path(argv[0]), Path(argv[1])))


if __name__ == "__main__":
    sys.exit(main())
