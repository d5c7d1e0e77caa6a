"""Small things to test on: a data set of 8x8 images, a ten-line network, both on the CPU."""

import numpy as np
import pytest
import torch
from torch import nn

from datasets import ImageSet
from datasets.loaders import Data
from datasets.splits import choose_forget, make_split
from models.normalize import Normalize

CPU = torch.device("cpu")
# Two workers share two cores; on networks this small one thread each beats two that wait for each
# other.
torch.set_num_threads(1)
CLASSES = 4
# Where nine tenths of the suite's time goes.
SLOW = (
    "test_scripts",
    "test_faults",
    "test_per_sample",
    "test_evaluation",
    "test_methods",
    "test_parallel",
    "test_recipe",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")


class TinyNet(nn.Module):
    """One convolution, BatchNorm, a linear layer; (n, 3, 8, 8) in [0, 1] to (n, 4)."""

    def __init__(self):
        super().__init__()
        self.normalize = Normalize()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4, CLASSES)

    def forward(self, images):
        x = torch.relu(self.bn(self.conv(self.normalize(images))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def make_image_set(train=160, test=60, side=8, seed=0, crop=1, flip=True):
    """Random uint8 images whose mean brightness tells their class."""
    rng = np.random.default_rng(seed)

    def half(count):
        labels = np.arange(count) % CLASSES
        images = rng.integers(0, 120, (count, side, side, 3)) + 40 * labels[:, None, None, None]
        return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)

    (x_train, y_train), (x_test, y_test) = half(train), half(test)
    names = tuple("abcd")
    return ImageSet(
        "tiny", x_train, y_train, x_test, y_test, names, (0.4,) * 3, (0.2,) * 3, crop, flip
    )


def make_data(
    image_set=None, count=16, batch_size=32, seed=3, class_to_forget=-1, augment=True, **batches
):
    """A Data with ``count`` forgotten images; ``batches`` are further arguments of Data."""
    image_set = image_set or make_image_set()
    split = make_split(image_set.y_train, 1)
    chosen = choose_forget(
        split, image_set.y_train, count=count, class_to_forget=class_to_forget, forget_seed=1
    )
    return Data(
        image_set,
        split,
        chosen,
        device=CPU,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        **batches,
    )


def make_model(seed=0):
    """A TinyNet with seeded weights and BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(seed)
    model = TinyNet()
    model.construct = TinyNet
    model.train()
    with torch.no_grad():
        model(torch.rand(64, 3, 8, 8))
    return model.to(memory_format=torch.channels_last)


@pytest.fixture
def image_set():
    return make_image_set()


@pytest.fixture
def data():
    return make_data()


@pytest.fixture
def model():
    return make_model()
