"""Checkpoints as classifiers: names, sizes, older files, other files."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import call, make_data, make_image_set
from PIL import Image

import main_forget
import main_train
from datasets import load_dataset
from datasets.image_files import read_image
from stages.classifier import load_classifier
from utils import UserError

pytestmark = pytest.mark.slow
NAMES = ["cat", "dog", "über", "plane"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An original and a fine-tuned model of named classes, in images of 8 pixels, read as 16."""
    folder, images = tmp_path_factory.mktemp("named"), make_image_set()
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = {name: getattr(images, name) for name in names}
    np.savez(folder / "named.npz", **arrays, classes=np.array(NAMES))
    setup = ["--dataset", "npz", "--data", folder / "named.npz", "--input_size", 16]
    setup += ["--arch", "resnet20s", "--device", "cpu", "--save_dir", folder, "--batch_size", 32]
    assert call(main_train.main, *setup, "--epochs", 2) == 0
    words = ["--model_path", folder / "0model_SA_best.pth.tar", "--num_indexes_to_replace", 9]
    words += ["--unlearn", "FT", "--unlearn_epochs", 1]
    assert call(main_forget.main, *setup, *words) == 0
    return folder


@pytest.mark.parametrize("file", ["0model_SA_best.pth.tar", "FTcheckpoint.pth.tar"])
def test_names_size_and_weights_come_from_the_checkpoint(file, folder):
    model, classes, size = load_classifier(str(folder / file))
    assert classes == tuple(NAMES)
    assert size == 16
    assert not model.training
    saved = torch.load(folder / file, weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name])
    # A network that is made anew normalises like this one.
    assert torch.equal(model.construct().normalize.mean, saved["normalize.mean"])
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 4)


@pytest.mark.parametrize("augment", ["crop", "resized_crop"])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_classifier_reads_a_file_as_its_test_images_were_read(tmp_path, augment, fit):
    rng = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / half / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / half / name / f"{i}.png")
    words = ["--dataset", "folder", "--data", tmp_path, "--input_size", 16, "--fit", fit]
    words += ["--augment", augment, "--arch", "resnet20s", "--epochs", 1, "--device", "cpu"]
    assert call(main_train.main, *words, "--save_dir", tmp_path / "run", "--seed", 1) == 0
    options = {"input_size": 16, "fit": fit, "augment": augment}
    dataset = load_dataset("folder", tmp_path, **options)
    test, _ = next(iter(make_data(dataset, count=1).evaluation["test"].batches_of(6)))
    classifier = load_classifier(tmp_path / "run/0model_SA_best.pth.tar")
    files = [tmp_path / "test" / name / f"{i}.png" for name in ("cat", "dog") for i in range(3)]
    for file, seen in zip(files, test, strict=True):
        wanted = (seen * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(classifier.read(file), wanted)


def test_an_image_file_is_read_as_a_folder_of_images_is(tmp_path):
    pixels = make_image_set().x_train[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 8), pixels)
    Image.new("L", (40, 20), 9).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png", 8), np.full((8, 8, 3), 9))
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(OSError, match=r"no\.png"):
        read_image(tmp_path / "no.png", 8)


def test_older_checkpoints_have_numbers_for_names(tmp_path):
    with tarfile.open(Path(__file__).parents[1] / "data/c523b69.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for file in ("0model_SA_best.pth.tar", "FTcheckpoint.pth.tar", "retraincheckpoint.pth.tar"):
        model, classes, size = load_classifier(tmp_path / file)
        assert classes == tuple(map(str, range(10)))
        assert size == 8
        assert model(torch.rand(1, 3, size, size)).shape == (1, 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("arguments"), "does not say what it is"),
        (lambda content: content.update(classes=["one"]), "is damaged"),
        (lambda content: content.update(classes=3), "is damaged"),
        (lambda content: content["arguments"].update(arch="resnet0"), "is damaged"),
        (lambda content: content["state_dict"].pop("normalize.mean"), "is damaged"),
    ],
)
def test_other_files_are_refused_by_name(change, said, folder, tmp_path):
    content = torch.load(folder / "FTcheckpoint.pth.tar", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(UserError, match=rf"changed\.pt .*{said}"):
        load_classifier(tmp_path / "changed.pt")
