"""Small things to test on: a data set of 8x8 images, a ten-line network, both on the CPU."""

import pytest
import torch
from helpers import SETUP, call, make_data, make_image_set, make_model

import generate_mask
import main_train

# Two workers share two cores; on networks this small one thread each beats two that wait for each
# other.
torch.set_num_threads(1)
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


@pytest.fixture
def image_set():
    return make_image_set()


@pytest.fixture
def data():
    return make_data()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A trained original on digits, in a folder of its own."""
    folder = tmp_path_factory.mktemp("original")
    assert call(main_train.main, *SETUP, "--epochs", 3, "--lr", 0.1, "--save_dir", folder) == 0
    return folder / "0model_SA_best.pth.tar"


@pytest.fixture(scope="session")
def masks(original):
    folder = original.parent / "mask"
    command = [
        "--save_dir",
        folder,
        "--model_path",
        original,
        "--num_indexes_to_replace",
        130,
        "--unlearn_epochs",
        1,
    ]
    assert call(generate_mask.main, *SETUP, *command) == 0
    return folder
