"""Small networks of today's kinds through every step, as a user types them: trained with mixup and
stochastic depth, masked, unlearned, retrained, audited.
"""

import json

import numpy as np
import pytest
import torch
from helpers import call, result, weights

import evaluate
import generate_mask
import main_forget
import main_random
import main_train
import models
from models.convnext import convnext
from models.swin import swin
from models.vit import vit

KINDS = {
    "few_patches": lambda n, image_size=8: vit("x", n, image_size, width=12, heads=2, depth=2),
    "few_windows": lambda n, image_size=8: swin(
        "x", n, image_size, width=8, depths=(1, 1), heads=(1, 2)
    ),
    "few_stages": lambda n, image_size=8: convnext(
        "x", n, image_size, widths=(8, 16), depths=(1, 1)
    ),
}
RECIPE = ["--optimizer", "adamw", "--lr", 0.003, "--weight_decay", 0.05, "--decay", "weights"]
RECIPE += ["--batch_size", 32, "--epochs", 2, "--mixup", 0.2, "--drop_path", 0.1]
BRIEF = ["--optimizer", "adamw", "--unlearn_lr", 1e-3, "--unlearn_epochs", 1]


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    for name, factory in KINDS.items():
        monkeypatch.setitem(models.MODELS, name, factory)


@pytest.mark.slow
@pytest.mark.parametrize("arch", KINDS)
def test_an_architecture_goes_through_every_step(arch, tmp_path):
    np.save(tmp_path / "rest.npy", np.arange(400, 1298))
    data = ["--dataset", "digits", "--device", "cpu", "--leave_out", f"@{tmp_path}/rest.npy"]
    assert call(main_train.main, *data, "--arch", arch, *RECIPE, "--save_dir", tmp_path) == 0
    file = tmp_path / "0model_SA_best.pth.tar"
    request = ["--device", "cpu", "--forget", "random:40", "--model_path", file]
    assert call(generate_mask.main, *request, "--save_dir", tmp_path / "mask") == 0
    mask = torch.load(tmp_path / "mask/with_0.5.pt", weights_only=True)
    original, names = weights(file), [*mask]
    total = sum(value.numel() for value in mask.values())
    assert total == sum(original[name].numel() for name in names)
    assert sum(int(value.sum()) for value in mask.values()) == total // 2

    masked = ["--unlearn", "salun", "--mask_path", tmp_path / "mask/with_0.5.pt", *BRIEF]
    assert call(main_random.main, *request, *masked, "--save_dir", tmp_path) == 0
    salun = weights(tmp_path / "RLcheckpoint.pth.tar")
    for name in names:
        assert torch.equal(salun[name][~mask[name]], original[name][~mask[name]]), name
    assert any(not torch.equal(salun[name], original[name]) for name in names)

    request += ["--save_dir", tmp_path]
    assert call(main_forget.main, *request, "--unlearn", "retrain") == 0
    retrained, done = weights(tmp_path / "retraincheckpoint.pth.tar"), result(tmp_path, "retrain")
    assert done["recipe"]["drop_path"] == 0.1
    assert done["hyperparameters"]["mixup"] == 0.2
    for name in names:
        same = (retrained[name] == original[name]).float().mean()
        assert same < 0.01 or original[name].unique().numel() < 3, name

    audited = ["--models", tmp_path / "RLcheckpoint.pth.tar", "--save_dir", tmp_path]
    audited += ["--retrain", tmp_path / "retraincheckpoint.pth.tar", "--device", "cpu"]
    assert call(evaluate.main, *audited) == 0
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert audit["models"][0]["label"] == "SalUn"
