"""benchmarks/image_files.py: every part measures the images that were generated."""

import mmap

import pytest

from benchmarks import image_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    image_files.generate(folder / "images", 42)
    return folder


def test_parts_see_all_images(folder, monkeypatch):
    monkeypatch.setattr(image_files, "WORKERS", 0)
    assert set(image_files.decode(folder)) == {"plain", "ours"}
    data = image_files.loaded(folder, folder / "cache", "stream")
    assert len(data.dataset.x_train) == 40
    assert len(data.dataset.x_test) == 2
    assert set(image_files.epoch(folder)) == {"device", "stream"}
    assert image_files.start(folder)["start"] > 0


def test_anonymous_memory_counts_what_no_file_holds(folder):
    before = image_files.anonymous()
    size = 64 * image_files.MIB
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"1" * size)
        assert 60 < image_files.anonymous() - before < 150  # the bytes too, unless memory is reused
    found = image_files.memory(folder, "none", "device")
    assert found["pixels"] == pytest.approx(42 * 256 * 256 * 3 / image_files.MIB)


def test_images_are_generated_once(folder):
    first = next((folder / "images").rglob("*.JPEG"))
    written = first.stat().st_mtime_ns
    image_files.generate(folder / "images", 42)
    assert first.stat().st_mtime_ns == written


def test_a_ratio_is_of_each_turn():
    turns = [{"plain": 4.0, "ours": 2.0}, {"plain": 3.0, "ours": 3.0}, {"plain": 9.0, "ours": 3.0}]
    assert image_files.ratios(turns, "plain", "ours") == "2.00 (1.00 to 3.00)"
