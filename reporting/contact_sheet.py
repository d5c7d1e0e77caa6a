"""The page's contact sheet: some of the forgotten images, their labels, and what models say of
them before and after. All of it is read from METHODforget.npz beside the results.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reporting.drawing import MOST_ROWS
from reporting.markup import Html, escape, joined, tag
from runtime.file_checks import check_npz
from runtime.files import hash_arrays
from stages.file_names import FORGOTTEN, RESULT
from utils import UserError

MOST = 64  # images on the sheet, also of a file that holds more
NAMES = (*("indices", "labels", "classes", "shown", "images"), "said_after", "said_before")


class Sheet(NamedTuple):
    """``arrays`` are those of one run's file, which all runs on the forget set share; ``before``
    (n,) is what the original says, None where no run needed it; ``after`` (n,) by the row's name.
    """

    arrays: dict[str, np.ndarray]
    before: np.ndarray | None
    after: dict[str, np.ndarray]


def contact_sheet(groups: dict[str, list[dict]]) -> Html | None:
    """The sheet of the forget set that most rows have a file of; None without any file.

    Args:
        groups: each row's result records by its name.
    """
    sheet = _sheet(groups)
    if sheet is None:
        return None
    arrays, count = sheet.arrays, len(sheet.arrays["indices"])
    places = arrays["shown"][:MOST].tolist()
    pictures = zip(places, arrays["images"][:MOST], strict=True)
    words = (
        f"{len(places)} of {count} forgotten images, evenly spaced: the label, what the original"
        " said of it before, and what the models say after. Bold: not the label. That a model"
        " still says the label is no failure by itself: Retrain, which never saw the image, may say"
        " it too."
    )
    if len(groups) > MOST_ROWS:
        words += f" Only the first {MOST_ROWS} of {len(groups)} rows are asked."
    cards = [_card(sheet, place, pixels) for place, pixels in pictures]
    return joined(tag("p", words, class_="note"), tag("div", *cards, class_="sheet"))


def _sheet(groups: dict[str, list[dict]]) -> Sheet | None:
    """The files of each row's first run on one forget set, of the first MOST_ROWS rows and the
    original's.
    """
    found: dict[str, dict[str, tuple[dict, dict]]] = defaultdict(dict)
    for place, (name, runs) in enumerate(groups.items()):
        if place >= MOST_ROWS and runs[0]["method"] != "raw":
            continue
        for run in runs:
            sha256 = run["data"]["forget"]["sha256"]
            if name not in found[sha256] and (arrays := _read(run["file"], sha256)):
                found[sha256][name] = run, arrays
    rows = max(found.values(), key=len, default={})
    if not rows:
        return None
    arrays = next(iter(rows.values()))[1]
    said = [each.get("said_before") for _, each in rows.values()]
    said += [each["said_after"] for run, each in rows.values() if run["method"] == "raw"]
    before = next((each for each in said if each is not None), None)
    after = {
        name: each["said_after"] for name, (run, each) in rows.items() if run["method"] != "raw"
    }
    return Sheet(arrays, before, after)


def _read(result: Path, sha256: str) -> dict[str, np.ndarray] | None:
    """The arrays beside a result; None where there is no file, or one of another forget set."""
    file = result.with_name(result.name.removesuffix(RESULT) + FORGOTTEN)
    if not file.is_file():
        return None
    try:
        check_npz(file, NAMES)
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in NAMES if name in content.files}
        _check(arrays)
        return arrays if hash_arrays({"forget": arrays["indices"]}) == sha256 else None
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen types
        raise UserError(
            f"{file} is damaged ({type(error).__name__}: {error}); run its method again with"
            " --overwrite, or delete the file: the page then shows no images of it"
        ) from None


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Raise for arrays that do not belong together."""
    count, classes = len(arrays["indices"]), len(arrays["classes"])
    if arrays["classes"].dtype.kind != "U":
        raise TypeError("classes are no text")
    for name in ("indices", "labels", "said_after", "said_before"):
        if name in arrays and (arrays[name].shape != (count,) or arrays[name].dtype != np.int64):
            raise ValueError(f"{name} has shape {arrays[name].shape}")
    for name, below in (("labels", classes), ("said_after", classes), ("said_before", classes)):
        if name in arrays and not np.isin(arrays[name], np.arange(below)).all():
            raise ValueError(f"{name} are no classes")
    shown, images = arrays["shown"], arrays["images"]
    if shown.ndim != 1 or not np.isin(shown, np.arange(count)).all():
        raise ValueError("shown is out of range")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3:] != (3,):
        raise ValueError(f"images are {images.dtype} {images.shape}")
    if len(images) != len(shown):
        raise ValueError(f"{len(images)} images of {len(shown)} shown")


def _card(sheet: Sheet, place: int, pixels: np.ndarray) -> Html:
    """One image with its caption."""
    classes, label = sheet.arrays["classes"], int(sheet.arrays["labels"][place])
    lines = [tag("strong", str(classes[label]))]
    if sheet.before is not None:
        lines.append(_answer("before", int(sheet.before[place]), label, classes))
    by_answer = defaultdict(list)
    for name, said in sheet.after.items():
        by_answer[int(said[place])].append(name)
    for answer, names in by_answer.items():
        who = "after, all" if len(names) == len(sheet.after) > 1 else ", ".join(names)
        lines.append(_answer(who, answer, label, classes))
    caption = tag("figcaption", *(tag("div", line) for line in lines))
    alt = f"forgotten image {sheet.arrays['indices'][place]}, {classes[label]}"
    return tag("figure", picture(pixels, alt), caption)


def _answer(who: str, answer: int, label: int, classes: Sequence[str]) -> Html:
    kind = "right" if answer == label else "other"
    return joined(f"{who}: ", tag("span", str(classes[answer]), class_=kind))


def picture(pixels: np.ndarray, alt: str) -> Html:
    """Pixels (side, side, 3) uint8 as an image inside the page."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    side = len(pixels)
    return Html(
        f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{side}"'
        f' height="{side}"/>'
    )
