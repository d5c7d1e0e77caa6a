"""Every data set: what is embedded, what a user brings, what torchvision reads, and each refusal.
Nothing is downloaded.
"""

import gzip
import pickle
import struct
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as tv
from PIL import Image
from sklearn.datasets import load_digits

import datasets
from datasets import DATASETS, load_dataset
from utils import UserError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Every way in which torchvision fetches a file fails as it does without a network."""

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", unreachable)


def arrays(train=40, test=12, side=8, channels=(3,), classes=4):
    """Valid contents of an npz data set."""
    found = {}
    for half, count in (("train", train), ("test", test)):
        found[f"x_{half}"] = RNG.integers(0, 256, (count, side, side, *channels), np.uint8)
        found[f"y_{half}"] = np.arange(count) % classes
    return found


def refused(name, data, **options):
    with pytest.raises(UserError) as refusal:
        load_dataset(name, data, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def assert_rgb_of_grey(rgb, grey):
    assert rgb.shape == (*grey.shape, 3)
    for channel in range(3):
        assert np.array_equal(rgb[..., channel], grey)


# ---------------------------------------------------------------------------- embedded and built in


@pytest.fixture(scope="module")
def fashion():
    return load_dataset("fashion_mini", "nowhere")


def test_fashion_mini_is_balanced_and_grey(fashion):
    assert fashion.x_train.shape == (5000, 28, 28, 3)
    assert fashion.x_test.shape == (1000, 28, 28, 3)
    assert fashion.x_train.dtype == fashion.x_test.dtype == np.uint8
    assert np.bincount(fashion.y_train).tolist() == [500] * 10
    assert np.bincount(fashion.y_test).tolist() == [100] * 10
    for images in (fashion.x_train, fashion.x_test):
        assert_rgb_of_grey(images, images[..., 0])
    assert (fashion.num_classes, fashion.image_size, fashion.classes[9]) == (10, 28, "Ankle-boot")


def test_fashion_mini_has_no_image_twice(fashion):
    assert len({image.tobytes() for image in [*fashion.x_train, *fashion.x_test]}) == 6000


def test_fashion_mini_is_a_small_file():
    assert (Path(datasets.__file__).parent / "fashion_mini.npz").stat().st_size <= 4 * 2**20


@pytest.mark.parametrize("name", ["fashion_mini", "digits"])
def test_the_specs_statistics_are_the_pixels_own(name):
    image_set = load_dataset(name, "nowhere")
    pixels = image_set.x_train.reshape(-1, 3) / 255
    assert np.abs(pixels.mean(0) - image_set.mean).max() < 0.01
    assert np.abs(pixels.std(0) - image_set.std).max() < 0.01


def test_digits_are_scikit_learns_with_every_fifth_for_testing():
    images, labels = load_digits(return_X_y=True)
    grey = [np.rint(image.reshape(8, 8) * 255 / 16).astype(np.uint8) for image in images]
    test = [i for i in range(1797) if i % 5 == 4]
    train = [i for i in range(1797) if i % 5 != 4]
    assert (len(train), len(test)) == (1438, 359)
    digits = load_dataset("digits", "nowhere")
    assert_rgb_of_grey(digits.x_train, np.stack([grey[i] for i in train]))
    assert_rgb_of_grey(digits.x_test, np.stack([grey[i] for i in test]))
    assert digits.y_train.tolist() == labels[train].tolist()
    assert digits.y_test.tolist() == labels[test].tolist()
    assert digits.x_train.max() == 255
    assert (digits.num_classes, digits.image_size) == (10, 8)


# ---------------------------------------------------------------------------------------------- npz


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("label_type", [np.int64, np.uint8, np.int32])
def test_an_npz_gives_back_its_arrays(tmp_path, channels, label_type):
    given = arrays(channels=channels)
    given |= {name: given[name].astype(label_type) for name in ("y_train", "y_test")}
    np.savez_compressed(tmp_path / "mine.npz", **given)
    image_set = load_dataset("npz", tmp_path / "mine.npz")
    for half in ("x_train", "x_test"):
        if channels == (3,):
            assert np.array_equal(getattr(image_set, half), given[half])
        else:
            assert_rgb_of_grey(getattr(image_set, half), given[half].reshape(-1, 8, 8))
        assert getattr(image_set, half).flags.c_contiguous
    for half in ("y_train", "y_test"):
        assert getattr(image_set, half).dtype == np.int64
        assert getattr(image_set, half).tolist() == given[half].tolist()
    assert image_set.classes == ("0", "1", "2", "3")


def test_an_npz_may_name_its_classes_and_have_labels_in_a_column(tmp_path):
    given = arrays()
    given["y_train"] = given["y_train"][:, None]
    np.savez(
        tmp_path / "mine.npz",
        **given,
        classes=np.array(["cat", "dog", "owl", "eel"]),
        unread=np.array([object()]),
    )
    image_set = load_dataset("npz", tmp_path / "mine.npz")
    assert image_set.classes == ("cat", "dog", "owl", "eel")
    assert image_set.y_train.shape == (40,)


def test_an_npzs_statistics_and_crop_come_from_its_training_images(tmp_path):
    given = arrays(train=2500, side=16)
    given["x_train"][..., 1] //= 3
    np.savez(tmp_path / "mine.npz", **given)
    image_set = load_dataset("npz", tmp_path)
    pixels = given["x_train"].reshape(-1, 3) / 255
    np.testing.assert_allclose(image_set.mean, pixels.mean(0), atol=6e-5)
    np.testing.assert_allclose(image_set.std, pixels.std(0), atol=6e-5)
    assert (image_set.crop, image_set.flip) == (2, True)


def test_constant_images_do_not_give_a_zero_standard_deviation(tmp_path):
    given = arrays()
    given["x_train"][:] = 7
    np.savez(tmp_path / "mine.npz", **given)
    assert min(load_dataset("npz", tmp_path).std) > 0


def test_a_folder_stands_for_its_only_npz(tmp_path):
    given = arrays()
    np.savez(tmp_path / "mine.npz", **given)
    (tmp_path / "readme.txt").write_text("not data")
    assert np.array_equal(load_dataset("npz", tmp_path).x_train, given["x_train"])
    np.savez(tmp_path / "second.npz", **arrays())
    assert str(tmp_path) in refused("npz", tmp_path)


@pytest.mark.parametrize("name", ["absent.npz", "."])
def test_an_npz_that_is_not_there_is_named(tmp_path, name):
    assert str(tmp_path / name) in refused("npz", tmp_path / name)


@pytest.mark.parametrize("missing", ["x_train", "y_train", "x_test", "y_test"])
def test_an_npz_without_one_of_its_arrays_is_refused_by_name(tmp_path, missing):
    given = arrays()
    del given[missing]
    np.savez(tmp_path / "mine.npz", **given)
    assert f"lacks {missing};" in refused("npz", tmp_path)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        pytest.param(
            {"x_train": np.zeros((40, 8, 8, 3))},
            ["x_train", "uint8", "float64", "(40, 8, 8, 3)"],
            id="float images",
        ),
        pytest.param(
            {"x_test": np.zeros((12, 8, 8, 2), np.uint8)},
            ["x_test", "(12, 8, 8, 2)"],
            id="two channels",
        ),
        pytest.param(
            {"x_test": np.zeros((8, 8, 3, 12), np.uint8)},
            ["x_test", "(8, 8, 3, 12)", "x_test.transpose(3, 0, 1, 2)"],
            id="images last",
        ),
        pytest.param(
            {"x_train": np.zeros((40, 64), np.uint8)},
            ["x_train", "(40, 64)", "x_train.reshape(-1, 8, 8)"],
            id="flat images",
        ),
        pytest.param(
            {"y_train": np.arange(40) % 4 - 1},
            ["train", "-1 to 2", "0 to 3"],
            id="a negative label",
        ),
        pytest.param(
            {"classes": np.array(["a", "b", "c"])},
            ["classes holds", "one name for each label"],
            id="a label without a class name",
        ),
        pytest.param(
            {"y_test": np.full(12, 4), "classes": np.array(list("abcd"))},
            ["test", "4 to 4", "0 to 3"],
            id="in the test labels",
        ),
        pytest.param(
            {"y_train": np.full(40, 0.5)}, ["y_train", "float64", "0.5"], id="float labels"
        ),
        pytest.param(
            {"y_train": np.arange(39) % 4}, ["40 train images", "39 labels"], id="a label too few"
        ),
        pytest.param(
            {"y_test": np.arange(13) % 4}, ["12 test images", "13 labels"], id="a label too many"
        ),
        pytest.param(
            {"y_train": np.arange(40) % 4 * 2},
            ["without a training image", "[1, 3, 5]", "7"],
            id="a gap in the labels",
        ),
        pytest.param(
            {"y_train": np.arange(40) % 4 * 2**60}, ["allowed 0 to 40"], id="a huge label"
        ),
        pytest.param(
            {"x_train": np.zeros((40, 0, 0), np.uint8)},
            ["x_train", "(40, 0, 0"],
            id="images without pixels",
        ),
        pytest.param(
            {"classes": np.array(list("abcde"))},
            ["classes holds 5 names", "0 to 3", "one name for each label"],
            id="a class without an image",
        ),
        pytest.param(
            {"x_test": np.zeros((12, 9, 9, 3), np.uint8)},
            ["differ in size", "--input_size"],
            id="two sizes",
        ),
        pytest.param(
            {"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, int)},
            ["0 train images"],
            id="no training images",
        ),
        pytest.param(
            {"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, int)},
            ["0 test images"],
            id="no test images",
        ),
        pytest.param(
            {"y_train": np.zeros(40, int), "y_test": np.zeros(12, int)},
            ["1 class", "at least 2"],
            id="one class",
        ),
        pytest.param(
            {"classes": np.array("cat")},
            ["classes holds 1 names", "0 to 3", "one name for each label"],
            id="one name for all classes",
        ),
        pytest.param(
            {"classes": np.array(list("abca"))},
            ["two classes are called 'a'"],
            id="a name of two classes",
        ),
    ],
)
@pytest.mark.parametrize("input_size", [None, 16])
def test_an_npz_that_does_not_fit_together_is_refused_with_the_facts(
    tmp_path, change, facts, input_size
):
    if "--input_size" in facts and input_size:
        facts = None  # which is the remedy
    np.savez(tmp_path / "mine.npz", **{**arrays(), **change})
    if facts is None:
        assert load_dataset("npz", tmp_path, input_size=input_size).x_test.shape == (12, 16, 16, 3)
        return
    message = refused("npz", tmp_path, input_size=input_size)
    for fact in facts:
        assert fact in message


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["x_train", "y_train", "classes"])
def test_a_pickle_inside_an_npz_is_refused_and_not_executed(tmp_path, name):
    sign = tmp_path / "executed"
    bomb = np.empty(1, object)
    bomb[0] = Bomb(sign)
    np.savez(tmp_path / "mine.npz", **{**arrays(), name: bomb})
    assert "mine.npz" in refused("npz", tmp_path)
    assert not sign.exists()
    pickle.loads(pickle.dumps(bomb))
    assert sign.exists()  # the bomb is live


@pytest.mark.parametrize(
    "damage", ["truncated", "a member", "empty", "text", "an array alone", "a pickle alone"]
)
def test_a_damaged_npz_is_refused_by_name(tmp_path, damage):
    path, sign = tmp_path / "mine.npz", tmp_path / "executed"
    np.savez_compressed(path, **arrays())
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "a member":
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo("x_train.npy").header_offset + 200
        path.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("labels,pixels\n")
    elif damage == "an array alone":
        with open(path, "wb") as file:
            np.save(file, np.zeros((4, 8, 8), np.uint8))
    else:
        path.write_bytes(pickle.dumps(Bomb(sign)))
    assert str(path) in refused("npz", path)
    assert not sign.exists()


# ----------------------------------------------------------------------------------------- resizing


def test_input_size_resizes_smoothly_and_squares(tmp_path):
    """Two flat halves: the halves stay where they are and keep their brightness, with a blur
    between them.
    """
    x_train, x_test = np.zeros((8, 12, 20, 3), np.uint8), np.full((4, 12, 20, 3), 90, np.uint8)
    x_train[:, :, 10:] = (200, 100, 50)
    np.savez(
        tmp_path / "mine.npz",
        x_train=x_train,
        y_train=np.arange(8) % 2,
        x_test=x_test,
        y_test=np.arange(4) % 2,
    )
    image_set = load_dataset("npz", tmp_path, input_size=16)
    assert image_set.x_train.shape == (8, 16, 16, 3)
    assert image_set.image_size == 16
    assert np.all(image_set.x_test == 90)
    assert not image_set.x_train[:, :, :6].any()
    assert np.all(image_set.x_train[:, :, 10:] == (200, 100, 50))
    np.testing.assert_allclose(image_set.x_train[..., 0].mean(), 100, atol=2)


def test_images_that_are_not_square_are_refused_without_input_size(tmp_path):
    np.savez(tmp_path / "mine.npz", **{**arrays(), "x_train": np.zeros((40, 8, 9), np.uint8)})
    message = refused("npz", tmp_path)
    assert "x_train" in message
    assert "8x9" in message
    assert "--input_size" in message


def test_an_input_size_that_is_the_sets_own_changes_nothing():
    assert np.array_equal(
        load_dataset("digits", "", input_size=8).x_train, load_dataset("digits", "").x_train
    )


def test_a_built_in_set_can_be_resized():
    digits, large = load_dataset("digits", ""), load_dataset("digits", "", input_size=16)
    assert (large.x_train.shape, large.mean, large.classes) == (
        (1438, 16, 16, 3),
        digits.mean,
        digits.classes,
    )
    shrunk = large.x_train.reshape(-1, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.abs(shrunk - digits.x_train).mean() < 20


# ------------------------------------------------------------------------------------------- folder


def write_folder(
    root,
    halves=("train", "test"),
    size=(32, 32),
    mode="RGB",
    counts=(5, 3),
    classes=("bird", "ant", "cat"),
):
    """Flat images, each of its own colour; {half: [(class, colour)]} in the order of
    sorted paths.
    """
    written = {}
    for half, count in zip(halves, counts, strict=True):
        written[half] = []
        for place, name in enumerate(sorted(classes)):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                colour = (10 * i + 5, 40 * place, 100 if half == "train" else 200)
                Image.new("RGB", size, colour).convert(mode).save(root / half / name / f"{i}.png")
                written[half].append((place, colour))
    return written


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("halves", [("train", "test"), ("train", "val")])
def test_a_folder_of_images_gives_pixels_labels_and_class_names(tmp_path, halves, workers):
    written = write_folder(tmp_path, halves)
    image_set = load_dataset("folder", tmp_path, workers=workers)
    assert image_set.classes == ("ant", "bird", "cat")
    for half, images, labels in zip(
        halves,
        (image_set.x_train, image_set.x_test),
        (image_set.y_train, image_set.y_test),
        strict=True,
    ):
        assert labels.tolist() == [place for place, _ in written[half]]
        wanted = np.array([colour for _, colour in written[half]], np.uint8)
        assert np.array_equal(images, np.broadcast_to(wanted[:, None, None], images.shape))
        assert images.shape[1:] == (32, 32, 3)


def test_a_folder_takes_test_before_val(tmp_path):
    write_folder(tmp_path, ("train", "val", "test"), counts=(5, 4, 3))
    assert len(load_dataset("folder", tmp_path).y_test) == 9


@pytest.mark.parametrize(("input_size", "side"), [(None, 32), (24, 24)])
def test_folder_images_of_any_size_and_mode_become_squares(tmp_path, input_size, side):
    write_folder(tmp_path, size=(50, 40), mode="L")
    Image.new("RGBA", (20, 70), (1, 2, 3, 255)).save(tmp_path / "train" / "ant" / "0.png")
    image_set = load_dataset("folder", tmp_path, input_size=input_size)
    assert image_set.x_train.shape == (15, side, side, 3)
    assert np.all(image_set.x_train[0] == (1, 2, 3))
    assert image_set.crop == side // 8


def test_a_folder_image_keeps_its_proportions_and_centre(tmp_path):
    """A white square in the middle of a wide image stays a square: the sides are cropped, not
    squeezed.
    """
    write_folder(tmp_path)
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[10:30, 30:50] = 255
    Image.fromarray(wide).save(tmp_path / "test" / "ant" / "0.png")
    image = load_dataset("folder", tmp_path, input_size=40).x_test[0]
    assert np.array_equal(image, wide[:, 20:60])


def test_folders_that_lack_something_are_refused(tmp_path):
    assert "train/CLASS/IMAGE" in refused("folder", tmp_path)
    write_folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    assert "test/CLASS/IMAGE" in refused("folder", tmp_path)
    (tmp_path / "test" / "ant").mkdir(parents=True)
    assert "no image in" in refused("folder", tmp_path)


def test_folders_with_different_classes_are_refused_with_both(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "dog")
    message = refused("folder", tmp_path)
    assert "'cat'" in message
    assert "'dog'" in message


@pytest.mark.parametrize(
    ("damage", "workers"), [("truncated", 0), ("not an image", 0), ("truncated", 1)]
)
def test_a_damaged_image_is_refused_by_name(tmp_path, damage, workers):
    write_folder(tmp_path)
    path = tmp_path / "train" / "bird" / "2.png"
    Image.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    path.write_bytes(
        path.read_bytes()[:1000] if damage == "truncated" else b"<html>not found</html>"
    )
    assert str(path) in refused("folder", tmp_path, workers=workers)


# -------------------------------------------------------------------------------------- torchvision


def pixels(count, side=32):
    return RNG.integers(0, 256, (count, side, side, 3), np.uint8)


def write_cifar(folder, name, images, **labels):
    """One CIFAR batch: rows of 3072 bytes, all red, then all green, then all blue."""
    folder.mkdir(exist_ok=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    (folder / name).write_bytes(pickle.dumps({"data": rows, **labels}))


def write_cifar10(data):
    folder, images, labels = (
        data / "cifar-10-batches-py",
        pixels(60),
        (np.arange(60) * 7 % 10).tolist(),
    )
    for i in range(5):
        write_cifar(
            folder,
            f"data_batch_{i + 1}",
            images[10 * i : 10 * i + 10],
            labels=labels[10 * i : 10 * i + 10],
        )
    write_cifar(folder, "test_batch", images[50:], labels=labels[50:])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return images[:50], labels[:50], images[50:], labels[50:]


def write_cifar100(data):
    folder, images, labels = (
        data / "cifar-100-python",
        pixels(110),
        (np.arange(110) * 7 % 100).tolist(),
    )
    write_cifar(folder, "train", images[:100], fine_labels=labels[:100], coarse_labels=[0] * 100)
    write_cifar(folder, "test", images[100:], fine_labels=labels[100:], coarse_labels=[0] * 10)
    (folder / "meta").write_bytes(
        pickle.dumps(
            {"fine_label_names": [f"fine {c}" for c in range(100)], "coarse_label_names": []}
        )
    )
    return images[:100], labels[:100], images[100:], labels[100:]


def write_svhn(data):
    """MATLAB files: X (32, 32, 3, n), y (n, 1) with the digit 0 as 10."""
    images, labels = pixels(50), (np.arange(50) * 7 % 10).tolist()
    for name, part in (("train", slice(40)), ("test", slice(40, 50))):
        y = np.array([label or 10 for label in labels[part]], np.uint8)[:, None]
        scipy.io.savemat(
            data / f"{name}_32x32.mat", {"X": images[part].transpose(1, 2, 3, 0), "y": y}
        )
    return images[:40], labels[:40], images[40:], labels[40:]


def write_fashion_mnist(data, compressed=False):
    """IDX files: a big-endian header of magic number and sizes, then the bytes."""
    folder, images, labels = (
        data / "FashionMNIST" / "raw",
        pixels(50, 28)[..., 0],
        np.arange(50) * 7 % 10,
    )
    folder.mkdir(parents=True)
    for stem, part in (("train", slice(40)), ("t10k", slice(40, 50))):
        count = len(labels[part])
        files = {
            f"{stem}-images-idx3-ubyte": (
                struct.pack(">4i", 2051, count, 28, 28) + images[part].tobytes()
            ),
            f"{stem}-labels-idx1-ubyte": (
                struct.pack(">2i", 2049, count) + labels[part].astype(np.uint8).tobytes()
            ),
        }
        for name, content in files.items():
            (folder / (f"{name}.gz" if compressed else name)).write_bytes(
                gzip.compress(content) if compressed else content
            )
    rgb = images[..., None].repeat(3, axis=-1)
    return rgb[:40], labels[:40].tolist(), rgb[40:], labels[40:].tolist()


WRITERS = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "fashion_mnist": write_fashion_mnist,
}
FILES = {
    "cifar10": ["cifar-10-batches-py", "cifar-10-python.tar.gz"],
    "cifar100": ["cifar-100-python", "cifar-100-python.tar.gz"],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
    "fashion_mnist": ["FashionMNIST/raw", "ubyte"],
}
# Names as their files, or torchvision, give them.
CLASSES = {
    "cifar10": tuple("abcdefghij"),
    "cifar100": tuple(f"fine {c}" for c in range(100)),
    "svhn": tuple("0123456789"),
    "fashion_mnist": tuple(tv.FashionMNIST.classes),
}


@pytest.fixture
def any_checksum(monkeypatch):
    """Our files have the names and the layout of the real ones, not their bytes."""
    for module in (tv.utils, tv.cifar, tv.svhn, tv.mnist):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


def assert_is(image_set, written):
    x_train, y_train, x_test, y_test = written
    assert np.array_equal(image_set.x_train, x_train)
    assert np.array_equal(image_set.x_test, x_test)
    assert image_set.x_train.dtype == np.uint8
    assert image_set.y_train.tolist() == y_train
    assert image_set.y_test.tolist() == y_test


@pytest.mark.parametrize("name", WRITERS)
def test_torchvision_files_are_read_as_they_lie(tmp_path, any_checksum, name):
    written = WRITERS[name](tmp_path)
    image_set = load_dataset(name, tmp_path)
    assert_is(image_set, written)
    assert image_set.classes == CLASSES[name]
    assert image_set.num_classes == DATASETS[name].num_classes
    assert image_set.image_size == DATASETS[name].image_size


def test_fashion_mnist_is_unpacked_where_it_lies(tmp_path, any_checksum):
    written = write_fashion_mnist(tmp_path, compressed=True)
    assert_is(load_dataset("fashion_mnist", tmp_path), written)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("there", ["nothing", "no folder", "half", "another checksum"])
def test_without_the_files_and_a_network_one_message_says_what_to_put_where(
    tmp_path, monkeypatch, request, name, there
):
    data = tmp_path / "data"
    if there != "no folder":
        data.mkdir()
    if there in ("half", "another checksum"):
        WRITERS[name](data)
    if there == "half":
        request.getfixturevalue("any_checksum")
        half = {
            "cifar10": "cifar-10-batches-py/data_batch_3",
            "cifar100": "cifar-100-python/test",
            "svhn": "test_32x32.mat",
        }
        (data / half.get(name, "FashionMNIST/raw/t10k-labels-idx1-ubyte")).unlink()
    elif there == "another checksum" and name == "fashion_mnist":
        # unpacked IDX files have no checksum to fail
        assert load_dataset(name, data).num_classes == 10
        return
    message = refused(name, data)
    assert str(data) in message
    for file in FILES[name]:
        assert file in message


def test_what_lies_there_is_left_alone_when_the_rest_cannot_be_fetched(tmp_path, any_checksum):
    write_svhn(tmp_path)
    before = (tmp_path / "train_32x32.mat").read_bytes()
    (tmp_path / "test_32x32.mat").unlink()
    refused("svhn", tmp_path)
    assert (tmp_path / "train_32x32.mat").read_bytes() == before


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_covered_here(name):
    elsewhere = ("cifar20", "tiny_imagenet", "imagenet")  # and torchvision:NAME: test_layouts.py
    here = (*WRITERS, "fashion_mini", "digits", "npz", "folder")
    assert name in here or name in elsewhere or name.startswith("torchvision:")
