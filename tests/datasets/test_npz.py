"""npz files as other tools write them: each layout is read as the plain one is, and said, or is
refused with the cause and the remedy.
"""

import numpy as np
import pytest

from datasets import load_dataset
from datasets.pixel_range import range_of, scale
from utils import UserError

RNG = np.random.default_rng(0)
NAMES = np.array(["ant", "bee", "cat", "dog"])
Y = {"y_train": np.arange(40) % 4, "y_test": np.arange(12) % 4}
X = {
    "x_train": RNG.integers(0, 256, (40, 8, 8, 3), np.uint8),
    "x_test": RNG.integers(0, 256, (12, 8, 8, 3), np.uint8),
}
GREY = {name: x[..., 0] for name, x in X.items()}
for _x in (X["x_train"], GREY["x_train"]):
    _x[0, 0, 0], _x[0, 0, 1] = 0, 255  # the whole range


def each(arrays, change):
    return {name: change(values) for name, values in arrays.items()}


def read(tmp_path, **changes):
    np.savez(tmp_path / "a.npz", **(X | Y | changes))
    return load_dataset("npz", tmp_path / "a.npz")


def refused(tmp_path, **changes):
    with pytest.raises(UserError) as refusal:
        read(tmp_path, **changes)
    message = str(refusal.value)
    assert "\n" not in message
    assert "npz" in message
    return message


def assert_same(image_set, images=X, tolerance=0, labels=Y):
    for name, wanted in images.items():
        if wanted.ndim == 3:
            wanted = wanted[..., None].repeat(3, -1)
        assert np.abs(getattr(image_set, name).astype(int) - wanted).max() <= tolerance
    for name, wanted in labels.items():
        assert np.array_equal(getattr(image_set, name), wanted)


def test_the_plain_layout_has_nothing_to_say(tmp_path):
    found = read(tmp_path)
    assert_same(found)
    assert found.lines() == []


# --------------------------------------------------------------------- the rows of npz in the cases


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, bool])
def test_one_hot_labels(tmp_path, dtype):
    found = read(tmp_path, **each(Y, lambda y: np.eye(4, dtype=dtype)[y]))
    assert_same(found)
    assert found.notes == (
        "npz: y_train is one-hot (40, 4): the place of the 1 is the label",
        "npz: y_test is one-hot (12, 4): the place of the 1 is the label",
    )


def test_labels_from_one_keep_their_numbers_as_names(tmp_path):
    found = read(tmp_path, **each(Y, lambda y: y + 1))
    assert_same(found)
    assert found.classes == ("1", "2", "3", "4")
    assert found.notes == ("npz: labels run from 1 to 4: class 0 is label 1, named 1",)
    assert found.lines()[0] == "classes: 0 1, 1 2, 2 3, 3 4"
    assert read(tmp_path, **each(Y, lambda y: y + 1), classes=NAMES).classes == tuple(NAMES)


@pytest.mark.parametrize("text", ["U", "S"])
def test_labels_as_text(tmp_path, text):
    found = read(tmp_path, **each(Y, lambda y: NAMES[y].astype(text)))
    assert_same(found)
    assert found.classes == tuple(NAMES)
    assert "labels are text: 4 classes in alphabetical order" in found.notes[0]


def test_floats_from_0_to_1(tmp_path):
    found = read(tmp_path, **each(X, lambda x: (x / 255).astype(np.float32)))
    assert_same(found)
    assert found.notes == (
        "npz: images of float32 with values from 0 to 1, scaled so that 0 to 1 become 0 to 255",
    )


@pytest.mark.parametrize("images", [X, each(GREY, lambda x: x[..., None])])
def test_channels_first(tmp_path, images):
    found = read(tmp_path, **each(images, lambda x: x.transpose(0, 3, 1, 2)))
    assert_same(found, images)
    assert "x_train has its channels first" in found.notes[0]


# --------------------------------------------------------------------------- more of the same kinds


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        pytest.param(lambda x: x.astype(np.float64), 0, 255, id="floats from 0 to 255"),
        pytest.param(lambda x: x.astype(np.uint16) * 257, 0, 65535, id="16 bits"),
        pytest.param(lambda x: x.astype(np.uint16) * 16, 0, 4095, id="12 bits"),
        pytest.param(lambda x: x.astype(np.int64), 0, 255, id="bytes as int64"),
        pytest.param(lambda x: x / 127.5 - 1, -1, 1, id="floats from -1 to 1"),
        pytest.param(lambda x: x.astype(np.int32) * 1000 - 9, -9, 254991, id="other integers"),
        pytest.param(lambda x: x.astype(np.float16) / 255, 0, 1, id="half precision"),
    ],
)
def test_other_numbers_are_scaled_by_one_range_for_both_halves(tmp_path, change, low, high):
    found = read(tmp_path, **each(GREY, change))
    wanted = each(GREY, lambda x: (change(x).astype(float) - low) * 255 / (high - low))
    assert_same(found, wanted, tolerance=0.6)
    assert f"{low:.6g} to {high:.6g} become 0 to 255" in found.notes[0]


def test_black_and_white_as_bool(tmp_path):
    found = read(tmp_path, **each(GREY, lambda x: x > 99))
    assert_same(found, each(GREY, lambda x: (x > 99) * 255))


def test_a_fourth_channel_is_transparency_laid_on_white(tmp_path):
    alpha = RNG.integers(0, 256, (40, 8, 8, 1), np.uint8)
    clear = np.concatenate([X["x_train"], alpha], axis=-1)
    opaque = np.concatenate([X["x_test"], np.full((12, 8, 8, 1), 255, np.uint8)], axis=-1)
    found = read(tmp_path, x_train=clear, x_test=opaque)
    wanted = X["x_train"] * (alpha / 255) + 255 * (1 - alpha / 255)
    assert_same(found, {"x_train": wanted, "x_test": X["x_test"]}, tolerance=0.51)
    assert "40 images with transparency, laid on white" in found.notes[0]
    assert "0 images with transparency" in found.notes[1]


@pytest.mark.parametrize("shape", [(-1, 1), (1, -1)])
def test_labels_in_a_column_or_a_row(tmp_path, shape):
    found = read(tmp_path, **each(Y, lambda y: y.reshape(shape)))
    assert_same(found)
    assert not found.notes


def test_whole_numbers_as_floats(tmp_path):
    found = read(tmp_path, **each(Y, lambda y: y.astype(np.float32)))
    assert_same(found)
    assert "y_train is float32 with whole numbers: taken as integers" in found.notes[0]


def test_text_labels_are_in_the_order_of_classes_where_it_is_given(tmp_path):
    found = read(tmp_path, **each(Y, lambda y: NAMES[y]), classes=NAMES[::-1])
    assert found.classes == tuple(NAMES[::-1])
    assert_same(found, labels=each(Y, lambda y: 3 - y))


def test_text_that_is_numbers_sorts_as_numbers(tmp_path):
    labels = {"y_train": np.arange(44) % 11, "y_test": np.arange(11)}
    images = {"x_train": np.zeros((44, 8, 8), np.uint8), "x_test": np.zeros((11, 8, 8), np.uint8)}
    found = read(tmp_path, **images, **each(labels, lambda y: y.astype(str)))
    assert found.classes == tuple(map(str, range(11)))
    assert_same(found, labels=labels, images={})


def test_nearly_black_bytes_are_said(tmp_path):
    found = read(tmp_path, **each(GREY, lambda x: x // 128))
    assert "the largest pixel of x_train is 1 of 255" in found.notes[0]


def test_images_of_a_single_colour_are_said(tmp_path):
    found = read(tmp_path, x_test=np.zeros((12, 8, 8, 3), np.uint8))
    assert found.notes == (
        "npz: images of a single colour: 0 of 40 and 12 of 12 (train, test); look at them",
    )


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        pytest.param(
            {"x_train": np.full((40, 8, 8), np.nan), "x_test": np.zeros((12, 8, 8))},
            ["x_train", "2560 values", "not finite"],
            id="NaN pixels",
        ),
        pytest.param(
            {"x_train": X["x_train"] / 255, "x_test": X["x_test"] / 1.0},
            ["x_train goes up to 1", "save both alike"],
            id="halves of unlike range",
        ),
        pytest.param(
            {"x_train": X["x_train"] / 255},
            ["x_train is float64", "x_test uint8", "save both as uint8"],
            id="halves of unlike type",
        ),
        pytest.param({"x_train": X["x_train"].astype("S3")}, ["|S3"], id="text as pixels"),
        pytest.param({"x_train": X["x_train"] * 1j}, ["complex128"], id="complex pixels"),
        pytest.param(
            {"x_train": np.zeros((2, 40, 8, 8, 3), np.uint8)}, ["(2, 40, 8, 8, 3)"], id="5 axes"
        ),
        pytest.param(
            {"x_train": np.zeros((40, 192), np.uint8)}, ["(40, 192)"], id="flat colour images"
        ),
        pytest.param(
            {"y_train": RNG.random((40, 4))}, ["(40, 4)", "y_train.argmax(1)"], id="scores"
        ),
        pytest.param(
            {"y_train": np.ones((40, 4), int)}, ["neither labels"], id="several labels each"
        ),
        pytest.param({"y_train": np.full(40, np.nan)}, ["float64", "nan"], id="NaN labels"),
        pytest.param({"y_test": np.array([1.5] * 12)}, ["y_test", "1.5"], id="half a label"),
        pytest.param(
            {"y_test": np.array(["ant"] * 12)}, ["one of y_train and y_test is text"], id="text"
        ),
        pytest.param(
            {"y_train": NAMES[Y["y_train"]], "y_test": np.array(["emu"] * 12)},
            ["y_test holds 'emu', which y_train has not"],
            id="a name that train lacks",
        ),
        pytest.param(
            {"y_train": Y["y_train"] + 1, "y_test": Y["y_test"] + 2},
            ["y_train runs from 1 to 4, y_test goes up to 5"],
            id="from one, and one more",
        ),
        pytest.param(
            {
                "y_train": Y["y_train"] + 1,
                "y_test": Y["y_test"] + 1,
                "classes": np.array(["none", *NAMES]),
            },
            ["without a training image: [0] of 5"],
            id="from one where class 0 has a name",
        ),
        pytest.param(
            {"y_train": np.array([{"a": 1}] * 40, dtype=object)},
            ["Python objects", "dtype=str"],
            id="objects",
        ),
        pytest.param({"y_train": Y["y_train"].astype("datetime64[D]")}, ["datetime64"], id="dates"),
        pytest.param(
            {"y_train": np.uint64(2**64 - 1) - Y["y_train"].astype(np.uint64)},
            ["train labels run from"],
            id="labels beyond int64",
        ),
        pytest.param(
            {"y_train": np.stack([Y["y_train"]] * 2, 1)[:20]}, ["(20, 2)"], id="pairs of labels"
        ),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_cause(tmp_path, change, facts):
    message = refused(tmp_path, **change)
    for fact in facts:
        assert fact in message


def test_other_names_of_arrays_are_shown(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=X["x_train"], train_labels=Y["y_train"])
    with pytest.raises(UserError, match=r"lacks x_train.*this one train_images, train_labels"):
        load_dataset("npz", tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("fit", "kept"), [(None, True), ("squash", True), ("pad", True), ("crop", False)]
)
def test_wide_arrays_become_square_as_fit_says(tmp_path, fit, kept):
    """A white stripe at the left edge is kept, or cut away."""
    wide = {"x_train": np.zeros((40, 16, 32), np.uint8), "x_test": np.zeros((12, 16, 32), np.uint8)}
    for x in wide.values():
        x[:, :, :4] = 255
    np.savez(tmp_path / "a.npz", **(wide | Y))
    found = load_dataset("npz", tmp_path / "a.npz", input_size=16, fit=fit).x_train
    assert found.shape == (40, 16, 16, 3)
    assert bool((found > 200).any()) == kept
    if fit == "pad":
        assert not found[:, :3].any()


# ---------------------------------------------------------------------------------------- the range


@pytest.mark.parametrize(
    ("low", "high", "integers", "wanted"),
    [
        *[(0, 2**bits - 1, True, (0, 2**bits - 1)) for bits in (8, 10, 12, 14, 16)],
        *[(5, 2**bits, True, (0, 2 ** (bits + 2) - 1)) for bits in (8, 10, 12, 14)],
        (3, 65536, True, (3, 65536)),
        (-1, 200, True, (-1, 200)),
        (0.2, 0.9, False, (0, 1)),
        (0, 1.0, False, (0, 1)),
        (0, 1.02, False, (0, 1.02)),
        (0, 127.9, False, (0, 127.9)),
        (0, 254.9, False, (0, 255)),
        (0, 255.1, False, (0, 255.1)),
        (-0.5, 0.5, False, (-0.5, 0.5)),
    ],
)
def test_the_range_that_becomes_0_to_255(low, high, integers, wanted):
    assert range_of(low, high, integers=integers) == wanted


def test_scaling_rounds_clips_and_goes_block_by_block():
    values = RNG.normal(5, 9, (3000, 20, 20)).astype(np.float32)
    wanted = np.clip(np.round((values.astype(np.float64) + 10) / 30 * 255), 0, 255)
    assert np.abs(scale(values, -10, 20) - wanted).max() <= 1
    assert scale(np.array([[np.nan, 3.0]]), 3, 3).tolist() == [[0, 0]]


def test_rows_of_colour_pixels_are_told_both_ways_to_reshape(tmp_path):
    said = refused(tmp_path, **each(X, lambda x: x.reshape(len(x), -1)))
    assert "x_train.reshape(-1, 8, 8, 3), or x_train.reshape(-1, 3, 8, 8) where" in said
