"""Arrays are read in little more memory than their pixels take, and are what was saved."""

import tracemalloc
import types

import numpy as np
import pytest

from datasets import load_dataset, parts, sources
from datasets.parts import pack, parts_of
from utils import UserError

SMALL = 2**16  # bytes of a part in these tests
COUNT = {"train": 5000, "test": 1000}
PIXELS = 6000 * 32 * 32 * 3


def halves(side=32):
    rng = np.random.default_rng(0)
    labels = {f"y_{half}": np.arange(count) % 4 for half, count in COUNT.items()}
    shape = (side, side, 3)
    images = {f"x_{half}": rng.integers(0, 256, (n, *shape), np.uint8) for half, n in COUNT.items()}
    return images, labels


def peak(read):
    """The most bytes that Python and numpy hold while a data set is read, printed and hashed."""
    tracemalloc.start()
    try:
        image_set = read()
        image_set.lines()
        image_set.sha256()
        image_set.test_sha256()
        return image_set, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LAYOUTS = {
    "colour": (lambda x: x, None),
    "channels first": (lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)), None),
    "grey": (lambda x: np.ascontiguousarray(x[..., 0]), None),
    "float32": (lambda x: (x / np.float32(255)).astype(np.float32), None),
    "float64, channels first": (
        lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2) / 255),
        None,
    ),
    "transparent": (lambda x: np.concatenate([x, x[..., :1]], axis=-1), None),
    "resized": (lambda x: np.ascontiguousarray(x[:, ::2, ::2]), 32),
}


@pytest.mark.parametrize(
    ("layout", "save"), [*((name, np.savez) for name in LAYOUTS), ("grey", np.savez_compressed)]
)
def test_an_npz_is_read_into_the_memory_of_its_pixels(tmp_path, monkeypatch, layout, save):
    monkeypatch.setattr(parts, "PART", SMALL)
    change, side = LAYOUTS[layout]
    images, labels = halves()
    save(tmp_path / "a.npz", **{name: change(x) for name, x in images.items()}, **labels)
    image_set, most = peak(lambda: load_dataset("npz", tmp_path / "a.npz", input_size=side))
    assert image_set.x_train.nbytes + image_set.x_test.nbytes == PIXELS
    assert most < 1.05 * PIXELS + 2e6
    if layout in ("colour", "channels first", "float32", "float64, channels first"):
        assert all(np.array_equal(getattr(image_set, name), x) for name, x in images.items())


@pytest.mark.parametrize(("layout", "bound"), [("CIFAR's", 1.05), ("SVHN's", 1.05), ("grey", 1.2)])
def test_torchvisions_arrays_are_packed_where_they_are(tmp_path, monkeypatch, layout, bound):
    monkeypatch.setattr(parts, "PART", SMALL)

    def arrays(images):
        first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return {"CIFAR's": first.transpose(0, 2, 3, 1), "SVHN's": first, "grey": images[..., 0]}

    def read(*_):
        images, labels = halves()
        found = [arrays(images.pop(f"x_{half}"))[layout] for half in COUNT]
        found = [x.copy() if x.ndim == 3 else x for x in found]
        tracemalloc.reset_peak()  # what made the arrays does not count
        pairs = zip(found, labels.values(), strict=True)
        return [types.SimpleNamespace(data=x, targets=y.tolist()) for x, y in pairs]

    monkeypatch.setattr(sources, "torchvision_halves", read)
    image_set, most = peak(lambda: load_dataset("torchvision:MNIST", tmp_path))
    assert most < bound * PIXELS + 2e6
    wanted = halves()[0]["x_train"]
    wanted = wanted[..., :1].repeat(3, -1) if layout == "grey" else wanted
    assert np.array_equal(image_set.x_train, wanted)
    assert image_set.x_train.flags.c_contiguous


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2), (0, 3, 2, 1), (3, 0, 1, 2)])
@pytest.mark.parametrize("step", [1, 3])
def test_packed_images_are_the_same_in_any_order_of_memory(monkeypatch, axes, step):
    monkeypatch.setattr(parts, "PART", 200)
    images = np.random.default_rng(0).integers(0, 256, (25, 7, 5, 3), np.uint8)[::step]
    lying = np.ascontiguousarray(images.transpose(axes))
    given = lying.transpose(np.argsort(axes))
    packed = pack(given)
    assert np.array_equal(packed, images)
    assert packed.flags.c_contiguous
    assert np.shares_memory(packed, lying) == (axes[0] == 0)


def test_an_array_that_may_not_be_written_is_copied():
    images = np.arange(300, dtype=np.uint8).reshape(4, 3, 5, 5).transpose(0, 2, 3, 1)
    images.flags.writeable = False
    assert np.array_equal(pack(images), images)
    assert not np.shares_memory(pack(images), images)


def test_parts_are_the_array_in_order(monkeypatch):
    monkeypatch.setattr(parts, "PART", 70)
    images = np.arange(17 * 25, dtype=np.uint16).reshape(17, 5, 5)
    whole = parts_of(images)
    assert [len(part) for part in whole.read()] == [1] * 17
    monkeypatch.setattr(parts, "PART", 150)
    assert [len(part) for part in parts_of(images).read()] == [3] * 5 + [2]
    doubled = parts_of(images).changed(lambda part: part * 2, images.shape, images.dtype)
    assert np.array_equal(np.concatenate(list(doubled.read())), images * 2)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_either_order_of_memory_is_read(tmp_path, order):
    images, labels = halves(side=4)
    np.savez(
        tmp_path / "a.npz", **{n: np.array(x, order=order) for n, x in images.items()}, **labels
    )
    found = load_dataset("npz", tmp_path / "a.npz")
    assert np.array_equal(found.x_train, images["x_train"])
    assert np.array_equal(found.x_test, images["x_test"])


@pytest.mark.parametrize("size", [None, 64])
def test_memory_for_both_halves_is_asked_for_before_either_is_read(tmp_path, monkeypatch, size):
    images, labels = halves()
    np.savez(tmp_path / "a.npz", **images, **labels)
    needed = PIXELS * (4 if size else 1)
    monkeypatch.setattr(sources, "as_rgb", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(sources, "available_memory", lambda: needed - 1)
    with pytest.raises(UserError, match=r"npz: 6000 images.*smaller --input_size"):
        load_dataset("npz", tmp_path / "a.npz", input_size=size)
    monkeypatch.undo()
    monkeypatch.setattr(sources, "available_memory", lambda: needed)
    assert load_dataset("npz", tmp_path / "a.npz", input_size=size).x_test.nbytes == needed // 6


def test_images_that_are_right_already_need_no_memory(monkeypatch):
    monkeypatch.setattr(sources, "available_memory", lambda: 0)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    assert sources.as_rgb(images, "x_train", 8) is images


def test_a_file_that_is_damaged_in_its_last_images_is_refused(tmp_path):
    images, labels = halves(side=4)
    np.savez(tmp_path / "a.npz", **images, **labels)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    place = bytes(content).index(images["x_test"][-1].tobytes())
    content[place] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz is not a readable npz of plain arrays: Bad CRC"):
        load_dataset("npz", tmp_path / "a.npz")
