"""How images are read goes from step to step: what was asked of the original, and what is said."""

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
