"""NoT, CT, MSG and CFW: what each does to the convolutions, and that the rest is fine-tuning."""

import copy
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from helpers import (
    check_resume,
    make_data,
    make_model,
    per_sample_gradients,
    random_mask,
    run,
    same,
    whole,
)
from torch import nn

from unlearn import METHODS
from unlearn.finetune import FineTune
from unlearn.negation import negate_first
from unlearn.small_gradients import MaskedSmallGradients
from unlearn.transposition import transpose_kernels
from utils import UserError

NAMES = ("not", "ct", "msg", "cfw")


class Kernels(nn.Module):
    """Kernels of several sizes, on images (n, 3, 8, 8)."""

    def __init__(self, *sizes, width=3):
        super().__init__()
        layers = [nn.Conv2d(3, width, sizes[0], padding="same")]
        layers += [nn.Conv2d(width, width, size, padding="same") for size in sizes[1:]]
        self.layers = nn.Sequential(*layers)

    def forward(self, images):
        return self.layers(images)


class Classifier(Kernels):
    """The same, with logits of pooled channels."""

    def forward(self, images):
        return super().forward(images).mean((2, 3))


def prepared(method, model, mask=None, **data):
    """The model as ``prepare`` leaves it, before any update."""
    method.prepare(model, make_data(**data), mask)
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_resumed_run_equals_the_uninterrupted_one(name, masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: METHODS[name](unlearn_epochs=3), mask)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_convolutions_is_refused(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with pytest.raises(UserError, match=f"{METHODS[name].label} changes convolutions"):
        METHODS[name]().prepare(model, make_data(), None)


@pytest.mark.parametrize("name", ["not", "ct", "cfw"])
def test_after_the_disturbance_it_is_fine_tuning(name):
    """From the disturbed weights FT ends where the method does, bit for bit."""
    method = METHODS[name](unlearn_epochs=2, unlearn_lr=0.01)
    method.last_noise = 0.0
    expected = prepared(copy.copy(method), make_model())
    run(FineTune(unlearn_epochs=2, unlearn_lr=0.01), expected, make_data())
    assert same(run(method, make_model(), make_data()), expected)


# ---------------------------------------------------------------------------------------------- NoT


def test_not_negates_the_first_convolution_alone_and_twice_is_the_identity():
    model, original = make_model(), make_model()
    negate_first(model)
    torch.testing.assert_close(model.conv.weight, original.conv.weight * -1, rtol=0, atol=0)
    assert torch.equal(model.conv.bias, original.conv.bias)
    assert torch.equal(model.fc.weight, original.fc.weight)
    negate_first(model)
    assert same(model, original)
    deep = Kernels(3, 3)
    second = deep.layers[1].weight.detach().clone()
    negate_first(deep)
    assert torch.equal(deep.layers[1].weight, second)


# ----------------------------------------------------------------------------------------------- CT


def test_a_transposed_network_sees_transposed_images():
    """conv(x^T, w^T) = conv(x, w)^T, layer by layer: mathematics that knows no code of ours."""
    torch.manual_seed(0)
    model, images = Kernels(3, 1, 5), torch.rand(2, 3, 8, 8)
    before, one_by_one = model(images), model.layers[1].weight.detach().clone()
    transpose_kernels(model)
    torch.testing.assert_close(model(images.mT), before.mT)
    assert not torch.allclose(model(images), before)
    assert torch.equal(model.layers[1].weight, one_by_one)


def test_ct_twice_is_the_identity():
    model, original = make_model(), make_model()
    transpose_kernels(model)
    assert not same(model, original)
    transpose_kernels(model)
    assert same(model, original)


def test_ct_counts_kernels_that_are_not_square_and_refuses_a_model_without_any_to_swap(capsys):
    model = Kernels((3, 1), 3, (1, 5))
    left = [model.layers[i].weight.detach().clone() for i in (0, 2)]
    transpose_kernels(model)
    assert all(torch.equal(model.layers[i].weight, left[i // 2]) for i in (0, 2))
    assert "leaves 2 kernels that are not square as they are, first layers.0" in (
        capsys.readouterr().err
    )
    with pytest.raises(UserError, match="larger than 1x1"):
        transpose_kernels(Kernels(1, 1))


# ---------------------------------------------------------------------------------------------- MSG

HALF = {"count": 72}  # of 144 training images: as many retain as forget images, so R' is R


def smallest_by_hand(model, share):
    """Indices of the ``share`` of conv.weight with the smallest |grad CE(R) - grad CE(F)|."""
    data = make_data(**HALF)
    assert data.retain.num_samples == data.forget.num_samples
    of_retain, of_forget = (
        per_sample_gradients(model, *whole(split.eval_view())).mean(0)
        for split in (data.retain, data.forget)
    )
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    size = (of_retain - of_forget).abs().split(sizes)[names.index("conv.weight")].numpy()
    return np.argsort(size, kind="stable")[: round(share * len(size))]


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_msg_draws_the_weights_with_the_smallest_gradients_anew_and_no_others(share):
    original = make_model()
    chosen = smallest_by_hand(make_model(), share)
    model = prepared(MaskedSmallGradients(redrawn=share), make_model(), **HALF)
    changed = (model.conv.weight != original.conv.weight).flatten().nonzero().flatten().numpy()
    assert sorted(changed) == sorted(chosen)
    assert len(chosen) == round(share * 6 * 3 * 9)
    for (name, ours), theirs in zip(model.named_parameters(), original.parameters(), strict=True):
        assert name == "conv.weight" or torch.equal(ours, theirs)


def test_msg_draws_from_he_s_normal_distribution():
    model = Classifier(3, 3, width=40)
    prepared(MaskedSmallGradients(redrawn=1.0), model)
    for layer in model.layers:
        drawn = layer.weight.detach().flatten().numpy()
        fan_out = layer.out_channels * 9
        assert scipy.stats.kstest(drawn * math.sqrt(fan_out / 2), "norm").pvalue > 1e-3


def test_msg_slows_the_other_convolution_weights_and_climbs_to_the_middle_epoch():
    """Against a plain loop of SGD, with a tenth of the gradient where nothing was drawn."""
    method = MaskedSmallGradients(unlearn_lr=0.02)
    rates = [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]
    chosen = torch.zeros(6 * 3 * 9, dtype=torch.bool)
    chosen[torch.from_numpy(smallest_by_hand(make_model(), 0.3).copy())] = True
    plain = prepared(MaskedSmallGradients(), make_model(), **HALF).train()
    optimizer = torch.optim.SGD(plain.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    loader = make_data(**HALF).retain
    for epoch, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = 0.02 * rate
        loader.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(plain(images), labels).backward()
            plain.conv.weight.grad[~chosen.view(6, 3, 3, 3)] *= 0.1
            optimizer.step()
    ours = run(method, make_model(), make_data(**HALF))
    start = prepared(MaskedSmallGradients(), make_model(), **HALF)
    for a, b, c in zip(ours.parameters(), plain.parameters(), start.parameters(), strict=True):
        assert (a - b).norm() <= 1e-5 * (b - c).norm()


# ---------------------------------------------------------------------------------------------- CFW


@pytest.mark.parametrize("where", ["stem", "all"])
def test_cfw_adds_normal_noise_to_the_first_convolution_or_to_all(where):
    model = Kernels(3, 3, width=40)
    original = copy.deepcopy(model)
    prepared(METHODS["cfw"](where=where), model)
    for number, (ours, theirs) in enumerate(zip(model.layers, original.layers, strict=True)):
        noise = (ours.weight - theirs.weight).detach().flatten().numpy()
        if number and where == "stem":
            assert not noise.any()
        else:
            assert scipy.stats.kstest(noise / 0.6, "norm").pvalue > 1e-3
        assert torch.equal(ours.bias, theirs.bias)


def test_cfw_adds_the_last_noise_once_before_the_last_epoch():
    def looks(last_noise):
        """The first convolution after every epoch of a run that learns nothing."""
        method = METHODS["cfw"](unlearn_epochs=3, unlearn_lr=0.0, last_noise=last_noise)
        model, found = make_model(), []
        run(
            method,
            model,
            make_data(),
            after_epoch=lambda *_: found.append(model.conv.weight.detach().clone()),
        )
        return found

    plain, noisy = looks(0.0), looks(0.005)
    assert torch.equal(plain[0], noisy[0])
    assert torch.equal(plain[1], noisy[1])
    noise = (noisy[2] - plain[2]).flatten().numpy()
    assert scipy.stats.kstest(noise / 0.005, "norm").pvalue > 1e-3


def test_cfw_never_shows_a_forward_pass_noise_on_frozen_weights():
    mask, original = random_mask(make_model()), make_model()
    model, method = make_model(), METHODS["cfw"](unlearn_epochs=2)
    data = make_data()
    method.prepare(model, data, mask)
    data.set_epoch(1)
    next(method.losses(model, data, 1))
    frozen = ~mask["conv.weight"]
    assert torch.equal(model.conv.weight[frozen], original.conv.weight[frozen])
    assert not torch.equal(model.conv.weight, original.conv.weight)


@pytest.mark.parametrize("fields", [{"redrawn": 0.0}, {"redrawn": 1.1}, {"slowed": -0.1}], ids=str)
def test_msg_refuses_what_is_no_share(fields):
    with pytest.raises(UserError, match="--redrawn"):
        MaskedSmallGradients(**fields)


@pytest.mark.parametrize("fields", [{"noise": -1.0}, {"last_noise": -0.1}], ids=str)
def test_cfw_refuses_a_negative_deviation(fields):
    with pytest.raises(UserError, match="at least 0"):
        METHODS["cfw"](**fields)
