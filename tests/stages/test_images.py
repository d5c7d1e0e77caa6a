"""How images are read goes from step to step: what was asked of the original, and what is said."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import main_forget
import main_train
from tests.helpers import call, refused, result


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Trained with --fit pad on wide pictures of two classes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for half, count in (("train", 20), ("test", 5)):
        for name in ("cat", "dog"):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                page = rng.integers(0, 256, (8, 16, 3), np.uint8)
                Image.fromarray(page).save(root / half / name / f"{i}.png")
    words = ["--dataset", "folder", "--data", root, "--input_size", 8, "--fit", "pad"]
    words += ["--arch", "resnet20s", "--epochs", 1, "--batch_size", 16, "--device", "cpu"]
    words += ["--precision", "fp32", "--workers", 0, "--save_dir", root / "run"]
    assert call(main_train.main, *words) == 0
    return root / "run" / "0model_SA_best.pth.tar"


def step(original, folder, *words):
    of_run = ["--unlearn", "FT", "--unlearn_epochs", 1, "--num_indexes_to_replace", 4]
    of_run += ["--batch_size", 16, "--device", "cpu", "--precision", "fp32", "--workers", 0]
    return call(main_forget.main, *of_run, "--model_path", original, "--save_dir", folder, *words)


def test_later_steps_read_the_images_as_the_original_did(original, tmp_path, capsys):
    assert step(original, tmp_path) == 0
    said = capsys.readouterr().out
    assert "--fit pad" in said.splitlines()[0]
    assert "padded with black (--fit pad): 50, the first train/cat/0.png" in said
    assert "classes: 0 cat, 1 dog" in said
    content = torch.load(original, weights_only=True)
    assert content["classes"] == ["cat", "dog"]
    assert result(tmp_path, "FT")["data"]["data_sha256"] == content["split"]["data_sha256"]
    assert (
        call(evaluate.main, "--models", tmp_path / "FTcheckpoint.pth.tar", "--device", "cpu") == 0
    )
    assert "padded with black" in capsys.readouterr().out


def test_images_read_in_another_way_are_not_the_originals(original, tmp_path, capsys):
    refused(capsys, step(original, tmp_path, "--fit", "crop"), "trained on other images")


def test_a_damaged_record_of_fit_is_refused(original, tmp_path, capsys):
    content = torch.load(original, weights_only=True)
    content["arguments"]["fit"] = "stretch"
    torch.save(content, tmp_path / "o.pth.tar")
    refused(capsys, step(tmp_path / "o.pth.tar", tmp_path), "fit is 'stretch'")


def test_an_original_from_before_there_was_fit_has_its_default(original, tmp_path, capsys):
    content = torch.load(original, weights_only=True)
    del content["arguments"]["fit"]
    torch.save(content, tmp_path / "o.pth.tar")
    refused(capsys, step(tmp_path / "o.pth.tar", tmp_path), "trained on other images")
    assert step(tmp_path / "o.pth.tar", tmp_path, "--fit", "pad") == 0


def test_resized_crops_go_from_step_to_step(original, tmp_path, capsys):
    data = original.parent.parent
    words = ["--dataset", "folder", "--data", data, "--augment", "resized_crop", "--workers", 0]
    words += ["--arch", "resnet20s", "--epochs", 1, "--batch_size", 16, "--device", "cpu"]
    assert call(main_train.main, *words, "--precision", "fp32", "--save_dir", tmp_path) == 0
    capsys.readouterr()
    crops = tmp_path / "0model_SA_best.pth.tar"
    assert step(crops, tmp_path / "later") == 0
    said = capsys.readouterr().out
    assert "--augment resized_crop" in said.splitlines()[0]
    assert "held at 37 pixels; training sees parts of them resized to 32" in said
    later = tmp_path / "later/FTcheckpoint.pth.tar"
    assert call(evaluate.main, "--models", later, "--device", "cpu") == 0
    assert "held at 37 pixels" in capsys.readouterr().out
    refused(capsys, step(crops, tmp_path, "--augment", "crop"), "trained on other images")


def test_an_original_of_imagenet_from_before_there_was_augment_saw_plain_crops(tmp_path, original):
    """Its record lacks the flag, and its images are not those that are read by default today."""
    data = tmp_path / "data"
    shutil.copytree(original.parent.parent / "train", data / "train")
    shutil.copytree(original.parent.parent / "test", data / "val")
    words = ["--dataset", "imagenet", "--data", data, "--input_size", 8, "--augment", "crop"]
    words += ["--arch", "resnet20s", "--epochs", 1, "--batch_size", 16, "--device", "cpu"]
    run = tmp_path / "run"
    assert call(main_train.main, *words, "--precision", "fp32", "--save_dir", run) == 0
    content = torch.load(run / "0model_SA_best.pth.tar", weights_only=True)
    del content["arguments"]["augment"], content["identity"]["resized_crop"]
    torch.save(content, tmp_path / "o.pth.tar")
    assert step(tmp_path / "o.pth.tar", tmp_path) == 0
    later = torch.load(tmp_path / "FTcheckpoint.pth.tar", weights_only=True)
    assert later["arguments"].pop("augment") == "crop"
    torch.save(later, tmp_path / "FTcheckpoint.pth.tar")
    models = ["--models", tmp_path / "FTcheckpoint.pth.tar", "--device", "cpu"]
    assert call(evaluate.main, *models) == 0
