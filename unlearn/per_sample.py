"""Gradients sample by sample, and the sum of their squares without ever holding one row per sample."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from datasets.loaders import Loader
from utils import exact_fp32

Vector = dict[str, Tensor]

# On the CPU, a weight gradient at this many output positions or fewer is faster as one thin matrix product.
FEW_POSITIONS = 16
# Samples whose weight gradients of one layer are formed together: on the CPU one, which stays in its cache; elsewhere
# 50, which are 0.5 GB for ResNet-18's largest layer.
TOGETHER = {"cpu": 1, "cuda": 50, "mps": 50}


def per_sample_gradients(model: nn.Module, samples: Loader) -> Iterator[Vector]:
    """The cross-entropy gradient of each sample in turn, in the mode that the model is in."""
    parameters = dict(model.named_parameters())
    for images, labels in samples.batches_of(1):
        gradient = torch.autograd.grad(F.cross_entropy(model(images), labels), list(parameters.values()))
        yield dict(zip(parameters, gradient, strict=True))


def fisher_diagonal(model: nn.Module, samples: Loader) -> Vector:
    """The diagonal of the empirical Fisher matrix, (1/N) sum_i g_i^2 with g_i the gradient of sample i's cross-entropy.

    fp32, eval mode. One backward pass a batch gives each layer's inputs and output gradients; from these the weight
    gradients of the samples are formed layer by layer, squared, added and dropped (Goodfellow, Efficient per-example
    gradient computations, 2015, for the linear layer). Memory holds one batch's activations, never a row per sample.
    A model with parameters outside of Conv2d, Linear and BatchNorm2d takes one backward pass per sample instead.
    """
    model.eval()
    layers = {name: module for name, module in model.named_modules() if list(module.parameters(recurse=False))}
    squares = {name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in model.named_parameters()}
    with exact_fp32():
        if all(map(_is_known, layers.values())):
            _add_by_layer(model, layers, samples, squares)
        else:
            for gradient in per_sample_gradients(model, samples):
                torch._foreach_addcmul_(list(squares.values()), list(gradient.values()), list(gradient.values()))
    torch._foreach_div_(list(squares.values()), samples.num_samples)
    return squares


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return False
    return type(module) in SQUARES


def _add_by_layer(model: nn.Module, layers: dict[str, nn.Module], samples: Loader, squares: Vector) -> None:
    """Add every sample's squared gradient to ``squares``, from one backward pass a batch."""
    calls: dict[str, tuple[Tensor, int, list[Tensor]]] = {}

    def watch(name: str) -> Callable[..., None]:
        def after_forward(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            assert name not in calls, f"{name} is used twice in one forward pass"
            gradient: list[Tensor] = []
            output.register_hook(gradient.append)  # the output as it is now, also where an in-place ReLU follows
            calls[name] = inputs[0].detach(), inputs[0]._version, gradient

        return after_forward

    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)  # of the pass, only the gradients of outputs are needed
        for images, labels in samples:
            calls.clear()
            images = images.contiguous().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(images), labels, reduction="sum"), images)  # runs the hooks
            for name, (inputs, version, (gradient,)) in calls.items():
                assert inputs._version == version, f"the input of {name} was overwritten"
                prefix = f"{name}." if name else ""
                for parameter, value in SQUARES[type(layers[name])](layers[name], inputs, gradient):
                    squares[prefix + parameter] += value
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


Squares = Iterator[tuple[str, Tensor]]


def _conv_squares(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> Squares:
    total = torch.zeros_like(layer.weight, memory_format=torch.contiguous_format)
    for one in _conv_weight_gradients(layer, inputs, gradient):
        total.addcmul_(one, one)
    yield "weight", total
    if layer.bias is not None:
        yield "bias", gradient.sum((2, 3)).square().sum(0)


def _conv_weight_gradients(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> Iterator[Tensor]:
    """Each sample's weight gradient (out, in / groups, height, width)."""
    on_cpu, shape = inputs.device.type == "cpu", layer.weight.shape
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    if layer.groups > 1 or (on_cpu and gradient[0, 0].numel() > FEW_POSITIONS):
        for x, g in zip(inputs.split(1), gradient.split(1), strict=True):
            yield conv2d_weight(x, shape, g, groups=layer.groups, **geometry)
        return
    together = TOGETHER[inputs.device.type]
    for x, g in zip(inputs.split(together), gradient.split(together), strict=True):
        patches = F.unfold(x, layer.kernel_size, **geometry)  # (b, in * height * width, positions)
        yield from (g.flatten(2) @ patches.transpose(1, 2)).view(-1, *shape)


def _linear_squares(layer: nn.Linear, inputs: Tensor, gradient: Tensor) -> Squares:
    assert inputs.ndim == 2, "a linear layer over positions needs their sum before the square"
    yield "weight", gradient.square().T @ inputs.square()
    if layer.bias is not None:
        yield "bias", gradient.square().sum(0)


def _batch_norm_squares(layer: nn.BatchNorm2d, inputs: Tensor, gradient: Tensor) -> Squares:
    mean, scale = layer.running_mean[:, None, None], torch.rsqrt(layer.running_var + layer.eps)[:, None, None]
    yield "weight", (gradient * ((inputs - mean) * scale)).sum((2, 3)).square().sum(0)
    yield "bias", gradient.sum((2, 3)).square().sum(0)


# How a layer's parameters get the sum over samples of their squared gradients, from its inputs and output gradients.
SQUARES = {nn.Conv2d: _conv_squares, nn.Linear: _linear_squares, nn.BatchNorm2d: _batch_norm_squares}
