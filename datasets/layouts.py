"""Image files in the layouts that data sets are distributed in -> a listing to decode."""

import csv
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from datasets.decoding import Listing
from datasets.folders import Found, Tally, entries_of, find_classes, is_image, match_halves
from datasets.image_files import Member
from datasets.sources import Reading
from utils import UserError

TINY, TINY_COUNTS = "tiny-imagenet-200", (100_000, 10_000)
TINY_FROM = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
IMAGENET_COUNTS = (1_281_167, 50_000)
IMAGENET_FROM = "https://image-net.org (ILSVRC 2012, after registration) or its Kaggle competition"
CLASS_MAP, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
KAGGLE = Path("ILSVRC/Data/CLS-LOC")
ANNOTATIONS = "val_annotations.txt"


def folder(data: Path, reading: Reading) -> Listing:
    """A user's own images: DATA/train/CLASS/* and DATA/test/CLASS/* (or DATA/val/CLASS/*); 32
    pixels a side where nothing else is asked.
    """
    tally = Tally("--dataset folder")
    there = [data / name for name in ("test", "val") if (data / name).is_dir()]
    if not (data / "train").is_dir() or not there:
        raise UserError(
            f"{tally.what}: {data} needs train/CLASS/IMAGE and test/CLASS/IMAGE (or val/)"
            f"{_there(data, tally.what)}"
        )
    lines = []
    if len(there) == 2 and not _shares_class(*there[:1], data / "train", tally.what):
        there = there[1:]
        lines = ["test has no class folder of train, so no labels: val is the test set"]
    train, test = data / "train", there[0]
    found = find_classes(train, data, tally), find_classes(test, data, tally)
    classes, halves, more = match_halves(*found, (train, test), tally.what)
    if len(classes) == 1:
        raise UserError(
            f"{tally.what}: {train} has one class folder, {classes[0]!r}; a classifier needs at"
            f" least 2{_there(train / classes[0], tally.what)}"
        )
    return _listing(tally, data, classes, halves, lines + more, reading, 32)


def _there(folder: Path, what: str) -> str:
    """The folders in a folder, where it has some, with the remedy where they are in its place."""
    if not folder.is_dir():
        return ""
    names = [each.name for each in entries_of(folder, what) if each.is_dir()]
    names = [name for name in names if not name.startswith(".")]
    if not names:
        return ""
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    return f"; the folders in {folder.name} are {shown}: rename or move them"


def _shares_class(half: Path, train: Path, what: str) -> bool:
    names = [{e.name for e in entries_of(each, what) if e.is_dir()} for each in (half, train)]
    return bool(names[0] & names[1])


def _listing(
    tally: Tally,
    root: Path,
    classes: list[str],
    halves: list,
    lines: list[str],
    reading: Reading,
    side: int,
) -> Listing:
    side, fit = reading.input_size or side, reading.fit or "crop"
    return Listing(tally.what, root, classes, *halves, lines, tally, side, fit)


def _missing(counts: tuple[int, int], halves: list, name: str) -> list[str]:
    there = tuple(len(half.paths) for half in halves)
    if there == counts:
        return []
    said = " and ".join(f"{n} of {all_}" for n, all_ in zip(there, counts, strict=True))
    return [f"{said} images of {name} are there (train, val)"]


def class_names(wnids: list[str], names: dict[str, str]) -> list[str]:
    """The first word for each WordNet number; the number where there is none, and beside a word
    that several have.
    """
    first = [names.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    twice = {name for name in first if first.count(name) > 1}
    return [f"{n} ({w})" if n in twice else n for n, w in zip(first, wnids, strict=True)]


# ------------------------------------------------------------------------------------ Tiny-ImageNet


class _Tree:
    """The files below a folder, or below the only folder of a zip archive, by their names."""

    def __init__(self, path: Path, what: str):
        self.path, self.zipped = path, path.is_file()
        self.prefix = ""
        if not self.zipped:
            files = (each for each in path.rglob("*") if each.is_file())
            self.names = sorted(each.relative_to(path).as_posix() for each in files)
            return
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{what}: {path} is no zip archive: {error}") from None
        self.prefix = next((n.partition("train/")[0] for n in names if "train/" in n), "")
        own = (name for name in names if name.startswith(self.prefix))
        self.names = sorted(name.removeprefix(self.prefix) for name in own)

    def open(self, name: str) -> str | Member:
        """What :func:`datasets.image_files.decode` opens."""
        return Member(str(self.path), self.prefix, name) if self.zipped else str(self.path / name)

    def text(self, name: str) -> str:
        """A text file; empty where there is none."""
        if name not in self.names:
            return ""
        if not self.zipped:
            return (self.path / name).read_text()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.prefix + name).decode()


def find_tiny(data: Path) -> Path | None:
    """The folder or the archive of Tiny-ImageNet at ``data``, in it, or beside it."""
    archive = f"{TINY}.zip"
    beside = (data.with_name(f"{data.name}.zip"), data.with_name(archive))
    for each in (data, data / TINY):
        if (each / "train").is_dir() or (each.is_file() and each.suffix == ".zip"):
            return each
    return next((each for each in (data / archive, *beside) if each.is_file()), None)


def tiny_imagenet(data: Path, reading: Reading) -> Listing:
    """Tiny-ImageNet-200 as it is distributed, a folder or the zip archive: train/WNID/images/*, and
    val/ with its annotations as the test set; val/WNID/* is read too. test/ has no labels.
    """
    tally = Tally("--dataset tiny_imagenet")
    if (path := find_tiny(data)) is None:
        raise UserError(
            f"{tally.what}: {data} holds no {TINY}, neither folder nor zip; get {TINY_FROM} and"
            " give --data FOLDER, or the zip"
        )
    tree = _Tree(path, tally.what)
    images = [name for name in tree.names if is_image(name)]
    train = _by_class(images, "train", tree)
    labels = _annotations(tree)
    if labels:
        test, lines = _annotated(images, labels, tree)
    else:
        test, lines = _by_class(images, "val", tree), []
    where = (path / "train", path / "val")
    if not train or not test:
        lacks = "train/WNID/images/*.JPEG" if not train else f"val/images with val/{ANNOTATIONS}"
        raise UserError(f"{tally.what}: {path} lacks {lacks}; unpack {TINY_FROM} anew")
    wnids, halves, more = match_halves(train, test, where, tally.what)
    words = (line.partition("\t") for line in tree.text("words.txt").splitlines())
    classes = class_names(wnids, {wnid: names for wnid, _, names in words})
    lines += more + _missing(TINY_COUNTS, halves, "Tiny-ImageNet")
    return _listing(tally, path, classes, halves, lines, reading, 64)


def _by_class(names: Iterable[str], half: str, tree: _Tree) -> Found:
    found: Found = {}
    for name in names:
        if match := re.fullmatch(rf"{half}/([^/]+)/(?:images/)?[^/]+", name):
            found.setdefault(match[1], []).append(tree.open(name))
    return found


def _annotations(tree: _Tree) -> dict[str, str]:
    """{file name: class} of val/val_annotations.txt."""
    lines = (line.split("\t") for line in tree.text(f"val/{ANNOTATIONS}").splitlines())
    there = any(name.startswith("val/images/") for name in tree.names)
    return {line[0]: line[1].strip() for line in lines if len(line) > 1} if there else {}


def _annotated(
    images: Iterable[str], labels: dict[str, str], tree: _Tree
) -> tuple[Found, list[str]]:
    """The val images by class, and lines on those that lack a label or an image."""
    found, bare, left = {}, [], dict(labels)
    for name in images:
        if not name.startswith("val/images/"):
            continue
        file = name.removeprefix("val/images/")
        if file in labels:
            found.setdefault(labels[file], []).append(tree.open(name))
            left.pop(file, None)
        else:
            bare.append(name)
    lines = []
    if bare:
        lines.append(f"val images without annotation, left out: {len(bare)}, the first {bare[0]}")
    if left:
        lines.append(f"annotations without val image: {len(left)}, the first {next(iter(left))}")
    return found, lines


# ----------------------------------------------------------------------------------------- ImageNet


def find_imagenet(data: Path) -> Path | None:
    """The folder with ImageNet's train/ and val/, at ``data`` or where Kaggle's archive has it."""
    return next((d for d in (data, data / KAGGLE) if (d / "train").is_dir()), None)


def imagenet(data: Path, reading: Reading) -> Listing:
    """ImageNet's trees (ILSVRC 2012): train/WNID/*, and val/WNID/*, or val/* with
    LOC_val_solution.csv, as the test set. LOC_synset_mapping.txt names the classes where it is
    there.
    """
    tally = Tally("--dataset imagenet")
    root = find_imagenet(data)
    if root is None or not (root / "val").is_dir():
        raise UserError(
            f"{tally.what}: {data} needs train/WNID/*.JPEG and val/WNID/*.JPEG, or val/*.JPEG with"
            f" {SOLUTION}; get them from {IMAGENET_FROM}"
        )
    train, val = root / "train", root / "val"
    found = find_classes(train, root, tally)
    solution, lines = _beside(root, data, SOLUTION), []
    if any(entry.is_dir() for entry in entries_of(val, tally.what)):
        held_out = find_classes(val, root, tally)
    elif solution is not None:
        held_out, lines = _solved(val, solution, tally)
    else:
        raise UserError(
            f"{tally.what}: {val} has images without class folders; put {SOLUTION} (Kaggle's)"
            " beside train and val, or move the images into val/WNID"
        )
    wnids, halves, more = match_halves(found, held_out, (train, val), tally.what)
    names = {}
    if (file := _beside(root, data, CLASS_MAP)) is not None:
        words = (line.partition(" ") for line in file.read_text().splitlines())
        names = {wnid: name for wnid, _, name in words}
    lines += more + _missing(IMAGENET_COUNTS, halves, "ImageNet")
    return _listing(tally, root, class_names(wnids, names), halves, lines, reading, 224)


def _beside(root: Path, data: Path, name: str) -> Path | None:
    """A file of the distribution: with train and val, or in the folder that was given."""
    return next((each / name for each in (root, data) if (each / name).is_file()), None)


def _solved(val: Path, solution: Path, tally: Tally) -> tuple[Found, list[str]]:
    """The images of a val/ without class folders, by the classes of LOC_val_solution.csv."""
    with open(solution, newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) > 1 and row[1].strip()]
    labels = {row[0]: row[1].split()[0] for row in rows}
    found, bare = {}, []
    for entry in entries_of(val, tally.what):
        if not is_image(entry.name) or entry.name.startswith("."):
            continue
        if (label := labels.get(Path(entry.name).stem)) is None:
            bare.append(entry.name)
        else:
            found.setdefault(label, []).append(entry.path)
    if bare:
        said = f"val images that {solution.name} does not name, left out"
        return found, [f"{said}: {len(bare)}, the first {bare[0]}"]
    return found, []
