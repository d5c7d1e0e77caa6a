"""Images decoded once: memory-mapped pixels on disk, with a record of what they were made of.

An entry is a folder: x_train.npy, x_test.npy (n, side, side, 3) uint8, a hash of each image, and
record.json. While it is built it is called NAME.partial, and a killed build goes on there.
"""

import contextlib
import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL

from datasets.decoding import HALVES, Decoder, Listing, killed_workers_said
from datasets.facts import half_facts
from datasets.folders import Tally
from datasets.image_files import Member
from runtime.file_checks import FalseClaim, available_memory, check_npy
from runtime.files import is_writable, load_json, save_json_alone
from utils import UserError, printable

VERSION = 1  # of what an entry holds
FOLDER, NONE = ".unlearning_cache", "none"
RECORD, PROGRESS, DEEP = "record.json", "progress.json", "deep.f32"
SAVED_EVERY = 5.0  # seconds of decoding that a kill may cost
GIB = 2**30


def read_images(name: str, listing: Listing, cache: str | None, workers: int) -> dict[str, object]:
    """The images of a listing, decoded now only where the cache lacks them.

    Args:
        name: of the data set.
        cache: the folder of the cache; None is ``.unlearning_cache`` beside the images or, where
            that cannot be written, the user's cache folder; ``none`` decodes into memory.
        workers: processes that decode.

    Returns:
        x_train and x_test (memory maps), ``notes`` of what was done to images, and ``facts`` by
        half as :func:`datasets.facts.half_facts` returns them, where they are kept.

    Raises:
        UserError: images that cannot be read, or a cache that cannot be written or is too small.
    """
    if cache == NONE:
        return _decoded_into_memory(listing, workers)
    identity = _identity(name, listing)
    entries = [_entry(folder, name, listing) for folder in _folders(listing.root, cache)]
    seen = {}
    for entry in entries:
        seen[entry] = _number(entry)
        if seen[entry] and (found := _read(entry, identity, listing)):
            return found
    entry = next((entry for entry in entries if is_writable(entry.parent)), None)
    if entry is None:
        raise UserError(
            f"{listing.what}: the cache {entries[0].parent} cannot be written; give --cache DIR, or"
            " --cache none to decode into memory each time"
        )
    with _building(entry):
        made = _number(entry) not in (None, seen[entry])  # by another command meanwhile
        found = _read(entry, identity, listing) if made else None
        return found or _build(entry, identity, listing, workers)


# --------------------------------------------------------------------------------- names and record


def _folders(root: Path, cache: str | None) -> list[Path]:
    if cache is not None:
        return [Path(cache)]
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [(root if root.is_dir() else root.parent) / FOLDER, users / "unlearning"]


def _number(entry: Path) -> int | None:
    """The folder's inode; None where there is none."""
    return entry.stat().st_ino if entry.is_dir() else None


def _entry(folder: Path, name: str, listing: Listing) -> Path:
    """The entry's folder. Its name depends on where the images are as seen from the cache, so that
    a cache beside them can be moved with them.
    """
    place = os.path.relpath(os.path.realpath(listing.root), os.path.realpath(folder))
    key = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return folder / f"{name.replace(':', '_')}_{listing.side}_{listing.fit}_{key}"


def _identity(name: str, listing: Listing) -> dict[str, object]:
    """What an entry is made of: options, and the names, sizes, times and labels of all files."""
    digest, stats = hashlib.sha256(), {}
    for half in HALVES:
        files = getattr(listing, half)
        for path, shown in zip(files.paths, listing.names(half), strict=True):
            digest.update(f"{half}|{shown}|{_stamp(path, stats)}\n".encode("utf-8", "replace"))
        digest.update(files.labels.tobytes())
    return {
        "version": VERSION,
        "dataset": name,
        "side": listing.side,
        "fit": listing.fit,
        "images": [len(getattr(listing, half).paths) for half in HALVES],
        "source": digest.hexdigest(),
    }


def _stamp(path: str | Member, archives: dict[str, str]) -> str:
    """Size and time of the last change of a file; of an archive's member those of the archive."""
    file = path.archive if isinstance(path, Member) else path
    if file in archives:
        return archives[file]
    try:
        stats = os.stat(file)
        found = f"{stats.st_size} {stats.st_mtime_ns}"
    except OSError:  # a link that leads nowhere: decoding says so
        found = "missing"
    if isinstance(path, Member):
        archives[file] = found
    return found


def _record(entry: Path) -> dict | None:
    """An entry's record; None where there is none that can be read."""
    try:
        record = load_json(entry / RECORD, "record")
    except UserError:
        return None
    return record if isinstance(record.get("identity"), dict) else None


# ------------------------------------------------------------------------------------------ reading


def _read(entry: Path, identity: dict, listing: Listing) -> dict[str, object] | None:
    """What an entry holds; None, said, where it is damaged or was made of other files."""
    record, shown = _record(entry), printable(str(entry))
    if record is None:
        print(f"cache {shown} has no record that can be read: decoded anew")
        return None
    if record["identity"] != identity:
        then, now = record["identity"].get("images"), identity["images"]
        print(
            f"cache {shown} was made of other files ({_sum(then)} images, now {_sum(now)}; names,"
            " sizes, times or labels differ): decoded anew"
        )
        return None
    try:
        images = {half: _mapped(entry / f"x_{half}.npy") for half in HALVES}
        hashes = {half: _mapped(entry / f"hashes_{half}.npy") for half in HALVES}
        facts = {half: record["facts"][half] | {"hashes": hashes[half]} for half in HALVES}
        _check_shapes(images, hashes, identity)
        _check_content(entry, record, images, listing)
        notes = _notes(listing, record["scaled"], record["tally"])
    except (FalseClaim, LookupError, OSError, TypeError, ValueError) as error:
        reason = f"{error}".splitlines()[0][:100]
        print(f"cache {shown} is damaged ({printable(reason)}): decoded anew")
        return None
    return {"facts": facts, "notes": notes, "x_train": images["train"], "x_test": images["test"]}


def _sum(counts: object) -> object:
    return sum(counts) if isinstance(counts, list) else counts


def _mapped(file: Path) -> np.ndarray:
    """An array in memory-mapped pages, which no other process shares once they are written to."""
    check_npy(file)
    return np.load(file, mmap_mode="c", allow_pickle=False)


def _check_shapes(images: dict, hashes: dict, identity: dict) -> None:
    side = identity["side"]
    for half, count in zip(HALVES, identity["images"], strict=True):
        wanted = ((count, side, side, 3), np.uint8), ((count,), np.uint64)
        there = [(array.shape, array.dtype) for array in (images[half], hashes[half])]
        if [(shape, np.dtype(dtype)) for shape, dtype in wanted] != there:
            raise ValueError(f"x_{half}.npy or hashes_{half}.npy is of another shape")


def _looks(file: Path) -> list[int]:
    stats = file.stat()
    return [stats.st_size, stats.st_mtime_ns, stats.st_ino]


def _check_content(entry: Path, record: dict, images: dict, listing: Listing) -> None:
    """Take the hashes anew where a file is not the one that was written, such as in a copy of the
    cache, and keep how it looks where they agree.
    """
    looks = {name: _looks(entry / name) for name in _files()}
    if looks == record["looks"]:
        return
    print(f"cache {printable(str(entry))} was copied or changed: its hashes are taken anew")
    check_hashes(record, images, listing)
    with contextlib.suppress(Exception):  # a cache that may be read alone is hashed each time
        save_json_alone(record | {"looks": looks}, entry / RECORD)


def check_hashes(record: dict, images: dict[str, np.ndarray], listing: Listing) -> None:
    """Raise ValueError where the pixels are not those that the record was made of."""
    for half in HALVES:
        facts = half_facts(half, images[half], getattr(listing, half).labels)
        if facts["sha256"] != record["facts"][half]["sha256"]:
            raise ValueError(f"x_{half}.npy holds other pixels than were written")


def _files() -> list[str]:
    return [f"{kind}_{half}.npy" for kind in ("x", "hashes") for half in HALVES]


def _notes(listing: Listing, scaled: list[str], tally: list[dict]) -> list[str]:
    """What is said of a data set's files: of their names first, then of their pixels."""
    decoded = Tally()
    decoded.counts, decoded.firsts = map(dict, tally)
    return [*listing.lines, *map(str, scaled), *listing.tally.lines(), *decoded.lines()]


# ----------------------------------------------------------------------------------------- building


@contextlib.contextmanager
def _building(entry: Path) -> Iterator[None]:
    """Hold the entry's lock, for which other commands that need the same images wait."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        file = open(entry.with_name(f".{entry.name}.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"the cache {entry.parent} cannot be written: {error.strerror}; give --cache DIR"
        ) from None
    with file:
        _lock(file, entry)
        yield


def _lock(file: io.TextIOBase, entry: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: an atomic rename still keeps every entry whole
        return
    with contextlib.suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another command that builds {printable(str(entry))}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)


def _build(entry: Path, identity: dict, listing: Listing, workers: int) -> dict[str, object]:
    partial, begun = entry.with_name(f"{entry.name}.partial"), time.perf_counter()
    size, shown = listing.pixels() / GIB, printable(str(entry))
    try:
        begin = _begin(partial, identity, listing)
        said = f"going on at image {begin['done']}" if begin else f"--workers {workers}"
        print(f"decoding {listing.count()} images into {shown}, {size:.3g} GiB, {said}", flush=True)
        images = {half: _open_to_write(partial / f"x_{half}.npy") for half in HALVES}
        with open(partial / DEEP, "r+b") as deep:
            decoder = _decode(partial, identity, Decoder(listing, images, deep), begin, workers)
            scaled = decoder.finish()
        record = _finish(partial, identity, images, decoder.facts())
        record |= {"scaled": scaled, "tally": decoder.state()["tally"]}
        _save_record(partial, record)
        _put_in_place(partial, entry)
    except OSError as error:
        raise UserError(
            f"the cache {shown} cannot be written: {_why(error)}; make room, or give"
            " --cache DIR, then run the command again: it goes on"
        ) from None
    print(f"decoded in {time.perf_counter() - begun:.1f} s; later commands read {shown}")
    found = _read(entry, identity, listing)
    if found is None:
        raise UserError(f"the cache {shown} changed while it was written; run the command again")
    return found


def _why(error: OSError) -> str:
    """Its reason; the error of a decoding process ends with it."""
    return error.strerror or f"{error}".strip().splitlines()[-1]


def _open_to_write(file: Path) -> np.ndarray:
    check_npy(file)
    return np.load(file, mmap_mode="r+", allow_pickle=False)


def _begin(partial: Path, identity: dict, listing: Listing) -> dict | None:
    """Files of the right size in ``partial``; the progress of an earlier build of the same images,
    where there is one.
    """
    with contextlib.suppress(UserError, LookupError, OSError, TypeError, ValueError):
        progress = load_json(partial / PROGRESS, "progress")
        shapes = [_open_to_write(partial / f"x_{half}.npy").shape for half in HALVES]
        wanted = [_shape(listing, half) for half in HALVES]
        if (progress["identity"], shapes) == (identity, wanted) and (partial / DEEP).is_file():
            return progress["decoder"]
    shutil.rmtree(partial, ignore_errors=True)
    free = shutil.disk_usage(partial.parent).free
    if listing.pixels() > free:
        raise UserError(
            f"{listing.what}: {listing.count()} images of {listing.side} pixels a side need"
            f" {listing.pixels() / GIB:.2f} GiB, {partial.parent} has {free / GIB:.2f} free; give"
            " --cache DIR on a larger disk, or a smaller --input_size"
        )
    partial.mkdir(parents=True)
    for half in HALVES:
        file = partial / f"x_{half}.npy"
        np.lib.format.open_memmap(file, "w+", np.uint8, _shape(listing, half))
        _reserve(file)
    (partial / DEEP).touch()
    return None


def _shape(listing: Listing, half: str) -> tuple[int, ...]:
    return len(getattr(listing, half).paths), listing.side, listing.side, 3


def _reserve(file: Path) -> None:
    """Take the disk's room now: a full disk would later kill the process that writes the map."""
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)


def _decode(
    partial: Path, identity: dict, decoder: Decoder, begin: dict | None, workers: int
) -> Decoder:
    """Decode all that is left, saving how far it is as it goes."""
    if begin is not None:
        decoder.restore(begin)

    def keep() -> None:
        decoder.deep.flush()
        for images in decoder.images.values():
            images.flush()
        save_json_alone({"identity": identity, "decoder": decoder.state()}, partial / PROGRESS)

    saved = time.monotonic()
    with killed_workers_said():
        for _ in decoder.run(workers):
            if time.monotonic() > saved + SAVED_EVERY:
                keep()
                saved = time.monotonic()
    keep()
    return decoder


def _finish(partial: Path, identity: dict, images: dict, facts: dict[str, dict]) -> dict:
    """The record's entries on the pixels; the hashes of images go into files beside them."""
    for half in HALVES:
        images[half].flush()
        np.save(partial / f"hashes_{half}.npy", facts[half].pop("hashes"))
    return {"identity": identity, "facts": facts}


def _save_record(partial: Path, record: dict) -> None:
    made = {"pillow": PIL.__version__, "looks": {name: _looks(partial / name) for name in _files()}}
    save_json_alone(record | made, partial / RECORD)


def _put_in_place(partial: Path, entry: Path) -> None:
    for name in (PROGRESS, DEEP):
        (partial / name).unlink(missing_ok=True)
    if entry.exists():  # processes that have mapped its files keep them
        old = entry.with_name(f"{entry.name}.{os.getpid()}.old")
        os.replace(entry, old)
        shutil.rmtree(old, ignore_errors=True)
    os.replace(partial, entry)


def _decoded_into_memory(listing: Listing, workers: int) -> dict[str, object]:
    if listing.pixels() > available_memory():
        raise UserError(
            f"{listing.what}: {listing.count()} images of {listing.side} pixels a side need"
            f" {listing.pixels() / GIB:.2f} GiB, {available_memory() / GIB:.2f} of memory are free;"
            " drop --cache none"
        )
    images = {half: np.empty(_shape(listing, half), np.uint8) for half in HALVES}
    decoder = Decoder(listing, images, io.BytesIO())
    with killed_workers_said():
        for _ in decoder.run(workers):
            pass
    scaled = decoder.finish()
    notes = _notes(listing, scaled, decoder.state()["tally"])
    found = {"facts": decoder.facts(), "notes": notes}
    return found | {f"x_{half}": images[half] for half in HALVES}
