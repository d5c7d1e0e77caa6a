"""Sums of squared per-sample gradients against torch.func and against one backward pass per
sample.
"""

import pytest
import torch
from helpers import CPU, TinyNet, make_data, make_image_set, whole
from helpers import per_sample_gradients as dense_gradients
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from models import MIN_SIZE, MODELS, build_model
from models.vgg import VGG
from unlearn.tools import per_sample
from unlearn.tools.per_sample import (
    fisher_diagonal,
    mean_gradient_sizes,
    per_sample_gradients,
    samples_at_once,
    true_fisher_diagonal,
)
from utils import RunFailed


def by_loop(
    model,
    samples,
    parts=lambda logits, label: [(1.0, nn.functional.cross_entropy(logits, label))],
    power=2,
):
    """(1/N) sum_i sum_k w_ik |g_ik|^power, one backward pass per sample and (weight, loss) in
    fp64.
    """
    wide = model.double()
    samples = [(images.double(), labels) for images, labels in samples.batches_of(1)]
    total = {name: torch.zeros_like(p) for name, p in wide.named_parameters()}
    for images, labels in samples:
        for weight, loss in parts(wide(images), labels):
            wide.zero_grad()
            loss.backward(retain_graph=True)
            for name, p in wide.named_parameters():
                total[name] += weight * p.grad.abs() ** power / len(samples)
    wide.zero_grad(set_to_none=True)
    model.float()
    return total


def each_label(logits, label):
    """The parts of the true Fisher diagonal: every label's loss, weighed by its probability."""
    p = logits.softmax(1)[0]
    return [(p[y].item(), -p[y].log()) for y in range(len(p))]


def squared_length(logits, label):
    return [(1.0, logits.square().sum())]


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].shape == wanted[name].shape
        error = (found[name].double() - wanted[name]).norm() / wanted[name].norm().clamp_min(1e-30)
        assert error < 2e-3, f"{name}: {error}"


@pytest.fixture(params=["on the CPU", "as elsewhere"])
def either_way(request, monkeypatch):
    """Both forms of a convolution's weight gradient, whatever device the tests run on."""
    if request.param == "as elsewhere":
        monkeypatch.setattr(per_sample, "FEW_POSITIONS", 10**9)
        monkeypatch.setitem(per_sample.TOGETHER, "cpu", 3)
    else:
        monkeypatch.setattr(per_sample, "FEW_POSITIONS", 0)


@pytest.mark.parametrize("arch", MODELS)
def test_fisher_diagonal_equals_the_loop_for_every_architecture(arch, either_way):
    side = max(8, MIN_SIZE.get(arch, 1))
    samples = make_data(make_image_set(side=side), batch_size=3, count=4).forget.eval_view()
    torch.manual_seed(0)
    model = build_model(arch, 4, (0.4,) * 3, (0.2,) * 3, image_size=side).eval()
    assert_same(fisher_diagonal(model, samples), by_loop(model, samples))


def residual():
    """ResNet's two kinds of block, narrow: in-place ReLUs, strides, convolutions on
    the shortcut.
    """
    down = nn.Sequential(nn.Conv2d(8, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
    widen = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8))
    blocks = [
        Bottleneck(4, 2, downsample=widen),
        BasicBlock(8, 8, stride=2, downsample=down),
        BasicBlock(8, 8),
    ]
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def vgg():
    """VGG's layers, narrow: biased convolutions, pools, a classifier of two layers."""
    layers = []
    for channels_in, channels in ((3, 4), (4, 6)):
        layers += [
            nn.Conv2d(channels_in, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
    return VGG(
        nn.Sequential(*layers),
        2,
        nn.Sequential(nn.Linear(24, 5), nn.ReLU(inplace=True), nn.Linear(5, 4)),
    )


@pytest.fixture(params=[residual, vgg])
def narrow(request):
    """A narrow network of each family, with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = request.param().train()
    model(torch.rand(16, 3, 8, 8))
    return model.eval()


def test_other_losses_and_sizes_equal_the_loop(narrow, data, either_way):
    samples = data.forget.eval_view().batches_of(5)
    assert_same(fisher_diagonal(narrow, samples), by_loop(narrow, samples))
    assert_same(true_fisher_diagonal(narrow, samples), by_loop(narrow, samples, each_label))
    found = mean_gradient_sizes(
        narrow, samples, lambda logits, labels: [logits.square().sum()], torch.abs
    )
    assert_same(found, by_loop(narrow, samples, squared_length, power=1))


def test_fisher_diagonal_equals_torch_func(model, data):
    samples = data.forget.eval_view()
    wanted = dense_gradients(model, *whole(samples)).square().mean(0)
    found = torch.cat([value.reshape(-1) for value in fisher_diagonal(model, samples).values()])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9)


def test_batches_do_not_matter_and_the_model_is_left_as_it_was(model, data):
    samples = data.forget.eval_view()
    frozen = dict(model.named_parameters())["bn.bias"].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole_batch, singles = (
        fisher_diagonal(model, samples),
        fisher_diagonal(model, samples.batches_of(1)),
    )
    for name in whole_batch:
        torch.testing.assert_close(whole_batch[name], singles[name], rtol=1e-4, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["bn.bias"]
    assert not frozen.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


class Grouped(nn.Module):
    """Groups, stride, dilation, biases, a kernel that is not square, and an in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, (3, 2), stride=2, padding=1, dilation=(1, 2)),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 4, 3, groups=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.LazyLinear(4),
        )

    def forward(self, images):
        return self.net(images)


class Odd(Grouped):
    """A parameter that belongs to no known layer, and padding that is not zeros."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.net[0].padding_mode = "reflect"

    def forward(self, images):
        return self.net(images) * self.scale


@pytest.mark.parametrize("kind", [Grouped, Odd])
def test_fisher_diagonal_of_unusual_layers(kind, data, either_way):
    torch.manual_seed(0)
    model = kind().to(CPU).eval()
    model(torch.rand(2, 3, 8, 8))  # gives the lazy layer its shape
    samples = data.forget.eval_view()
    assert_same(fisher_diagonal(model, samples), by_loop(model, samples))
    assert_same(true_fisher_diagonal(model, samples), by_loop(model, samples, each_label))


def test_a_layer_that_is_used_twice_is_refused(data):
    layer = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(layer, layer, nn.Flatten(), nn.Linear(3 * 64, 4)).eval()
    with pytest.raises(AssertionError, match="used twice"):
        fisher_diagonal(model, data.forget.eval_view())


@pytest.mark.parametrize("kind", [TinyNet, Odd])
def test_a_gradient_that_is_not_finite_is_reported(kind, data):
    model = kind().eval()
    model(torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(RunFailed, match="not finite"):
        fisher_diagonal(model, data.forget.eval_view())


@pytest.mark.parametrize(("side", "wanted"), [(32, 64), (8, 1024), (50, 26), (300, 1)])
def test_large_images_come_in_small_batches(side, wanted):
    samples = make_data(make_image_set(train=8, test=4, side=side), count=2).retain
    assert samples_at_once(samples) == wanted


def test_per_sample_gradients_average_to_the_gradient_of_the_mean(model, data):
    model.eval()
    samples = data.forget.eval_view()
    mean = dense_gradients(model, *whole(samples)).mean(0)
    rows = [
        torch.cat([value.reshape(-1) for value in row.values()])
        for row in per_sample_gradients(model, samples)
    ]
    torch.testing.assert_close(torch.stack(rows).mean(0), mean, rtol=1e-4, atol=1e-7)
