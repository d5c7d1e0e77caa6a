"""Images decoded once: the cache gives what decoding gives, is read without decoding, sees what has
changed, and goes on after a kill.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from datasets import cache, decoding, load_dataset
from datasets.copies import image_hashes
from datasets.facts import statistics
from runtime.files import hash_arrays
from utils import RunFailed, UserError

RNG = np.random.default_rng(0)
FILE = 12, 10  # pixels of the images that are written


def write(root, train=6, test=2, classes=("cat", "dog")):
    """train/CLASS/i.png and test/CLASS/i.png of random pixels."""
    for half, count in (("train", train), ("test", test)):
        for name in classes:
            (root / half / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = Image.fromarray(RNG.integers(0, 256, (*FILE, 3), np.uint8))
                image.save(root / half / name / f"{i}.png")
    return root


def read(root, **options):
    return load_dataset("folder", root, input_size=8, **options)


def same(one, other):
    arrays = ("x_train", "y_train", "x_test", "y_test")
    assert all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)
    plain = ("classes", "mean", "std", "crop", "files", "notes")
    assert [getattr(one, name) for name in plain] == [getattr(other, name) for name in plain]
    assert (one.sha256(), one.test_sha256()) == (other.sha256(), other.test_sha256())
    assert one.lines() == other.lines()


def entry(root):
    (found,) = [each for each in (root / cache.FOLDER).iterdir() if each.is_dir()]
    return found


@pytest.fixture
def no_decoding(monkeypatch):
    def forbidden(*unused):
        raise AssertionError("an image is decoded again")

    return lambda: monkeypatch.setattr(decoding, "decode", forbidden)


@pytest.fixture
def mixed(tmp_path):
    """Colour, transparency, 16 bits, floats, a copy, a flat image, a hidden file."""
    root = write(tmp_path / "mixed")
    grey = RNG.integers(0, 4000, FILE).astype(np.uint16)
    Image.fromarray(grey).save(root / "train/cat/7.png")
    Image.fromarray((grey // 2).astype(np.uint16)).save(root / "test/dog/7.png")
    Image.fromarray(RNG.random(FILE).astype(np.float32)).save(root / "train/dog/8.tiff")
    clear = np.dstack([np.full((*FILE, 3), 9, np.uint8), np.zeros(FILE, np.uint8)])
    Image.fromarray(clear).save(root / "train/dog/7.png")
    shutil.copy(root / "train/cat/0.png", root / "train/cat/9.png")
    (root / "train/.hidden").write_text("")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_holds_what_decoding_into_memory_gives(mixed, no_decoding, workers):
    plain = read(mixed, cache="none")
    assert not (mixed / cache.FOLDER).exists()
    assert len(plain.notes) >= 5
    same(read(mixed, workers=workers), plain)
    no_decoding()
    again = read(mixed)
    same(again, plain)
    assert isinstance(again.x_train.base, np.memmap) or isinstance(again.x_train, np.memmap)


def test_what_is_kept_of_the_pixels_is_what_they_give(mixed):
    read(mixed)
    images = read(mixed)
    assert np.array_equal(images.train_hashes, image_hashes(np.array(images.x_train)))
    assert np.array_equal(images.test_hashes, image_hashes(np.array(images.x_test)))
    arrays = {"x_train": np.array(images.x_train), "y_train": images.y_train}
    assert images.sha256() == hash_arrays(arrays)
    assert (images.mean, images.std) == statistics(np.array(images.x_train))


def test_another_array_has_no_kept_hash(mixed):
    images = read(mixed)
    other = dataclasses.replace(images, x_train=255 - images.x_train)
    assert other.sha256() != images.sha256()
    assert not np.array_equal(other.train_hashes, images.train_hashes)


def add(root):
    shutil.copy(root / "train/cat/0.png", root / "train/cat/99.png")


def rename(root):
    (root / "train/cat/0.png").rename(root / "train/cat/05.png")


def rewrite(root):
    Image.fromarray(RNG.integers(0, 256, (*FILE, 3), np.uint8)).save(root / "test/dog/1.png")


def touch(root):
    os.utime(root / "train/cat/0.png", (1, 1))


def move(root):
    (root / "train/cat/0.png").rename(root / "train/dog/99.png")


@pytest.mark.parametrize("change", [add, rename, rewrite, touch, move])
def test_a_changed_source_is_decoded_anew_and_said(tmp_path, capsys, change):
    root = write(tmp_path / "images")
    read(root)
    change(root)
    capsys.readouterr()
    found = read(root)
    assert "was made of other files" in capsys.readouterr().out
    same(found, read(root, cache="none"))
    read(root)
    assert capsys.readouterr().out == ""


def test_options_and_folders_have_entries_of_their_own(tmp_path, capsys):
    roots, folder = [write(tmp_path / name) for name in "ab"], tmp_path / "cache"
    options = {"cache": str(folder)}
    for root in roots:
        read(root, **options)
        read(root, fit="pad", **options)
        load_dataset("folder", root, input_size=4, **options)
    assert len([each for each in folder.iterdir() if each.is_dir()]) == 6
    capsys.readouterr()
    same(read(roots[0], **options), read(roots[0], cache="none"))
    assert capsys.readouterr().out == ""
    assert not (roots[0] / cache.FOLDER).exists()


def test_a_cache_moves_with_its_images(tmp_path, no_decoding, capsys):
    root = write(tmp_path / "here")
    before = read(root)
    shutil.copytree(root, tmp_path / "there")  # copies times, not inodes
    no_decoding()
    capsys.readouterr()
    same(read(tmp_path / "there"), before)
    assert "its hashes are taken anew" in capsys.readouterr().out
    read(tmp_path / "there")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("file", ["x_train.npy", "hashes_test.npy", "record.json"])
@pytest.mark.parametrize("how", ["lost", "cut", "empty"])
def test_a_damaged_cache_is_built_anew_and_said(tmp_path, capsys, file, how):
    root = write(tmp_path)
    before = read(root)
    path = entry(root) / file
    content = path.read_bytes()
    path.unlink()  # its pages may be mapped
    if how != "lost":
        path.write_bytes(content[: -3 if how == "cut" else 0])
    capsys.readouterr()
    same(read(root), before)
    assert capsys.readouterr().out.count("decoded anew") == 1


def test_other_pixels_under_the_record_are_seen(tmp_path, capsys):
    root = write(tmp_path)
    before = read(root).sha256()
    path = entry(root) / "x_train.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert read(root).sha256() == before
    assert "holds other pixels" in capsys.readouterr().out


def test_a_record_is_plain_and_says_what_it_was_made_of(tmp_path):
    root = write(tmp_path)
    read(root)
    record = json.loads((entry(root) / "record.json").read_text())
    assert record["identity"]["images"] == [12, 4]
    assert record["identity"]["side"] == 8
    assert record["facts"]["train"]["sha256"] == read(root).sha256()
    assert {each.name for each in entry(root).iterdir()} == {"record.json", *cache._files()}


def test_damaged_images_are_refused_and_a_repaired_folder_is_read(tmp_path):
    root = write(tmp_path)
    good = (root / "train/dog/3.png").read_bytes()
    (root / "train/dog/3.png").write_bytes(b"none")
    with pytest.raises(UserError, match="1 image cannot be read, the first"):
        read(root)
    (root / "train/dog/3.png").write_bytes(good)
    same(read(root), read(root, cache="none"))


@pytest.mark.parametrize("stop", range(0, 19, 3))
def test_a_stopped_build_goes_on_where_it_was(mixed, monkeypatch, capsys, stop):
    """Stopped after any image, it decodes only what is left, and ends with the same arrays."""
    plain, decoded = read(mixed, cache="none"), []
    monkeypatch.setattr(cache, "SAVED_EVERY", -1.0)
    run = decoding.Decoder.run

    def stopped(self, workers):
        for done in run(self, workers):
            yield done
            if done == stop:
                raise KeyboardInterrupt

    def counted(path, side, fit, inner=decoding.decode):
        decoded.append(path)
        return inner(path, side, fit)

    if stop:
        monkeypatch.setattr(decoding.Decoder, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            read(mixed)
        monkeypatch.setattr(decoding.Decoder, "run", run)
    assert not list(mixed.rglob("record.json"))
    monkeypatch.setattr(decoding, "decode", counted)
    same(read(mixed), plain)
    total = len(plain.y_train) + len(plain.y_test)
    assert len(decoded) == total - stop
    assert ("going on at image" in capsys.readouterr().out) == bool(stop)


CHILD = """
import sys, datasets.cache as cache
cache.SAVED_EVERY = 0.0
from datasets import decoding, load_dataset
slow = decoding.decode
def decode(*given):
    import time
    time.sleep(0.02)
    return slow(*given)
decoding.decode = decode
load_dataset("folder", sys.argv[1], input_size=8)
"""


def test_a_killed_build_leaves_no_entry_and_the_next_one_is_whole(tmp_path, capsys):
    root = write(tmp_path, train=60)
    plain = read(root, cache="none")
    child = subprocess.Popen([sys.executable, "-c", CHILD, root], cwd=ROOT, text=True)
    until = time.monotonic() + 120
    while not list(root.rglob("progress.json")) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(root.rglob("progress.json"))
    same(read(root), plain)
    assert "going on at image" in capsys.readouterr().out
    assert not list(root.rglob("*.partial"))


STUCK = """
import multiprocessing, sys, threading, time
from datasets import decoding, load_dataset
decoding.decode = lambda *given: time.sleep(600)
threading.Thread(target=load_dataset, args=("folder", sys.argv[1]), kwargs={"workers": 2}).start()
while not (workers := multiprocessing.active_children()):
    time.sleep(0.1)
time.sleep(1)
print("workers", *(worker.pid for worker in multiprocessing.active_children()), flush=True)
"""


def test_decoding_processes_end_with_a_command_that_is_killed(tmp_path):
    root = write(tmp_path, train=60)
    command = [sys.executable, "-c", STUCK, root]
    child = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    said = next(line for line in child.stdout if line.startswith("workers"))
    workers = [Path("/proc", pid) for pid in said.split()[1:]]
    assert workers
    assert all(worker.exists() for worker in workers)
    child.kill()
    child.wait()
    until = time.monotonic() + 30
    while any(worker.exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(worker.exists() for worker in workers)


def test_a_decoding_process_that_is_killed_is_said_in_one_line_and_the_next_build_is_whole(
    tmp_path, monkeypatch
):
    root = write(tmp_path / "images", train=60)
    whole = {file.name: file.read_bytes() for file in entry_of(root, "undisturbed").glob("*.npy")}
    monkeypatch.setattr(decoding, "decode", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RunFailed, match=r"process that decodes .* was killed.*--workers") as e:
        read(root, workers=2, cache=str(tmp_path / "killed"))
    assert "\n" not in str(e.value)
    monkeypatch.undo()
    again = entry_of(root, "killed")
    assert {file.name: file.read_bytes() for file in again.glob("*.npy")} == whole


def entry_of(root, name):
    """The folder of a cache of ``root`` called ``name``, which is built where it is not there."""
    folder = root.parent / name
    read(root, workers=2, cache=str(folder))
    (found,) = [each for each in folder.iterdir() if each.is_dir()]
    return found


SIGNALLED = """
import os, signal, sys
from datasets import load_dataset
from runtime.cli import script
@script
def main(argv):
    # Python ignores what a callback of a fork raises.
    os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGTERM))
    load_dataset("folder", argv[0], input_size=8, workers=2)
    print("not stopped")
sys.exit(main())
"""


def test_a_signal_while_decoding_processes_begin_ends_the_command(tmp_path):
    root = write(tmp_path, train=60)
    command = [sys.executable, "-c", SIGNALLED, root]
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert (ended.returncode, "not stopped" in ended.stdout) == (130, False)
    assert "stopped by SIGTERM" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ignored" not in ended.stderr


def test_a_cache_that_does_not_fit_is_refused_before_decoding(tmp_path, monkeypatch, no_decoding):
    root = write(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=100))
    no_decoding()
    with pytest.raises(UserError, match=r"16 images of 8 pixels a side need .* --cache DIR"):
        read(root)
    monkeypatch.setattr(cache, "available_memory", lambda: 100)
    with pytest.raises(UserError, match="drop --cache none"):
        read(root, cache="none")


def test_where_images_cannot_be_written_the_users_cache_is_taken(
    tmp_path, monkeypatch, no_decoding
):
    root = write(tmp_path / "images")
    writable = cache.is_writable
    monkeypatch.setattr(
        cache, "is_writable", lambda path: root not in path.parents and writable(path)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    read(root)
    assert list((tmp_path / "home/unlearning").glob("folder_8_crop_*/x_train.npy"))
    assert not (root / cache.FOLDER).exists()
    no_decoding()
    read(root)


def test_a_file_in_the_place_of_the_cache_is_named(tmp_path):
    root = write(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written; give --cache DIR"):
        read(root, cache=str(tmp_path / "file"))


@pytest.mark.parametrize("where", ["cache", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_facts_that_decoding_gathers_are_those_of_a_pass_over_all_pixels(
    tmp_path, where, workers, monkeypatch
):
    """Against hashlib and bincount on the arrays; nothing is computed of the arrays afterwards."""
    root = write(tmp_path / "images", train=40)
    Image.new("RGB", FILE, (1, 2, 3)).save(root / "train/cat/0.png")
    monkeypatch.setattr(decoding, "half_facts", None)
    images = read(root, workers=workers, cache=str(tmp_path / "c") if where == "cache" else "none")
    x = np.array(images.x_train)
    digests = [hashlib.blake2b(each.tobytes(), digest_size=8).digest() for each in x]
    assert images.train_hashes.tobytes() == b"".join(digests)
    assert images.sha256() == hash_arrays({"x_train": x, "y_train": images.y_train})
    test = {"x_test": np.array(images.x_test), "y_test": images.y_test}
    assert images.test_sha256() == hash_arrays(test)
    mean, std = (x / 255).mean((0, 1, 2)), (x / 255).std((0, 1, 2))
    assert np.allclose([images.mean, images.std], [mean, std], atol=6e-5)
    assert any("single colour: 1 of 80 and 0 of 4" in note for note in images.notes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_that_cannot_be_filled_is_said_in_one_line(tmp_path, monkeypatch, workers):
    def full(*unused):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoding._Decoding, "_write", full)
    with pytest.raises(
        UserError, match=r"cannot be written: .*No space left on device; make room"
    ) as e:
        read(write(tmp_path, train=40), workers=workers)
    assert "\n" not in str(e.value)
