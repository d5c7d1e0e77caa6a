"""Gradients sample by sample, and sums of their squares without a row per sample."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from tqdm import tqdm

from datasets.loaders import Loader
from runtime import distributed
from runtime.devices import exact_fp32
from utils import RunFailed

Vector = dict[str, Tensor]
# Logits (b, k) and labels (b,) to scalars, each a sum over the samples.
Losses = Callable[[Tensor, Tensor], Sequence[Tensor]]
# torch.square or torch.abs: the size of a product is the product of its factors' sizes.
Size = Callable[[Tensor], Tensor]
# Up to so many output positions a weight gradient on the CPU is faster as one matrix product.
FEW_POSITIONS = 16
# Samples whose weight gradients of a layer are formed together: one stays in a CPU's cache; 50 are
# 0.5 GB for ResNet-18's largest layer.
TOGETHER = {"cpu": 1, "cuda": 50, "mps": 50}


def per_sample_gradients(model: nn.Module, samples: Loader) -> Iterator[Vector]:
    """The cross-entropy gradient of each sample in turn, in the mode that the model is in."""
    parameters = dict(model.named_parameters())
    for images, labels in samples.batches_of(1):
        loss = F.cross_entropy(model(images), labels)
        gradient = torch.autograd.grad(loss, list(parameters.values()))
        yield dict(zip(parameters, gradient, strict=True))


def own_label(logits: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """The loss of the empirical Fisher matrix: the cross-entropy of each sample's own label."""
    return [F.cross_entropy(logits, labels, reduction="sum")]


def every_label(logits: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """The losses of the true Fisher matrix: -log p(y|x) sqrt(p(y|x)), the root held constant."""
    log_p = logits.log_softmax(1)
    return (-log_p * (log_p.detach() / 2).exp()).sum(0).unbind()


def fisher_diagonal(model: nn.Module, samples: Loader) -> Vector:
    """The diagonal of the empirical Fisher matrix, (1/N) sum_i g_i^2 over samples' gradients."""
    return mean_gradient_sizes(model, samples, own_label)


def true_fisher_diagonal(model: nn.Module, samples: Loader) -> Vector:
    """The diagonal of the Fisher matrix, (1/N) sum_i sum_y p(y|x_i) (gradient of -log p(y|x_i))^2:
    no label is read.

    One backward pass per class and batch.
    """
    return mean_gradient_sizes(model, samples, every_label)


def mean_gradient_sizes(
    model: nn.Module, samples: Loader, losses: Losses, size: Size = torch.square
) -> Vector:
    """(1/N) sum_i sum_k size(gradient of sample i's part of loss k), in the shapes of the
    parameters.

    fp32, eval mode. One backward pass a batch and loss gives each layer's inputs and output
    gradients; from these the weight gradients of the samples are formed layer by layer, measured,
    added and dropped (Goodfellow, Efficient per-example gradient computations, 2015, for the linear
    layer). Memory holds one batch's activations, never a row per sample. A model with parameters
    outside of Conv2d, Linear and BatchNorm2d takes one backward pass per sample.

    Raises:
        RunFailed: a gradient was not finite, or too large for its square.
    """
    model.eval()
    layers = {}
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            layers[name] = module
    sums = _zeros(model)
    with exact_fp32():
        if all(map(_is_known, layers.values())):
            _add_by_layer(model, layers, samples, losses, size, sums)
        else:
            _add_by_batch(model, samples.batches_of(1), losses, size, sums)
    return _mean(sums, samples.num_samples)


def mean_batch_gradient_sizes(
    model: nn.Module, batches: Loader, losses: Losses, size: Size = torch.square
) -> Vector:
    """As :func:`mean_gradient_sizes`, with the mean gradient of each batch of the loader in the
    place of a sample's.

    A batch counts by its size, so that a last small one, whose mean is noisier, does not stand out.
    Batches of one are samples, and take the faster way.
    """
    if batches.batch_size == 1:
        samples = batches.batches_of(samples_at_once(batches))
        return mean_gradient_sizes(model, samples, losses, size)
    model.eval()
    sums = _zeros(model)
    with exact_fp32():
        _add_by_batch(model, batches, losses, size, sums)
    return _mean(sums, batches.num_samples)


def samples_at_once(samples: Loader) -> int:
    """The batch size for passes that keep every activation: 64 images of 32x32."""
    return max(1, 64 * 32**2 // samples.images.side**2)


def _zeros(model: nn.Module) -> Vector:
    zeros = {}
    for name, parameter in model.named_parameters():
        zeros[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
    return zeros


def _mean(sums: Vector, count: int) -> Vector:
    """The sums of all processes by ``count``."""
    distributed.all_reduce(list(sums.values()))
    torch._foreach_div_(list(sums.values()), count)
    if not bool(torch.isfinite(torch.stack([value.max() for value in sums.values()])).all()):
        raise RunFailed(
            "the gradient is not finite; the model's weights are damaged or it was trained to"
            " overflow"
        )
    return sums


def _with_progress(batches: Loader) -> Iterable[tuple[Tensor, Tensor]]:
    return tqdm(batches, desc="gradients", unit="batch", disable=None, leave=False)


def _add_by_batch(
    model: nn.Module, batches: Loader, losses: Losses, size: Size, sums: Vector
) -> None:
    """Add the size of every batch's mean gradient to ``sums``, once for each of its samples."""
    parameters = list(model.parameters())
    for images, labels in _with_progress(batches.shared()):
        for loss, is_last in _marked_last(losses(model(images), labels)):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=not is_last)
            sizes = [size(mean) for mean in torch._foreach_div(gradients, len(labels))]
            torch._foreach_add_(list(sums.values()), sizes, alpha=len(labels))


def _marked_last(losses: Sequence[Tensor]) -> list[tuple[Tensor, bool]]:
    """The losses share a forward pass, whose graph goes with the last of them."""
    return [(loss, number == len(losses)) for number, loss in enumerate(losses, 1)]


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return False
    return type(module) in SIZES


def _add_by_layer(
    model: nn.Module,
    layers: dict[str, nn.Module],
    samples: Loader,
    losses: Losses,
    size: Size,
    sums: Vector,
) -> None:
    """Add each sample's gradient sizes to ``sums``: one backward pass a batch and loss."""
    calls: dict[str, tuple[Tensor, int, list[Tensor]]] = {}

    def watch(name: str) -> Callable[..., None]:
        def after_forward(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            assert name not in calls, f"{name} is used twice in one forward pass"
            gradient: list[Tensor] = []
            # The output as it is now, also where an in-place ReLU follows.
            output.register_hook(gradient.append)
            calls[name] = inputs[0].detach(), inputs[0]._version, gradient

        return after_forward

    def add(name: str, inputs: Tensor, gradient: Tensor) -> None:
        prefix = f"{name}." if name else ""
        for parameter, value in SIZES[type(layers[name])](layers[name], inputs, gradient, size):
            sums[prefix + parameter] += value

    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)  # of the pass, only the gradients of outputs are needed
        for images, labels in _with_progress(samples.shared()):
            calls.clear()
            images = images.contiguous().requires_grad_()
            for loss, is_last in _marked_last(losses(model(images), labels)):
                torch.autograd.grad(loss, images, retain_graph=not is_last)  # runs the hooks
                for name, (inputs, version, gradient) in calls.items():
                    assert inputs._version == version, f"the input of {name} was overwritten"
                    add(name, inputs, gradient.pop())
                    assert not gradient, f"{name} got two gradients in one pass"
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


Sizes = Iterator[tuple[str, Tensor]]


def _conv_sizes(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor, size: Size) -> Sizes:
    total = torch.zeros_like(layer.weight, memory_format=torch.contiguous_format)
    for one in _conv_weight_gradients(layer, inputs, gradient):
        # A product that is added at once saves the writing and reading of the largest tensor here.
        total.addcmul_(one, one) if size is torch.square else total.add_(size(one))
    yield "weight", total
    if layer.bias is not None:
        yield "bias", size(gradient.sum((2, 3))).sum(0)


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


def _linear_sizes(layer: nn.Linear, inputs: Tensor, gradient: Tensor, size: Size) -> Sizes:
    if inputs.ndim == 2:  # the size of a product is the product of its factors' sizes
        yield "weight", size(gradient).T @ size(inputs)
        if layer.bias is not None:
            yield "bias", size(gradient).sum(0)
        return
    # A sample's gradient is the sum over its positions.
    total = torch.zeros_like(layer.weight)
    for x, g in zip(inputs, gradient, strict=True):
        total += size(g.flatten(0, -2).T @ x.flatten(0, -2))
    yield "weight", total
    if layer.bias is not None:
        yield "bias", size(gradient.flatten(1, -2).sum(1)).sum(0)


def _batch_norm_sizes(layer: nn.BatchNorm2d, inputs: Tensor, gradient: Tensor, size: Size) -> Sizes:
    mean = layer.running_mean[:, None, None]
    scale = torch.rsqrt(layer.running_var + layer.eps)[:, None, None]
    yield "weight", size((gradient * ((inputs - mean) * scale)).sum((2, 3))).sum(0)
    yield "bias", size(gradient.sum((2, 3))).sum(0)


# The sum over samples of gradients' sizes, from a layer's inputs and output gradients.
SIZES = {
    nn.Conv2d: _conv_sizes,
    nn.Linear: _linear_sizes,
    nn.BatchNorm2d: _batch_norm_sizes,
    nn.SyncBatchNorm: _batch_norm_sizes,
}
