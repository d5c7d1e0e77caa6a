"""Images and labels of one's own as data of a method."""

import numpy as np
import pytest
import torch
from helpers import make_image_set, make_model, same

import engine
from datasets.arrays import from_arrays
from recipe import Recipe
from unlearn import METHODS
from utils import UserError

SET = make_image_set()
TRAIN, TEST = (SET.x_train, SET.y_train), (SET.x_test, SET.y_test)


def indices(data):
    return {name: loader.indices.tolist() for name, loader in data.evaluation.items()}


def test_every_image_is_where_it_was_put():
    data = from_arrays(TRAIN, [7, 3, 11], val=[0, 5], test=TEST)
    found = indices(data)
    assert found["forget"] == [3, 7, 11]
    assert sorted(found["val"]) == [0, 5]
    assert found["test"] == list(range(60))
    assert sorted(found["retain"] + [3, 7, 11, 0, 5]) == list(range(160))
    images, labels = next(iter(data.evaluation["forget"]))
    assert labels.tolist() == SET.y_train[[3, 7, 11]].tolist()
    wanted = torch.tensor(SET.x_train[[3, 7, 11]]).permute(0, 3, 1, 2) / 255
    assert torch.equal(images, wanted)
    # In training as well: nothing is cropped or flipped.
    images, labels = next(iter(data.forget))
    for image in images:
        assert any(torch.equal(image, each) for each in wanted)


def test_without_held_out_images_a_method_runs():
    data = from_arrays(TRAIN, np.arange(10), batch_size=32)
    assert indices(data)["val"] == indices(data)["test"] == []
    assert data.forget.batch_size == data.retain.batch_size == 32
    assert data.num_classes == 4
    model = make_model()
    engine.run(model, METHODS["FT"](unlearn_epochs=1), data, Recipe())
    assert not same(model, make_model())


def test_grey_images_and_small_integers_are_taken():
    grey, labels = SET.x_train[..., 0], SET.y_train.astype(np.uint8)
    data = from_arrays((grey, labels), [1])
    assert data.dataset.x_train.shape == (160, 8, 8, 3)
    assert data.retain.labels.dtype == torch.int64


def test_classes_count_that_only_test_images_are_of():
    labels = np.where(SET.y_test == 3, 5, SET.y_test)
    assert from_arrays(TRAIN, [1], test=(SET.x_test, labels)).num_classes == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forget": [160]}, "0 to 159"),
        ({"forget": [-1]}, "0 to 159"),
        ({"forget": np.arange(160) < 9}, "indices"),
        ({"forget": [0.5]}, "indices"),
        ({"forget": [3, 3]}, "twice"),
        ({"forget": []}, "empty"),
        ({"forget": range(160)}, "none to retain"),
        ({"forget": [3], "val": [3, 4]}, "1 images are in forget and in val"),
        ({"val": [160]}, "val: indices"),
        ({"train": (SET.x_train, SET.y_train[:-1])}, "160 images"),
        ({"train": (SET.x_train, SET.y_train - 1)}, "labels from 0"),
        ({"train": (SET.x_train, SET.y_train * 1.0)}, "float64"),
        ({"train": (SET.x_train / 255, SET.y_train)}, "uint8"),
        ({"test": (SET.x_test[:, :4], SET.y_test)}, "4x8"),
        ({"test": (SET.x_test[:, :4, :4], SET.y_test)}, "of one size"),
    ],
)
def test_what_fits_nothing_is_refused(changes, said):
    given = {"train": TRAIN, "forget": [1, 2]} | changes
    with pytest.raises(UserError, match=said):
        from_arrays(given.pop("train"), given.pop("forget"), **given)
