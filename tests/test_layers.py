"""CF-k, EU-k: which blocks there are, which change; UNSIR: its noise, its two phases."""

import copy

import pytest
import torch
from conftest import CLASSES, make_data, make_image_set, make_model
from test_methods import run, same
from test_saliency import random_mask

from models import blocks, build_model, redraw
from unlearn.finetune import FineTune
from unlearn.last_blocks import FinetuneLastBlocks, RetrainLastBlocks
from unlearn.retrain import Retrain
from utils import UserError, stream


def build(arch):
    torch.manual_seed(0)
    return build_model(arch, CLASSES, (0.4,) * 3, (0.2,) * 3).to(memory_format=torch.channels_last)


# ----------------------------------------------------------------------------------------------------------- blocks

VGG_POOLED_AFTER = {1, 3, 6, 9}  # convolutions (from 0) that a pool follows


def vgg_features():
    """conv, BatchNorm, ReLU and here and there a pool: the positions of the first two of each."""
    position, groups = 0, []
    for convolution in range(13):
        groups.append([f"features.{position}", f"features.{position + 1}"])
        position += 4 if convolution in VGG_POOLED_AFTER else 3
    return groups


BLOCKS = {
    "resnet18": [
        ["conv1", "bn1"], ["layer1.0"], ["layer1.1"], ["layer2.0"], ["layer2.1"], ["layer3.0"], ["layer3.1"], ["layer4.0"], ["layer4.1"],
        ["fc"],
    ],
    "resnet20s": [
        ["conv1", "bn1"], ["layer1.0"], ["layer1.1"], ["layer1.2"], ["layer2.0"], ["layer2.1"], ["layer2.2"], ["layer3.0"], ["layer3.1"],
        ["layer3.2"], ["fc"],
    ],
    "vgg16_bn": [*vgg_features(), ["classifier.0"], ["classifier.2"], ["classifier.4"]],
    "vgg16_bn_lth": [*vgg_features(), ["classifier"]],
}  # fmt: skip


@pytest.mark.parametrize("arch", BLOCKS)
def test_blocks_are_these(arch):
    with torch.device("meta"):
        model = build_model(arch, CLASSES, (0.4,) * 3, (0.2,) * 3)
    assert blocks(model) == BLOCKS[arch]


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet20s", "vgg16_bn", "vgg16_bn_lth"])
def test_blocks_are_in_forward_order_hold_every_parameter_once_and_end_in_the_classifier(arch):
    model = build(arch).eval()
    owned = [f"{name}.{p}" for group in blocks(model) for name in group for p, _ in model.get_submodule(name).named_parameters()]
    assert sorted(owned) == sorted(name for name, _ in model.named_parameters())
    seen = []
    for group in blocks(model):
        model.get_submodule(group[0]).register_forward_hook(lambda *unused, name=group[0]: seen.append(name))
    with torch.no_grad():
        logits = model(torch.rand(1, 3, 32, 32))
    assert seen == [group[0] for group in blocks(model)]
    last = model.get_submodule(blocks(model)[-1][0])
    assert isinstance(last, torch.nn.Linear)
    assert logits.shape[1] == last.out_features == CLASSES


# ------------------------------------------------------------------------------------------------------ CF-k and EU-k


@pytest.fixture(scope="module")
def original():
    """A ResNet-20 whose BatchNorm statistics are not the initial ones."""
    model = build("resnet20s")
    model(torch.rand(64, 3, 8, 8))
    return model


def few():
    return make_data(make_image_set(train=48), count=8)


def changed(model, original):
    """The modules' tensors, buffers included, that are no longer what they were."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, original.state_dict()[name])}


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("make", [FinetuneLastBlocks, RetrainLastBlocks], ids=["CF", "EU"])
def test_exactly_the_last_blocks_change_buffers_included(original, make, k):
    model = run(make(unlearn_epochs=2, k=k), copy.deepcopy(original), few())
    trained = [name for group in BLOCKS["resnet20s"][10 - k :] for name in group]
    assert changed(model, original) == {name for name in original.state_dict() if name.startswith(tuple(f"{t}." for t in trained))}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_with_every_block_cf_is_finetuning_bit_for_bit():
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05}
    ours = run(FinetuneLastBlocks(**fields, k=1), make_model(), make_data())
    assert same(ours, run(FineTune(**fields), make_model(), make_data()))


def test_with_every_block_eu_is_retraining_bit_for_bit():
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05}
    ours = run(RetrainLastBlocks(**fields, k=1), make_model(), make_data())
    assert same(ours, run(Retrain(**fields), make_model(), make_data()))


def test_eu_starts_from_new_blocks_of_its_own_seed_and_cf_from_the_original(original):
    data, names = few(), ["layer3.2", "fc"]
    for make, is_new in ((FinetuneLastBlocks, False), (RetrainLastBlocks, True)):
        model, expected = copy.deepcopy(original), copy.deepcopy(original)
        make(k=1).prepare(model, data, None)
        if is_new:
            redraw(expected, stream(data.seed, "init"), names)
        assert same(model, expected)
        assert same(model, original) == (not is_new)
    other = copy.deepcopy(original)
    RetrainLastBlocks(k=1).prepare(other, make_data(make_image_set(train=48), count=8, seed=4), None)
    assert not torch.equal(other.fc.weight, expected.fc.weight)


def test_redrawing_leaves_the_other_modules_and_the_global_generator_alone(original):
    model, before = copy.deepcopy(original), torch.get_rng_state()
    redraw(model, 1, ["layer3.2", "fc"])
    assert torch.equal(torch.get_rng_state(), before)
    differing = changed(model, original)
    assert all(name.startswith(("layer3.2.", "fc.")) for name in differing)
    assert {"layer3.2.conv1.weight", "layer3.2.bn1.running_mean", "fc.weight", "fc.bias"} <= differing


def test_training_fewer_blocks_needs_no_gradient_before_them(original):
    model, data = copy.deepcopy(original), few()
    method = FinetuneLastBlocks(k=1)
    method.prepare(model, data, None)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"layer3", "fc"}
    model.train()
    next(method.losses(model, data, 0))
    assert not model.layer1[0].bn1.training
    assert model.layer3[2].bn1.training


@pytest.mark.parametrize("make", [FinetuneLastBlocks, RetrainLastBlocks], ids=["CF", "EU"])
def test_a_mask_holds_in_the_trained_blocks_too(original, make):
    model = copy.deepcopy(original)
    mask = random_mask(model)
    run(make(unlearn_epochs=1, k=1), model, few(), mask)
    weight, frozen = model.fc.weight, ~mask["fc.weight"]
    assert torch.equal(weight[frozen], original.fc.weight[frozen])
    assert not torch.equal(weight, original.fc.weight)


@pytest.mark.parametrize("make", [FinetuneLastBlocks, RetrainLastBlocks], ids=["CF", "EU"])
def test_more_blocks_than_there_are_is_refused_with_the_range(original, make):
    model = copy.deepcopy(original)
    make(k=10).prepare(model, few(), None)
    with pytest.raises(UserError, match="--k 11: allowed 0 to 10"):
        make(k=11).prepare(model, few(), None)
