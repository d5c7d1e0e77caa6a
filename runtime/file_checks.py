"""What a file claims to hold, checked against its real size before memory is taken for it; no file
is executed here.
"""

import math
import os
import pickletools
import re
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

# What a checkpoint of tensors, numbers and plain containers is made of. ``weights_only`` allows
# more, such as buffers of any size.
HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) set|_codecs encode|numpy"
    r" dtype|numpy\._?core\.multiarray scalar|"
    r"torch\._utils _rebuild_(tensor|tensor_v2|parameter|parameter_with_state)|torch\.storage"
    r" (Typed|Untyped)Storage|"
    r"torch (\w+Storage|Size|device|bool|u?int\d+|b?float\d+|float8_\w+|complex\d+)"
)
# Encodings from bytes to bytes, which can be nested: forty of them turn a byte into a terabyte.
NESTABLE = {
    "hex",
    "hex_codec",
    "base64",
    "base_64",
    "base64_codec",
    "bz2",
    "bz2_codec",
    "uu",
    "uu_codec",
    "quopri",
    "quopri_codec",
    "quoted_printable",
    "quotedprintable",
    "zip",
    "zlib",
    "zlib_codec",
}
# Deflate cannot do better than this.
DEFLATE_RATIO = 1032
PLAIN = (type(None), bool, int, float, complex, np.generic, np.dtype, torch.dtype, torch.device)


class FalseClaim(ValueError):
    """A file that holds less, or something else, than it says; the message is for the user."""


def memory() -> int:
    """Bytes of main memory in this machine; a large number where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**48


def check_torch(path: Path) -> None:
    """Check a ``torch.save`` file before it is read: sizes, checksums (torch reads without them),
    and what it would construct.

    Raises:
        FalseClaim: it is damaged, claims more than the file's size, or constructs anything but
            tensors and plain containers.
        Exception: it is no such file at all.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":  # the format before 2020: five pickles, then the tensors
            file.seek(0)
            for _ in range(5):
                _check_pickle(file)
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise FalseClaim("its parts are compressed, which torch.save does not do")
        _check_sizes(members, os.path.getsize(path))
        if damaged := archive.testzip():
            raise FalseClaim(f"{damaged} in it is damaged (checksum)")
        for member in members:
            if member.filename.rpartition("/")[2] == "data.pkl":
                with archive.open(member) as file:
                    _check_pickle(file)


def _check_pickle(file: BinaryIO) -> None:
    """Read one pickle's instructions, without following them, up to its end."""
    words, constructs = set(), set()
    for code, value, _ in pickletools.genops(file):
        if code.name == "GLOBAL":
            constructs.add(value)
        elif isinstance(value, str):
            words.add(value.lower().replace("-", "_").replace(" ", "_"))
    if strange := sorted(name for name in constructs if not HARMLESS.fullmatch(name)):
        raise FalseClaim(f"it holds {strange[0].replace(' ', '.')}")
    if "_codecs encode" in constructs and words & NESTABLE:
        raise FalseClaim(f"it holds bytes encoded as {min(words & NESTABLE)}")


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    """What the parts of an archive of ``size`` bytes claim, packed and unpacked."""
    packed, unpacked = (
        sum(getattr(member, kind) for member in members) for kind in ("compress_size", "file_size")
    )
    for member in members:
        ratio = 1 if member.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO
        if member.file_size > ratio * member.compress_size or packed > size:
            raise FalseClaim(
                f"{member.filename} in it claims {member.file_size} bytes, the file has {size}"
            )
    if unpacked > memory():
        raise FalseClaim(f"it claims {unpacked} bytes, this machine has {memory()}")


def check_content(content: object, size: int) -> None:
    """Check what came out of a file of ``size`` bytes: shared memory can pose as terabytes, a few
    shared lists as billions of items.

    Raises:
        FalseClaim: written out in full it is more than the file can hold, or it is not made of
            plain parts.
    """
    limit = 4 * size + 2**20
    weight, left = 0, [content]
    while left:
        item = left.pop()
        weight += 1
        if isinstance(item, torch.Tensor):
            weight += item.numel() * item.element_size()
        elif isinstance(item, Mapping):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            left += item
        elif isinstance(item, str | bytes):
            weight += len(item)
        elif not isinstance(item, PLAIN):
            raise FalseClaim(f"it holds a {type(item).__name__}")
        if weight > limit:
            raise FalseClaim(f"what it describes is larger than {limit} bytes, the file has {size}")


def check_npz(path: Path, names: Container[str]) -> None:
    """Check the arrays ``names`` of an npz file before they are read: shape and dtype against their
    part, each part against the file.

    Raises:
        FalseClaim: a part claims more than there is, or holds Python objects.
        Exception: it is no such file at all.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_sizes(members, os.path.getsize(path))
        for member in members:
            if member.filename.removesuffix(".npy") in names:
                with archive.open(member) as file:
                    _check_array(file, member.filename, member.file_size)


def check_npy(path: Path) -> None:
    """:func:`check_npz` for one array in an npy file."""
    with open(path, "rb") as file:
        _check_array(file, "it", os.path.getsize(path))


def _check_array(file: BinaryIO, name: str, size: int) -> None:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception as error:  # numpy parses the header as Python, which fails in several ways
        raise FalseClaim(f"{name} is no array that numpy saved ({type(error).__name__})") from None
    if dtype.hasobject:
        raise FalseClaim(f"{name} holds Python objects")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or claimed != there:
        raise FalseClaim(
            f"{name} claims {claimed} bytes of {dtype} {shape}, the file holds {there}"
        )
