"""What a long run needs to go on elsewhere, as a few files of limited size: whole files, and torch
files made smaller.

``pack`` writes one zip archive cut into pieces, and ``index.json`` with their hashes; ``unpack``
reads it back. In a torch file that is made smaller, fp32 tensors of two or more dimensions travel
as fp16 and boolean ones as bits: weights come back rounded, vectors (biases, BatchNorm's parameters
and statistics) and masks as they were.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from runtime.files import load, load_json, reading, save, save_bytes, save_json
from utils import UserError

PIECE = 15_000_000  # bytes of a piece
MOST = 60_000_000  # bytes of all pieces together
INDEX = "index.json"
SMALLER = ".smaller"  # ends the name in the archive of a torch file that is made smaller
REMEDY = "copy all of its files again"


# ------------------------------------------------------------------------------ smaller torch files


def _each_tensor(tree: object, change: Callable[[Tensor], object]) -> object:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: _each_tensor(value, change) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_each_tensor(value, change) for value in tree)
    return tree


def _is_rounded(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.dim() >= 2


def rounded(tree: object) -> object:
    """The nested value with every fp32 tensor of two or more dimensions rounded to what fp16 can
    hold, still in fp32.

    Raises:
        ValueError: a value is too large for fp16.
    """

    def change(tensor: Tensor) -> Tensor:
        if not _is_rounded(tensor):
            return tensor
        found = tensor.half().float()
        if not torch.isfinite(found).all():
            raise ValueError("a weight is too large for fp16")
        return found

    return _each_tensor(tree, change)


def _smaller(tensor: Tensor) -> object:
    if tensor.dtype == torch.bool:
        bits = np.packbits(tensor.cpu().numpy().reshape(-1))
        return {"bits": torch.from_numpy(bits), "shape": list(tensor.shape)}
    return tensor.half() if _is_rounded(tensor) else tensor


def _larger(tree: object) -> object:
    """Undo :func:`_smaller`; fp16 stays rounded."""
    if isinstance(tree, dict) and tree.keys() == {"bits", "shape"}:
        bits = np.unpackbits(tree["bits"].numpy(), count=int(np.prod(tree["shape"])))
        return torch.from_numpy(bits.astype(bool)).reshape(tree["shape"])
    if isinstance(tree, dict):
        return {name: _larger(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_larger(value) for value in tree)
    is_half = isinstance(tree, Tensor) and tree.dtype == torch.float16
    return tree.float() if is_half else tree


# -------------------------------------------------------------------------------------- the archive


def pack(
    root: Path,
    target: Path,
    groups: Sequence[Sequence[Path]],
    *,
    small: Sequence[Path] = (),
    piece: int = PIECE,
    most: int = MOST,
) -> list[Path]:
    """Write the files below ``root`` into pieces in ``target``; a kill in the middle leaves the
    earlier archive whole.

    Pieces are named after their content and the index is replaced last, so that a piece that did
    not change stays.

    Args:
        groups: files that travel together or not at all, the most wanted first. Torch files (.pt,
            .tar) are made smaller.
        small: files that always travel, as they are.
        piece, most: bytes of one piece and of all.

    Returns:
        The files of the groups that did not fit.
    """
    reserved = sum(file.stat().st_size for file in small)
    whole, left_out = io.BytesIO(), []
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for group in groups:
            entries = [_entry(file, root) for file in group]
            if whole.tell() + reserved + sum(len(content) for _, content in entries) > most:
                left_out += group
                continue
            for name, content in entries:
                _add(archive, name, content)
        for file in small:
            _add(archive, file.relative_to(root).as_posix(), file.read_bytes())
    content = whole.getvalue()
    parts = [content[start : start + piece] for start in range(0, len(content), piece)]
    hashes = [hashlib.sha256(part).hexdigest() for part in parts]
    names = [f"piece-{number}-{each[:12]}" for number, each in enumerate(hashes)]
    for name, part in zip(names, parts, strict=True):
        if not (target / name).is_file() or (target / name).stat().st_size != len(part):
            save_bytes(part, target / name)
    listed = [{"name": name, "sha256": each} for name, each in zip(names, hashes, strict=True)]
    absent = [file.relative_to(root).as_posix() for file in left_out]
    save_json({"pieces": listed, "bytes": len(content), "left_out": absent}, target / INDEX)
    for old in target.glob("piece-*"):
        if old.name not in names:
            old.unlink()
    return left_out


def _entry(file: Path, root: Path) -> tuple[str, bytes]:
    name = file.relative_to(root).as_posix()
    if file.suffix not in (".pt", ".tar"):
        return name, file.read_bytes()
    buffer = io.BytesIO()
    torch.save(_each_tensor(load(file, "file to pack"), _smaller), buffer)
    return name + SMALLER, buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Write an entry that is the same bytes for the same content at any time."""
    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=1)


def unpack(source: Path, root: Path) -> list[Path]:
    """Write the files of an archive below ``root``; nothing is written where a piece is damaged.

    Raises:
        UserError: a piece is missing or is not what the index says.
    """
    index = load_json(source / INDEX, "archive")
    with reading(source / INDEX, "archive", REMEDY):
        pieces = [(source / each["name"], each["sha256"]) for each in index["pieces"]]
    parts = []
    for path, sha256 in pieces:
        if not path.is_file():
            raise UserError(f"archive {source} lacks {path.name}; {REMEDY}")
        parts.append(path.read_bytes())
        if hashlib.sha256(parts[-1]).hexdigest() != sha256:
            raise UserError(f"archive {source}: {path.name} is damaged; {REMEDY}")
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        return [_write(archive, name, root) for name in archive.namelist()]


def _write(archive: zipfile.ZipFile, name: str, root: Path) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(f"an archive with {name} in it is none of ours")
    file = root / name.removesuffix(SMALLER)
    if not name.endswith(SMALLER):
        save_bytes(archive.read(name), file)
        return file
    packed = root / name
    save_bytes(archive.read(name), packed)
    save(_larger(load(packed, "packed file")), file)
    packed.unlink()
    return file
