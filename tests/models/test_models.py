"""Every architecture: the reference's parameter names, that all of it learns, and one
initialisation for all.
"""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models as tv

from models import IMAGENET_STEMS, MIN_SIZE, MODELS, build_model, check_arch, initialise
from models.normalize import normalised
from models.small_resnet import Block
from utils import UserError

REFERENCE = json.loads(
    Path(__file__).parents[1].joinpath("data").joinpath("state_dict_keys.json").read_text()
)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def build(arch, classes=10, *, seed=0, device="cpu", **options):
    torch.manual_seed(seed)
    with torch.device(device):
        return build_model(arch, classes, MEAN, STD, **options)


def shapes(model):
    return {name: list(value.shape) for name, value in model.state_dict().items()}


# -------------------------------------------------------------------------------------------- shape


@pytest.mark.parametrize("entry", REFERENCE)
def test_names_shapes_and_parameter_count_are_the_references(entry):
    """Checkpoints of the reference load here and ours load there."""
    arch, *rest = entry.split()
    model = build(
        arch,
        1000 if "1000" in rest else 10,
        device="meta",
        imagenet_stem="--imagenet_arch," in rest,
    )
    assert shapes(model) == REFERENCE[entry]["keys"]
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == REFERENCE[entry]["parameters"]
    )


# torchvision's parameter counts for 1,000 classes, and DeiT's for its two (table 1: 5M and 22M).
TORCHVISIONS = {"swin_t": ("swin_t", 28_288_354), "convnext_t": ("convnext_tiny", 28_589_128)}
PUBLISHED = {name: count for name, (_, count) in TORCHVISIONS.items()}
PUBLISHED |= {"vit_tiny": 5_717_416, "vit_small": 22_050_664}


@pytest.mark.parametrize("arch", PUBLISHED)
def test_at_224_pixels_a_network_has_the_published_number_of_parameters(arch):
    model = build(arch, 1000, device="meta", image_size=224)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[arch]


@pytest.mark.parametrize("arch", TORCHVISIONS)
def test_at_224_pixels_a_network_is_torchvisions_behind_the_normalisation(arch):
    """So that torchvision's files of weights load."""
    model = build(arch, 5, image_size=224).eval()
    theirs = getattr(tv, TORCHVISIONS[arch][0])(num_classes=5).eval()
    ours = {k: v for k, v in model.state_dict().items() if not k.startswith("normalize.")}
    theirs.load_state_dict(ours, strict=True)
    images = torch.rand(1, 3, 224, 224)
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        assert torch.equal(model(images), theirs(normalised))


@pytest.mark.parametrize(
    ("arch", "side", "positions"),
    [
        ("vit_tiny", 8, 2 * 2 + 1),
        ("vit_tiny", 28, 7 * 7 + 1),
        ("vit_small", 32, 8 * 8 + 1),
        ("vit_small", 64, 8 * 8 + 1),
        ("vit_tiny", 224, 14 * 14 + 1),
    ],
)
def test_patches_of_a_vit_fit_the_image(arch, side, positions):
    model = build(arch, device="meta", image_size=side)
    assert model.encoder.pos_embedding.shape[1] == positions
    assert model(torch.rand(2, 3, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("arch", ["swin_t", "convnext_t"])
@pytest.mark.parametrize(
    ("side", "sides"),
    [(32, [16, 8, 4, 2]), (64, [16, 8, 4, 2]), (224, [56, 28, 14, 7])],
)
def test_the_stages_of_a_pyramid_halve_what_the_stem_leaves(arch, side, sides):
    model, seen = build(arch, device="meta", image_size=side), []
    at = 1 if arch == "swin_t" else 2  # (n, h, w, c) or (n, c, h, w)
    for stage in (1, 3, 5, 7):
        model.features[stage].register_forward_hook(
            lambda module, given, out: seen.append(out.shape[at])
        )
    assert model(torch.rand(2, 3, side, side, device="meta")).shape == (2, 10)
    assert seen == sides


@pytest.mark.parametrize(("arch", "side"), [("vit_tiny", 30), ("vit_small", 100), ("swin_t", 31)])
def test_images_that_patches_do_not_cover_are_refused_before_a_model_is_built(arch, side):
    with pytest.raises(UserError, match=rf"--arch {arch} .* {side} is no multiple .*--input_size"):
        check_arch(arch, side, imagenet_stem=False)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_with_the_imagenet_stem_a_resnet_is_torchvisions_behind_the_normalisation(arch):
    model = build(arch, 20, imagenet_stem=True).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    with torch.device("meta"):
        theirs = getattr(tv, arch)(num_classes=20).eval()
    theirs = theirs.to_empty(device="cpu")
    theirs.load_state_dict(
        {
            name: value
            for name, value in model.state_dict().items()
            if not name.startswith("normalize.")
        }
    )
    images = torch.rand(1, 3, 32, 32)
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        assert torch.equal(model(images), theirs(normalised))


@pytest.mark.parametrize("arch", IMAGENET_STEMS)
def test_the_cifar_stem_differs_from_torchvisions_in_stem_and_head_only(arch):
    ours = shapes(build(arch, 10, device="meta"))
    with torch.device("meta"):
        theirs = shapes(getattr(tv, arch)(num_classes=10))
    assert set(ours) - set(theirs) == {"normalize.mean", "normalize.std"}
    assert {name for name in theirs if theirs[name] != ours[name]} == {"conv1.weight"}
    assert ours["conv1.weight"] == [64, 3, 3, 3]


@pytest.mark.parametrize(
    ("imagenet_stem", "sides"), [(False, [32, 16, 8, 4]), (True, [8, 4, 2, 1])]
)
def test_the_cifar_stem_keeps_the_resolution_of_the_image(imagenet_stem, sides):
    model, seen = build("resnet18", device="meta", imagenet_stem=imagenet_stem), []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, given, out: seen.append(out.shape[-1]))
    model(torch.rand(2, 3, 32, 32, device="meta"))
    assert seen == sides


def test_vgg_features_are_torchvisions_without_the_last_pool():
    model = build("vgg16_bn_lth").eval()
    with torch.device("meta"):
        theirs = tv.vgg16_bn().features[:-1].eval()
    theirs = theirs.to_empty(device="cpu")
    theirs.load_state_dict(model.features.state_dict())
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.features(images), theirs(images))


# ------------------------------------------------------------------------------------------ forward


@pytest.fixture(scope="module", params=MODELS)
def built(request):
    """Each architecture once, with 7 classes."""
    return build(request.param, 7)


def test_logits_are_finite_and_the_gradient_reaches_every_parameter(built):
    model = built.train()
    torch.manual_seed(1)
    logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 6])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_first_convolution_sees_normalised_pixels(built):
    model, seen = built.eval(), []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        model(torch.cat([mean, mean + std, mean - 2 * std]).expand(3, 3, 32, 32))
    hook.remove()
    assert torch.equal(seen[0][0], torch.zeros(3, 32, 32))
    torch.testing.assert_close(seen[0][1], torch.ones(3, 32, 32))
    torch.testing.assert_close(seen[0][2], torch.full((3, 32, 32), -2.0))


class Bare(nn.Module):
    """A network without normalisation, as users have them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.conv(images).mean((2, 3))


class Doubled(nn.Sequential):
    """A container with a forward pass of its own."""

    def forward(self, images):
        return 2 * super().forward(images)


@pytest.mark.parametrize("make", [Bare, lambda: Doubled(nn.Conv2d(3, 4, 3)), *MODELS.values()])
def test_evaluation_and_copies_normalise_as_a_call_does(make):
    """Evaluation calls ``forward``, which no hook of the model runs for."""
    torch.manual_seed(0)
    model = normalised(make() if make not in MODELS.values() else make(4)).eval()
    model.normalize.mean.fill_(0.5)
    model.normalize.std.fill_(0.1)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        called, copied = model(images), copy.deepcopy(model)
        assert torch.equal(model.forward(images), called)
        copied.normalize.mean.zero_()
        assert not torch.equal(copied(images), called)
        assert torch.equal(model(images), called)
        model.normalize.mean.zero_()
        assert torch.equal(model(images), copied(images))


@pytest.mark.parametrize("arch", MODELS)
def test_the_statistics_travel_in_the_checkpoint_and_are_not_learnt(arch):
    model = build(arch, device="meta")
    assert {"normalize.mean", "normalize.std"} <= set(model.state_dict())
    assert not any(name.startswith("normalize") for name, _ in model.named_parameters())


@pytest.mark.parametrize("arch", MODELS)
def test_the_smallest_image_that_is_allowed_works(arch):
    side = MIN_SIZE.get(arch, 8)
    model = build(arch, device="meta", image_size=side)
    assert model(torch.rand(2, 3, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("channels_in", "channels", "side"), [(16, 32, 8), (32, 64, 8), (16, 32, 7)]
)
def test_the_shortcut_of_a_small_resnet_takes_every_second_pixel_and_pads_channels_by_zeros(
    channels_in, channels, side
):
    """Option A of He et al.: with the second convolution silenced, the block is ReLU of its
    shortcut.
    """
    torch.manual_seed(0)
    block = Block(channels_in, channels, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, channels_in, side, side)
    wanted = torch.zeros(2, channels, math.ceil(side / 2), math.ceil(side / 2))
    before = (channels - channels_in) // 2
    for channel in range(channels_in):
        for row in range(0, side, 2):
            for column in range(0, side, 2):
                wanted[:, before + channel, row // 2, column // 2] = x[
                    :, channel, row, column
                ].clamp(min=0)
    with torch.no_grad():
        assert torch.equal(block(x), wanted)


def test_a_block_that_keeps_its_shape_adds_its_input():
    torch.manual_seed(0)
    block = Block(16, 16, 1).eval()
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
        assert torch.equal(block(x), torch.relu(inner + x))


# ----------------------------------------------------------------------------------- initialisation


def disturbed(model):
    """The model as if it had been trained: no weight and no BatchNorm statistic where it was."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not name.startswith("normalize."):
                value.add_(3)
    return model


@pytest.mark.parametrize("arch", ["resnet18", "resnet20s", "vgg16_bn", "vgg16_bn_lth"])
def test_initialising_a_trained_model_is_building_it_anew(arch):
    """So that Retrain starts where a training run of that seed would start."""
    fresh = build(arch, seed=5)
    again = disturbed(fresh)
    assert not any(
        torch.equal(value, again.state_dict()[name])
        for name, value in fresh.state_dict().items()
        if "normalize" not in name
    )
    torch.manual_seed(5)
    initialise(again)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_seed_decides_every_weight():
    one, same, other = (build("resnet20s", seed=seed) for seed in (5, 5, 6))
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    drawn = [
        f"{name}.weight"
        for name, module in one.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    for name in drawn:
        assert not torch.equal(one.state_dict()[name], other.state_dict()[name]), name


@pytest.mark.parametrize("arch", ["resnet20s", "vgg16_bn_lth"])
def test_weights_are_drawn_as_documented(arch):
    for name, module in build(arch).named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            count = module.weight.numel()
            # the standard deviation of a sample's standard deviation is sigma / sqrt(2 n), of its
            # mean sigma / sqrt(n)
            sigma = math.sqrt(2 / fan_out)
            assert abs(module.weight.std().item() - sigma) < 5 * sigma / math.sqrt(2 * count), name
            assert abs(module.weight.mean().item()) < 5 * sigma / math.sqrt(count), name
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
        elif isinstance(module, nn.BatchNorm2d):
            values = (
                module.weight,
                module.bias,
                module.running_mean,
                module.running_var,
                module.num_batches_tracked,
            )
            assert [value.unique().tolist() for value in values] == [[1], [0], [0], [1], [0]], name


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("arch", ["vgg16_bn", "vgg16_bn_lth"])
@pytest.mark.parametrize("side", [8, 15])
def test_vgg_refuses_images_that_its_pools_would_make_vanish(arch, side):
    with pytest.raises(UserError, match=rf"{arch} .*at least 16 .*got {side};.*--input_size"):
        build(arch, device="meta", image_size=side)


@pytest.mark.parametrize("arch", sorted(set(MODELS) - set(IMAGENET_STEMS)))
def test_an_architecture_without_imagenet_stem_refuses_it(arch):
    """The reference crashes on these."""
    with pytest.raises(UserError, match=rf"--imagenet_arch: {arch} .*resnet18, resnet34, resnet50"):
        build(arch, device="meta", imagenet_stem=True)
