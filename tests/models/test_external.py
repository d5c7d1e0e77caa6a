"""Networks of torchvision and timm by name."""

import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import SETUP, call, refused, result
from torch import nn
from torchvision import models as tv

import evaluate
import generate_mask
import main_forget
import main_train
from models import build_model, check_arch, redraw
from stages.classifier import load_classifier
from utils import UserError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def build(arch, **options):
    torch.manual_seed(0)
    return build_model(arch, 5, MEAN, STD, **options)


@pytest.mark.parametrize(("name", "side"), [("mobilenet_v2", 32), ("vit_b_32", 64)])
def test_a_network_of_torchvision_is_theirs_behind_the_normalisation(name, side):
    model = build(f"torchvision:{name}", image_size=side).eval()
    sized = {"image_size": side} if "vit" in name else {}
    theirs = getattr(tv, name)(num_classes=5, **sized).eval()
    ours = {k: v for k, v in model.state_dict().items() if not k.startswith("normalize.")}
    theirs.load_state_dict(ours, strict=True)
    images = torch.rand(2, 3, side, side)
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        assert torch.equal(model(images), theirs(normalised))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.std() > 0}
    redraw(model, 5)
    assert not any(torch.equal(p, before.get(n, p + 1)) for n, p in model.named_parameters())


def test_their_own_initialisation_is_kept():
    """Of a linear layer of MobileNet: normal of deviation 0.01 and no bias, not PyTorch's."""
    head = build("torchvision:mobilenet_v2").classifier[1]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.bias.any()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_in_training_too_there_are_logits_alone(name):
    model = build(f"torchvision:{name}", image_size=96).train()
    assert model(torch.rand(2, 3, 96, 96)).shape == (2, 5)


@pytest.mark.parametrize(
    ("arch", "side", "said"),
    [
        ("torchvision:vit_b_17", 32, "no classifier vit_b_17; is vit_b_16"),
        ("torchvision:vit_b_16", 30, "fails on images of 30 x 30: AssertionError.*--input_size"),
        ("torchvision:alexnet", 8, "fails on images of 8 x 8: RuntimeError.*--input_size"),
        ("torchvision:fcn_resnet50", 32, "no classifier fcn_resnet50"),
        ("timm:resnet18", 32, "pip install timm"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_built(arch, side, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=f"--arch {arch}.*{said}"):
        check_arch(arch, side, imagenet_stem=False)


def create_model(name, *, pretrained, num_classes, **options):
    """What timm's function of this name does, with one network of each kind."""
    assert not pretrained
    if name == "sized":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(3 * options.get("img_size", 16) ** 2, num_classes)
        )
    if options:
        raise TypeError(f"__init__() got an unexpected keyword argument {next(iter(options))!r}")
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


def test_a_network_of_timm_is_made_without_weights_and_for_the_image_where_it_takes_a_size(
    monkeypatch,
):
    names = ["sized", "free"]
    timm = SimpleNamespace(
        create_model=create_model, is_model=names.__contains__, list_models=lambda: names
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    for name in names:
        assert build(f"timm:{name}", image_size=24)(torch.rand(2, 3, 24, 24)).shape == (2, 5)
    with pytest.raises(UserError, match="timm has no model freee; is free meant"):
        check_arch("timm:freee", 24, imagenet_stem=False)


@pytest.mark.slow
def test_a_network_of_torchvision_goes_through_the_steps(tmp_path, capsys):
    arch = ["--arch", "torchvision:squeezenet1_1", "--input_size", 32]
    folder = ["--save_dir", tmp_path]
    original = ["--model_path", tmp_path / "0model_SA_best.pth.tar", "--forget", "random:130"]
    assert call(main_train.main, *SETUP, *arch, "--epochs", 1, *folder) == 0
    device = ["--device", "cpu"]
    words = [*original, *folder, *device]
    layers = ["--score", "layers", "--layers", "features.0"]
    assert call(generate_mask.main, *words, *layers) == 0
    assert call(main_forget.main, *words, "--unlearn", "CF_k", "--unlearn_epochs", 1) == 0
    assert result(tmp_path, "CF_k")["data"]["arch"] == "torchvision:squeezenet1_1"
    classifier = load_classifier(tmp_path / "CF_kcheckpoint.pth.tar")
    assert classifier.model(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    models = ["--models", tmp_path / "CF_kcheckpoint.pth.tar", "--device", "cpu"]
    assert call(evaluate.main, *models, *folder) == 0
    capsys.readouterr()
    expanding = ["--unlearn", "be", "--forget", "class:3"]
    code = call(main_forget.main, *original[:2], *folder, *device, *expanding)
    refused(capsys, code, "classifier.1", "is a Conv2d and not a linear layer")
