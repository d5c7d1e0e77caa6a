"""Lists that a user gives: ``1,5,9`` or ``@FILE`` with .npy, .txt, .json or .csv."""

import codecs
import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.file_checks import check_npy
from runtime.files import require_file
from utils import UserError

INTEGER = re.compile(r"[+-]?[0-9]+")
TRUTH = {"true": True, "false": False}
# The entry of a JSON object that is read where several hold a list.
FORGET = "forget"
# Headers of a column of file names; one of numbers is told by not being a number.
NAME_HEADERS = ("file", "files", "filename", "file_name", "path", "image", "name")
# Headers of a column of places, the likely ones first.
PLACE_HEADERS = ("index", "indices", "idx", "position", "place", "id", "image_id", "forget")
# What to type where an entry that is no integer looks like something else, by a pattern of it.
ADVICE = {
    r"^[0-9]+(-|\.\.|:)[0-9]+$": "a range is not read, write each number, such as 3,4,5",
    r"^[+-]?[0-9.]+[eE][+-]?[0-9]+$": "write whole numbers in digits",
    r"^#": "comments are not read, remove them",
    r"^\{": "a list of plain numbers is wanted, such as [1, 5, 9]",
    r"^[\[(]|[\])]$": "write the numbers without brackets, such as 1,5,9",
    r"^[0-9]+;": "put commas between the numbers, such as 1,5,9",
}
SHOWN = 6  # columns that a message names


class Listed(NamedTuple):
    """``values`` (n,): int64, or bool for a mask, or text for file names; ``note`` says in words
    what was passed over to find them, empty where nothing was.
    """

    values: np.ndarray
    note: str = ""


def read_list(text: str, asked: str, *, names: bool = False) -> Listed:
    """The list of ``text``, which is not empty.

    Args:
        asked: what the user typed, to begin messages with.
        names: whether file names are wanted, else integers or a boolean mask.

    Raises:
        UserError: no such file, one of another kind, an entry that is not what is wanted.
    """
    try:
        if not text.startswith("@"):
            found = _typed(_numbered(text.split(",")), names)
        else:
            if text == "@":
                raise ValueError("a file is wanted behind @, such as @forget.npy")
            path, column = file_and_column(text)
            _require(path, asked)
            found = _read(path, column, names)
    except OSError as error:
        raise UserError(f"{asked}: {error.strerror or error}") from None
    except (EOFError, RecursionError) as error:
        raise UserError(f"{asked}: {error or type(error).__name__}") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{asked}: {error}") from None
    if not len(found.values):
        raise UserError(f"{asked}: the list is empty; at least one entry is wanted")
    return found


def _require(path: Path, asked: str) -> None:
    """:func:`runtime.files.require_file` in the words of a list, whose request has the path."""
    try:
        require_file(path, asked)
    except UserError as error:
        reason = f"{error}".rpartition(": ")[2]
        shown = "" if f"{path}" in asked else f"{path}: "
        raise UserError(f"{asked}: {shown}{reason}") from None


def file_and_column(text: str) -> tuple[Path, str | None]:
    """The file of ``@FILE`` or ``@FILE:COLUMN``; a file whose own name has the colon wins."""
    whole = text.removeprefix("@")
    head, colon, column = whole.rpartition(":")
    if colon and not os.path.exists(whole) and os.path.isfile(head):
        return Path(head), column
    return Path(whole), None


def _read(path: Path, column: str | None, names: bool) -> Listed:
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".json") and column is not None:
        raise ValueError(f":{column} chooses a column of a .csv or an entry of a .json")
    if kind == ".npy":
        check_npy(path)
        return Listed(_of_array(np.load(path, allow_pickle=False), names))
    content = _decoded(path)
    if kind == ".json":
        try:
            return _of_json(json.loads(content), path, column, names)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is no JSON such as [1, 5, 9]: {error}") from None
    if kind in (".csv", ".tsv"):
        return _of_csv(content, path, column, names)
    parts = content.splitlines() if names else content.replace(",", " ").split()
    return _typed(_numbered(part for part in parts if part.strip()), names)


def _numbered(parts: Iterable[str]) -> list[tuple[int, str]]:
    return list(enumerate((part.strip() for part in parts), 1))


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 as some Windows tools write it."""
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and (b"\0" in content or content.startswith(b"PK\x03\x04")):
        raise ValueError("it is no text; allowed are .npy, and in UTF-8 .txt, .json and .csv")
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if wide else "UTF-8"
        raise ValueError(
            f"byte {error.start} is not {kind}; save the list in UTF-8, or as .npy"
        ) from None


def _typed(parts: Sequence[tuple[int, str]], names: bool, what: str = "entry") -> Listed:
    """The values of numbered text entries; ``what`` each of them is, in messages."""
    texts = [text for _, text in parts]
    if names:
        return Listed(np.array(texts, dtype=str))
    if texts and all(text.lower() in TRUTH for text in texts):
        return Listed(np.array([TRUTH[text.lower()] for text in texts]))
    for number, text in parts:
        if not INTEGER.fullmatch(text):
            raise ValueError(f"{what} {number} is {text[:40]!r}, no integer{_advice(text)}")
    return Listed(_integers([int(text) for text in texts]))


def _advice(part: str) -> str:
    """What to type where an entry that is no integer looks like something known."""
    if re.fullmatch(r"[+-]?[0-9]+\.0*", part):
        return "; write whole numbers without a point"
    if re.fullmatch(r"[+-]?[0-9]*\.[0-9]+", part):
        return "; a place in a list of images is a whole number"
    if re.search(r"\.\w{2,5}$", part):
        return "; file names are taken by --forget files:@FILE"
    for pattern, advice in ADVICE.items():
        if re.search(pattern, part):
            return f"; {advice}"
    return ""


def _integers(values: Sequence[int]) -> np.ndarray:
    limits = np.iinfo(np.int64)
    if odd := [value for value in values if not limits.min <= value <= limits.max]:
        raise ValueError(f"{odd[0]} is out of range")
    return np.array(values, dtype=np.int64)


def _of_array(values: np.ndarray, names: bool) -> np.ndarray:
    if values.ndim != 1:
        raise ValueError(
            f"it holds an array of shape {values.shape}; one dimension is wanted, such as"
            " array.reshape(-1)"
        )
    if names:
        if values.dtype.kind != "U":
            raise ValueError(f"it holds {values.dtype}, file names are text")
        return values
    if values.dtype == bool:
        return values
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"it holds {values.dtype}; {_remedy(values)}")
    return _integers(values.tolist()) if values.dtype == np.uint64 else values.astype(np.int64)


def _remedy(values: np.ndarray) -> str:
    """What to do with an array that holds neither integers nor booleans."""
    wanted = "integers or booleans are wanted"
    if not np.issubdtype(values.dtype, np.floating):
        return wanted
    if len(odd := np.flatnonzero(values != np.floor(values))):
        return f"{wanted}, and entry {odd[0] + 1} is {values[odd[0]]}, no whole number"
    return f"{wanted}, such as array.astype(int)"


def _of_json(content: object, path: Path, key: str | None, names: bool) -> Listed:
    note = ""
    if isinstance(content, dict):
        key = _entry(content, path) if key is None else key
        if key not in content:
            raise ValueError(f"it has no entry {key!r}; its entries are {_quoted(content)}")
        content, note = content[key], f"entry {key!r} of {path.name}"
    elif key is not None:
        raise ValueError(f":{key} chooses an entry of an object, it holds none")
    if not isinstance(content, list):
        raise ValueError(f"a list is wanted, it holds {json.dumps(content)[:40]}")
    kinds = (str,) if names else (int,)
    if not names and content and all(type(value) is bool for value in content):
        return Listed(np.array(content, dtype=bool), note)
    for place, value in enumerate(content, 1):
        if type(value) not in kinds:
            wanted = "text" if names else "integer"
            raise ValueError(
                f"entry {place} is {json.dumps(value)[:40]}, no {wanted}"
                + _advice(value if isinstance(value, str) else json.dumps(value))
            )
    values = np.array(content, dtype=str) if names else _integers(content)
    return Listed(values, note)


def _entry(content: dict, path: Path) -> str:
    """The entry of an object that holds the list: ``forget``, else the only one."""
    lists = [name for name, value in content.items() if isinstance(value, list)]
    if FORGET in lists:
        return FORGET
    if len(lists) == 1:
        return lists[0]
    if not lists:
        raise ValueError(
            f'no entry of it is a list; a list, or an object such as {{"{FORGET}": [1, 5, 9]}}, is'
            " wanted"
        )
    raise ValueError(
        f"lists are its entries {_quoted(lists)}; choose one, such as @{path.name}:{lists[0]}"
    )


def _quoted(names: Sequence[object]) -> str:
    return ", ".join(repr(str(name)) for name in [*names][:SHOWN])


# ---------------------------------------------------------------------------------------------- csv


def _of_csv(content: str, path: Path, column: str | None, names: bool) -> Listed:
    lines = content.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = next((each for each in (",", ";", "\t") if each in first), ",")
    rows = [
        (number, [cell.strip() for cell in row])
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter), 1)
        if any(cell.strip() for cell in row)
    ]
    if not rows:
        return Listed(np.array([], dtype=np.int64))
    header = rows[0][1]
    place, is_header = _column(header, path, column, names)
    parts = []
    for number, row in rows[is_header:]:
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} columns, the first row {len(header)}")
        parts.append((number, row[place]))
    found = _typed(parts, names, "row")
    return found._replace(note=f"header {header[place]!r} of {path.name}" if is_header else "")


def _column(first: Sequence[str], path: Path, column: str | None, names: bool) -> tuple[int, bool]:
    """The place of the column, and whether the first row is a header."""
    if column is None:
        if len(first) > 1:
            shown = ", ".join(f"{i} ({cell[:20]!r})" for i, cell in enumerate(first[:SHOWN]))
            raise ValueError(
                f"it has {len(first)} columns: {shown}; say which by its number or header, such as"
                f" @{path.name}:{_likely(first, names)}"
            )
        return 0, _is_header(first, 0, names)
    named = [i for i, cell in enumerate(first) if cell == column]
    if not re.fullmatch(r"[0-9]+", column):
        if len(named) != 1:
            count = f"{len(named)} columns are" if named else "no column is"
            raise ValueError(f"{count} called {column!r}; its first row is {_quoted(first)}")
        return named[0], True
    place = int(column)
    if place >= len(first):
        raise ValueError(f"no column {place}; it has {len(first)}, counted from 0")
    is_header = _is_header(first, place, names)
    if is_header and named not in ([], [place]):
        raise ValueError(
            f"column {column}: the header {column!r} is that of column {named[0]}, counted from 0;"
            f" type @{path.name}:{named[0]} for it, or rename the header"
        )
    return place, is_header


def _likely(first: Sequence[str], names: bool) -> str | int:
    """The header of the column that is likely meant; without one that is known, a word for any of
    the headers, or the last of columns without headers.
    """
    by_word = {cell.lower(): cell for cell in reversed(first)}
    wanted = NAME_HEADERS if names else PLACE_HEADERS
    for word in wanted:
        if word in by_word:
            return by_word[word]
    return "HEADER" if _is_header(first, len(first) - 1, names) else len(first) - 1


def _is_header(first: Sequence[str], place: int, names: bool) -> bool:
    """Whether the first row names the columns: it has an empty cell, as the header of row numbers
    is in pandas, or the chosen cell is no value.
    """
    if "" in first:
        return True
    if names:
        return any(cell.lower() in NAME_HEADERS for cell in first)
    try:
        float(first[place])
    except ValueError:
        return first[place].lower() not in TRUTH
    return False
