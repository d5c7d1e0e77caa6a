"""--init: the original and Retrain begin with the weights of a file."""

import pytest
import torch
from helpers import SETUP, call, refused, result, weights

import main_forget
import main_train
from models import build_model

FEW = ["--lr", 1e-9, "--weight_decay", 0, "--batch_size", 600]  # weights stay where they begin


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of another class count, as torchvision's: without a normalisation."""
    torch.manual_seed(7)
    state = build_model("resnet20s", 7, (0.1,) * 3, (0.2,) * 3).state_dict()
    path = tmp_path_factory.mktemp("init") / "seven.pth"
    torch.save({name: v for name, v in state.items() if not name.startswith("normalize.")}, path)
    return path


def train(folder, *words):
    return call(main_train.main, *SETUP, "--epochs", 1, *FEW, "--save_dir", folder, *words)


def retrain(folder, *words):
    words = ["--model_path", folder / "0model_SA_best.pth.tar", "--save_dir", folder, *words]
    words += ["--device", "cpu", "--forget", "random:130", "--unlearn", "retrain"]
    return call(main_forget.main, *words)


def from_the_file(path, file):
    """Which of the trainable tensors of a checkpoint are where the file's are, up to 1e-6."""
    theirs = torch.load(file, weights_only=True)
    return {
        name: bool(
            name in theirs
            and theirs[name].shape == value.shape
            and (theirs[name] - value).abs().max() < 1e-6
        )
        for name, value in weights(path).items()
        if not name.startswith("normalize.") and "running" not in name and "num_" not in name
    }


def test_the_original_and_retrain_begin_with_the_file_and_a_new_head(file, tmp_path, capsys):
    assert train(tmp_path, "--init", file, "--mean", "0.3", "--std", "0.6") == 0
    said = capsys.readouterr().out
    assert f"--init {file}: 114 of 118 tensors are from the file" in said
    assert "the classifier fc is made anew, for 10 classes" in said
    assert "no normalisation: images are normalised by mean 0.3 0.3 0.3, std 0.6" in said
    begun = from_the_file(tmp_path / "0model_SA_best.pth.tar", file)
    assert {name for name, same in begun.items() if not same} == {"fc.weight", "fc.bias"}
    assert retrain(tmp_path) == 0
    said = capsys.readouterr().out
    assert f"--init={file}" in said
    assert "the classifier fc is made anew" in said
    path = tmp_path / "retraincheckpoint.pth.tar"
    assert from_the_file(path, file) == begun
    heads = [weights(each)["fc.weight"] for each in (tmp_path / "0model_SA_best.pth.tar", path)]
    assert not torch.equal(*heads)
    assert weights(path)["normalize.mean"].tolist() == pytest.approx([0.3] * 3)
    record = result(tmp_path, "retrain")
    assert record["recipe"]["init"] == record["original_recipe"]["init"] != ""
    assert not any("trained unlike" in warning for warning in record["warnings"])


def test_a_file_that_changed_is_refused_and_a_typed_one_is_named(file, tmp_path, capsys):
    changed = tmp_path / "changed.pth"
    content = torch.load(file, weights_only=True)
    torch.save(content, changed)
    assert train(tmp_path, "--init", changed) == 0
    torch.save({name: value + 1 for name, value in content.items()}, changed)
    capsys.readouterr()
    refused(capsys, retrain(tmp_path), changed, "began with other weights", "--init")
    changed.unlink()
    refused(capsys, retrain(tmp_path), changed)
    assert retrain(tmp_path, "--init", file) == 0
    assert not any("trained unlike" in said for said in result(tmp_path, "retrain")["warnings"])


def test_retrain_of_another_file_says_that_it_is_unlike_the_original(file, tmp_path, capsys):
    assert train(tmp_path) == 0
    assert retrain(tmp_path, "--init", file) == 0
    assert any("init" in warning for warning in result(tmp_path, "retrain")["warnings"])
    words = ["--model_path", tmp_path / "0model_SA_best.pth.tar", "--save_dir", tmp_path]
    words += ["--device", "cpu", "--forget", "random:130", "--unlearn", "FT", "--init", file]
    capsys.readouterr()
    assert call(main_forget.main, *words, "--unlearn_epochs", 1) == 0
    assert "FT does not read --init" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_by_its_first_difference(file, tmp_path, capsys):
    words = "--init", file, "--arch", "resnet44s"
    refused(capsys, train(tmp_path, *words), f"--init {file} does not fit --arch resnet44s")
    (tmp_path / "text.pth").write_text("no weights")
    refused(capsys, train(tmp_path, "--init", tmp_path / "text.pth"), "--init")
    bad = torch.load(file, weights_only=True)
    bad["conv1.weight"][0] = torch.nan
    torch.save(bad, tmp_path / "nan.pth")
    refused(capsys, train(tmp_path, "--init", tmp_path / "nan.pth"), "conv1.weight holds values")
