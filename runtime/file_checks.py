"""Check a torch, npz or npy file before it is read: what it claims to hold against its size, and
what it would construct. No code of the file runs.
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

# What a checkpoint of tensors, numbers and plain containers constructs ("module name" of pickle's
# GLOBAL). ``weights_only`` allows more, such as buffers of any size.
HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) set|_codecs encode|"
    r"numpy dtype|numpy\._?core\.multiarray scalar|"
    r"torch\._utils _rebuild_(tensor|tensor_v2|parameter|parameter_with_state)|"
    r"torch\.storage (Typed|Untyped)Storage|"
    r"torch (\w+Storage|Size|device|bool|u?int\d+|b?float\d+|float8_\w+|complex\d+)"
)
# Encodings from bytes to bytes, which can be nested: forty of them turn a byte into a terabyte.
NESTABLE = re.compile("(hex|base64|bz2|uu|quopri|zlib)(_codec)?|base_64|quoted_?printable|zip")
DEFLATE_RATIO = 1032  # the most that deflate can compress
PLAIN = (type(None), bool, int, float, complex, np.generic, np.dtype, torch.dtype, torch.device)


class FalseClaim(ValueError):
    """A file holds less than it claims, or something else; the message is for the user."""


def memory() -> int:
    """Bytes of this machine's main memory; 2^48 where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**48


def available_memory() -> int:
    """Bytes of main memory that this process can still use: what the kernel calls available, at
    most what the container's limit leaves; 2^48 where the system says neither.
    """
    return min(_available(), _left_of_limit())


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if "MemAvailable" in line) * 1024
    except (OSError, ValueError, IndexError, StopIteration):
        return memory()


def _left_of_limit() -> int:
    """What the limit of a container (cgroup, version 2) leaves; its page cache counts as free."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - int(counts["anon"]))
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        return 2**48


def check_torch(path: Path) -> None:
    """Check a ``torch.save`` file: sizes, checksums (which torch does not check), what it
    constructs.

    Raises:
        FalseClaim: it is damaged, claims more than the file's size, or constructs anything but
            tensors and plain containers.
        Exception: it is not a torch file.
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
    """Read the opcodes of one pickle without executing them."""
    words, constructs = set(), set()
    for code, value, _ in pickletools.genops(file):
        if code.name == "GLOBAL":
            constructs.add(value)
        elif isinstance(value, str):
            words.add(value.lower().replace("-", "_").replace(" ", "_"))
    if strange := sorted(name for name in constructs if not HARMLESS.fullmatch(name)):
        raise FalseClaim(f"it holds {strange[0].replace(' ', '.')}")
    nestable = sorted(word for word in words if NESTABLE.fullmatch(word))
    if "_codecs encode" in constructs and nestable:
        raise FalseClaim(f"it holds bytes encoded as {nestable[0]}")


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    """Check the packed and unpacked sizes that the members of a file of ``size`` bytes claim."""
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    for member in members:
        ratio = 1 if member.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO
        if member.file_size > ratio * member.compress_size or packed > size:
            raise FalseClaim(
                f"{member.filename} in it claims {member.file_size} bytes, the file has {size}"
            )
    if unpacked > memory():
        raise FalseClaim(f"it claims {unpacked} bytes, this machine has {memory()}")


def check_content(content: object, size: int) -> None:
    """Check what was read from a file of ``size`` bytes: shared memory can pose as terabytes, and
    a few shared lists as billions of items.

    Raises:
        FalseClaim: without sharing it is more than the file can hold, or it holds other types.
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
    """Check the arrays ``names`` of an npz file: dtype and shape against the member's size, and
    members against the file's.

    Raises:
        FalseClaim: a member claims more than there is, or holds Python objects.
        Exception: it is not an npz file.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_sizes(members, os.path.getsize(path))
        for member in members:
            if member.filename.removesuffix(".npy") in names:
                with archive.open(member) as file:
                    _check_array(file, member.filename, member.file_size)


def check_npy(path: Path) -> None:
    """:func:`check_npz` for the one array of an npy file."""
    with open(path, "rb") as file:
        _check_array(file, "it", os.path.getsize(path))


def _check_array(file: BinaryIO, name: str, size: int) -> None:
    try:
        shape, _, dtype = read_header(file)
    except Exception as error:  # numpy parses the header as Python, which fails in several ways
        raise FalseClaim(f"{name} is no array that numpy saved ({type(error).__name__})") from None
    if dtype.hasobject:
        raise FalseClaim(f"{name} holds Python objects")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or claimed != there:
        raise FalseClaim(
            f"{name} claims {claimed} bytes of {dtype} {shape}, the file holds {there}"
        )


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first (Fortran's order), and dtype of an array in npy format,
    whose values are read next.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    return readers[np.lib.format.read_magic(file)](file)
