"""A request on a model that an earlier one made forget: what was forgotten stays forgotten."""

import json

import numpy as np
import pytest
import torch
from helpers import SETUP, call, forget, refused, result

import evaluate
import main_forget
import main_train
from datasets.splits import ForgetSplit, leave_forgotten
from utils import UserError

FIRST, SECOND = "positions:0,1,2,3,4,5,6,7", "positions:6,7,8,9"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An original of three epochs, and a model that has forgotten FIRST."""
    folder = tmp_path_factory.mktemp("models")
    recipe = ["--epochs", 3, "--lr", 0.05, "--weight_decay", 0.001]
    assert call(main_train.main, *SETUP, *recipe, "--save_dir", folder) == 0
    original = folder / "0model_SA_best.pth.tar"
    assert request(original, folder / "first", FIRST) == 0
    return original, folder / "first/FTcheckpoint.pth.tar"


def request(model, folder, spec, *more, method="FT"):
    words = [*SETUP, "--unlearn", method, "--forget", spec, "--unlearn_epochs", 1, *more]
    return call(main_forget.main, *words, "--model_path", model, "--save_dir", folder)


def record(folder, method="FT"):
    return torch.load(folder / f"{method}checkpoint.pth.tar", weights_only=True)


def test_what_was_forgotten_before_is_not_retained(models, tmp_path, capsys):
    original, first = models
    train = torch.load(original, weights_only=True)["split"]["train"].numpy()
    assert request(first, tmp_path, SECOND) == 0
    said = capsys.readouterr().out
    assert (
        "forgot 8 images before: 6 are left out of retain and evaluated as forgotten_before" in said
    )
    assert "2 of the images to forget are among those it forgot" in said
    kept = record(tmp_path)
    assert kept["forgotten_before"].tolist() == sorted(train[:6])
    assert sorted(kept["forget"].tolist()) == sorted(train[6:10])
    assert sorted(kept["retain"].tolist()) == sorted(train[10:])
    found = result(tmp_path, "FT")
    assert found["data"]["sizes"]["forgotten_before"] == 6
    assert found["data"]["forget"]["before"]["count"] == 6
    right = found["metrics"]["forgotten_before"] * 6 / 100
    assert right == pytest.approx(round(right))


def test_a_third_request_leaves_both_out_and_retrain_sees_none(models, tmp_path):
    assert request(models[1], tmp_path / "2", SECOND) == 0
    third = "positions:20"
    assert (
        request(tmp_path / "2/FTcheckpoint.pth.tar", tmp_path / "3", third, method="retrain") == 0
    )
    kept = record(tmp_path / "3", "retrain")
    before = record(tmp_path / "2")
    gone = {*before["forget"].tolist(), *before["forgotten_before"].tolist()}
    assert set(kept["forgotten_before"].tolist()) == gone
    assert not gone & set(kept["retain"].tolist())
    assert not gone & set(kept["split"]["train"].tolist())
    recipe = kept["identity"]
    assert (recipe["weight_decay"], kept["arguments"]["unlearn_lr"]) == (0.001, 0.05)


def test_retain_forgotten_keeps_them(models, tmp_path):
    assert request(models[1], tmp_path, SECOND, "--retain_forgotten") == 0
    kept = record(tmp_path)
    assert not len(kept["forgotten_before"])
    assert len(kept["retain"]) == len(record(models[1].parent)["retain"]) + 4
    assert "forgotten_before" not in result(tmp_path, "FT")["metrics"]


def test_a_first_request_is_as_it_was(models, tmp_path):
    assert request(models[0], tmp_path, SECOND) == 0
    assert not len(record(tmp_path)["forgotten_before"])
    found = result(tmp_path, "FT")
    assert not {"forgotten_before", "before"} & {*found["metrics"], *found["data"]["forget"]}


def test_the_audit_evaluates_them(models, tmp_path):
    assert request(models[1], tmp_path, SECOND) == 0
    words = ["--models", tmp_path / "FTcheckpoint.pth.tar", "--device", "cpu"]
    assert call(evaluate.main, *words) == 0
    (model,) = json.loads((tmp_path / "audit.json").read_text())["models"]
    expected = result(tmp_path, "FT")["metrics"]["forgotten_before"]
    assert model["metrics"]["forgotten_before"] == pytest.approx(expected)


def test_the_model_that_a_second_request_began_with_is_its_original(models, tmp_path, capsys):
    assert request(models[1], tmp_path, SECOND) == 0
    words = ["--models", tmp_path / "FTcheckpoint.pth.tar", "--device", "cpu"]
    assert call(evaluate.main, *words, "--original", models[1]) == 0
    assert "another original" not in capsys.readouterr().err
    other = tmp_path / "other"
    assert request(models[0], other, "positions:30") == 0
    refused(
        capsys,
        call(evaluate.main, *words, "--original", other / "FTcheckpoint.pth.tar", "--overwrite"),
        "forgot other images",
    )


def test_a_class_that_was_forgotten_stays_out_of_test(models, tmp_path, capsys):
    assert request(models[0], tmp_path / "1", "class:3") == 0
    sizes = [result(tmp_path / "1", "FT")["data"]["sizes"]]
    capsys.readouterr()
    assert request(tmp_path / "1/FTcheckpoint.pth.tar", tmp_path / "2", SECOND) == 0
    assert "left out of validation and test: class 3" in capsys.readouterr().out
    sizes.append(result(tmp_path / "2", "FT")["data"]["sizes"])
    assert sizes[0]["test"] == sizes[1]["test"]
    assert sizes[0]["val"] == sizes[1]["val"]
    words = ["--models", tmp_path / "2/FTcheckpoint.pth.tar", "--device", "cpu"]
    assert call(evaluate.main, *words) == 0
    audit = json.loads((tmp_path / "2/audit.json").read_text())
    assert audit["data"]["sizes"]["test"] == sizes[0]["test"]


def test_nothing_left_to_retain_is_refused(models, tmp_path, capsys):
    chosen = ForgetSplit("indexes", np.array([0]), np.array([1, 2]))
    with pytest.raises(UserError, match="1 images to forget and 2 forgotten before leave none"):
        leave_forgotten(chosen, np.array([0, 1, 2]), np.zeros(3, int))
    assert leave_forgotten(chosen, np.array([0, 2]), np.zeros(3, int)).retain.tolist() == [1]
    damaged = torch.load(models[1], weights_only=True) | {"forgotten_before": "all"}
    torch.save(damaged, tmp_path / "odd.pth.tar")
    refused(
        capsys,
        forget(tmp_path / "odd.pth.tar", tmp_path / "x", "--unlearn", "FT"),
        "damaged",
    )
