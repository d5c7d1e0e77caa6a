"""What methods ask of an architecture: blocks, classifier, first convolution, weights of layers."""

import copy

import pytest
import torch
from torch import nn

from models import MODELS, blocks, parameters_of, part, skeleton
from models.structure import (
    LAYERS,
    classifier,
    first_convolution,
    kernels,
    linear_classifier,
)
from recipe import decay_groups, make_optimizer
from unlearn.pruning import prunable
from utils import UserError

# torchvision's families, the smallest of each, and the side of their images.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 64,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vit_b_32": 32,
    "wide_resnet50_2": 32,
}
SIDES = dict.fromkeys(MODELS, 32) | {f"torchvision:{name}": FAMILIES[name] for name in FAMILIES}


def layers_and_parameters(model):
    modules = {n for n, m in model.named_modules() if any(True for _ in m.parameters())}
    return modules | {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("arch", SIDES)
def test_blocks_are_used_in_their_order_and_hold_every_parameter_once(arch):
    model = skeleton(arch, 5, SIDES[arch]).eval()
    groups = blocks(model)
    layers = sum(isinstance(layer, LAYERS) for layer in model.modules())
    assert len(groups) >= min(6, layers)
    owned = [name for group in groups for each in group for name in parameters_of(model, [each])]
    assert sorted(owned) == sorted(name for name, _ in model.named_parameters())
    names = [name for group in groups for name in group]
    modules = [name for name in names if isinstance(part(model, name), nn.Module)]
    seen = []
    for name in modules:
        part(model, name).register_forward_hook(lambda *unused, name=name: seen.append(name))
    images = torch.rand(2, 3, SIDES[arch], SIDES[arch], device="meta")
    logits = model(images)
    assert seen == modules
    head = classifier(model)
    assert head.name in groups[-1]
    assert logits.shape == (2, 5) == (2, len(head.layer.weight))
    assert first_convolution(model).layer.in_channels == 3
    assert first_convolution(model).name in parameters_first(groups, model)


def parameters_first(groups, model):
    """The modules with parameters in the first block."""
    inside = parameters_of(model, groups[0])
    return {name.rpartition(".")[0] for name in inside}


def test_blocks_of_a_transformer_are_its_layers_with_tokens_and_positions_in_the_first():
    groups = blocks(skeleton("vit_tiny", 5, 32))
    layers = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    assert groups[0] == ["conv_proj", "encoder.pos_embedding", "class_token"]
    assert groups[1:] == [
        *([name] for name in layers[:-1]),
        [layers[-1], "encoder.ln"],
        ["heads.head"],
    ]


def test_a_stack_inside_a_wrapper_is_taken_apart_and_a_block_is_not():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.backbone = MODELS["resnet20s"](4)
            self.head = nn.Linear(4, 2)

    groups = blocks(Wrapper())
    assert groups[0] == ["backbone.conv1", "backbone.bn1", "scale"]
    assert groups[1:3] == [["backbone.layer1.0"], ["backbone.layer1.1"]]
    assert groups[-2:] == [["backbone.fc"], ["head"]]


def test_a_classifier_that_is_a_convolution_is_found_and_refused_where_a_linear_one_is_needed():
    model = skeleton("torchvision:squeezenet1_1", 5, 64)
    assert classifier(model).name == "classifier.1"
    with pytest.raises(
        UserError, match=r"classifier\.1, is a Conv2d and not a linear layer, so no"
    ):
        linear_classifier(model, "so no")
    with pytest.raises(UserError, match="no linear layer and no convolution"):
        classifier(nn.Sequential(nn.LayerNorm(3)))


def test_weights_of_layers_leave_out_norms_biases_tokens_and_positions():
    for arch in ("vit_tiny", "swin_t", "convnext_t"):
        model = skeleton(arch, 5, 32)
        left = {name for name, _ in model.named_parameters()} - kernels(model).keys()
        of_norms = {
            f"{name}.{p}"
            for name, m in model.named_modules()
            if isinstance(m, nn.LayerNorm)
            for p in ("weight", "bias")
        }
        assert of_norms < left
        rest = left - of_norms
        tails = ("bias", "class_token", "pos_embedding", "bias_table", "layer_scale")
        assert all(name.endswith(tails) for name in rest)
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in kernels(
        skeleton("vit_tiny", 5, 32)
    )


@pytest.mark.parametrize("arch", MODELS)
def test_pruning_reaches_most_weights_and_never_the_classifier_of_what_is_no_convolutional_network(
    arch, capsys
):
    model = skeleton(arch, 5, 32)
    found = prunable(model)
    total = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in found.values()) > 0.9 * total
    convolutions = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    said = capsys.readouterr().out
    if any(isinstance(m, nn.LayerNorm) for m in model.modules()):
        assert f"all {len(found)} convolutions, linear and attention layers" in said
        assert f"{classifier(model).name}.weight" not in found
        assert len(found) > len(convolutions)
    else:
        assert not said
        assert {id(p) for p in found.values()} == {id(p) for p in convolutions}


def test_pruning_refuses_a_network_of_a_classifier_alone():
    with pytest.raises(UserError, match="before its classifier; take a method"):
        prunable(nn.Sequential(nn.Linear(3, 2)))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_decay_of_weights_spares_the_rest_and_of_all_is_as_ever(kind):
    """A step of no gradient moves what decays, and nothing else."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    beside = nn.Linear(2, 1)
    for decay, wanted in (("weights", {"0.weight", "3.weight"}), ("all", None)):
        after = copy.deepcopy(model)
        extra = list(copy.deepcopy(beside).parameters())
        optimizer = make_optimizer(decay_groups(after, extra, decay), 0.1, 0.9, 0.5, kind)
        for parameter in [*after.parameters(), *extra]:
            parameter.data.fill_(1)
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        moved = {name for name, p in after.named_parameters() if not bool((p == 1).all())}
        assert moved == (wanted or {name for name, _ in model.named_parameters()})
        assert not any(bool((p == 1).all()) for p in extra)
