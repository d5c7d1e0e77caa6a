"""main_train's presets: what is typed stands above them, they are said and recorded, and Retrain
inherits their values.
"""

import pytest
import torch
from helpers import call, refused, settled

import main_train
from arg_parser import recorded_flags, train_request
from stages.requests import TrainRequest
from stages.settings import original_recipe, settle_training
from training.presets import PRESETS, preset_listing
from unlearn import preset_table

PUBLISHED = [name for name in PRESETS if name not in ("paper", "from_weights")]


def trained_by(*words):
    return settle_training(train_request([str(word) for word in words]))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_flags_of_main_train_that_they_take_and_no_typed_one(name, capsys):
    values = PRESETS[name].values
    request = trained_by("--preset", name)
    assert recorded_flags(values) == values
    assert {flag: getattr(request, flag) for flag in values} == values
    rest = {flag: value for flag, value in request.values().items() if flag not in values}
    assert rest == {flag: getattr(TrainRequest(preset=name), flag) for flag in rest}
    said = capsys.readouterr().out
    assert said.startswith(f"--preset {name}: ") if values else not said
    typed = trained_by("--preset", name, "--lr", 0.5, "--optimizer", "sgd")
    assert (typed.lr, typed.optimizer) == (0.5, "sgd")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_is_a_transformers_recipe_and_names_its_source(name):
    values, source, _ = PRESETS[name]
    assert (values["optimizer"], values["schedule"]) == ("adamw", "cosine")
    assert values["weight_decay"] == 0.05
    assert values["label_smoothing"] == 0.1
    assert values["mixup"] > 0 < values["warmup"]
    assert 0 < values["drop_path"] < 1
    assert "et al." in source
    assert "not built" in source


def test_the_warm_up_and_the_end_of_the_cosine_fit_what_is_typed():
    assert trained_by("--preset", "swin", "--epochs", 30).warmup == 2
    assert trained_by("--preset", "swin", "--epochs", 30, "--warmup", 7).warmup == 7
    assert trained_by("--preset", "swin", "--lr", 1e-6).final_lr == 1e-6
    assert trained_by("--preset", "swin", "--schedule", "constant").final_lr == 0


def test_retrain_inherits_the_values_of_the_preset():
    record = trained_by("--preset", "convnext", "--epochs", 30).record()
    recipe = original_recipe(record)
    request, taken = settled("--unlearn", "retrain", arguments=record)
    for name in ("mixup", "drop_path", "decay", "final_lr", "warmup", "label_smoothing"):
        assert taken[name] == recipe[name] == getattr(request, name) == record[name]
    assert (request.unlearn_epochs, request.unlearn_lr) == (30, 4e-3)


def test_an_unknown_preset_is_refused_with_those_there_are(tmp_path, capsys):
    code = call(main_train.main, "--dataset", "digits", "--preset", "swim", "--save_dir", tmp_path)
    refused(capsys, code, "--preset swim: main_train has paper, deit, swin", "--preset list")


def test_the_list_has_the_presets_of_main_train_and_of_the_methods(capsys):
    with pytest.raises(SystemExit, match="0"):
        train_request(["--preset", "list"])
    printed = capsys.readouterr().out.strip()
    assert printed == preset_listing()
    lines = printed.splitlines()
    assert [line.split("`")[3] for line in lines if "`main_train`" in line] == list(PRESETS)
    assert set(preset_table().splitlines()) <= set(lines)


def test_a_run_records_its_preset_and_the_values(tmp_path):
    words = ["--dataset", "digits", "--arch", "resnet20s", "--device", "cpu", "--epochs", 1]
    words += ["--save_dir", tmp_path, "--preset", "from_weights"]
    assert call(main_train.main, *words) == 0
    kept = torch.load(tmp_path / "0model_SA_best.pth.tar", weights_only=True)["arguments"]
    assert kept["preset"] == "from_weights"
    assert (kept["optimizer"], kept["decay"], kept["lr"]) == ("adamw", "weights", 1e-4)
