"""MODELS: every ``--arch``. All take images in [0, 1] and normalise inside, so checkpoints carry
their statistics.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from models.resnet import resnet18, resnet34, resnet50
from models.small_resnet import resnet20s, resnet44s, resnet56s
from models.vgg import vgg16_bn, vgg16_bn_lth
from runtime import distributed
from utils import UserError

MODELS = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet20s": resnet20s,
    "resnet44s": resnet44s,
    "resnet56s": resnet56s,
    "vgg16_bn": vgg16_bn,
    "vgg16_bn_lth": vgg16_bn_lth,
}
IMAGENET_STEMS = ("resnet18", "resnet34", "resnet50")
MIN_SIZE = {
    "vgg16_bn": 16,
    "vgg16_bn_lth": 16,
}  # four pools halve the image; a smaller one would vanish


def build_model(
    arch: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    image_size: int = 32,
    imagenet_stem: bool = False,
) -> nn.Module:
    """A freshly initialised classifier, which remembers in ``construct`` how it was made (see
    :func:`redraw`).

    Args:
        arch: a name in :data:`MODELS`.
        mean, std: three values each, of pixels in [0, 1].
        image_size: the side of the square images it will see, only checked here.
        imagenet_stem: 7x7 stride-2 convolution and max-pool instead of the 3x3 CIFAR stem
            (ResNet-18/34/50).

    Raises:
        UserError: the architecture has no such stem or cannot take images that small.
    """
    check_arch(arch, image_size, imagenet_stem)
    stem = {"imagenet_stem": imagenet_stem} if arch in IMAGENET_STEMS else {}
    construct = functools.partial(
        _construct, functools.partial(MODELS[arch], num_classes, **stem), mean, std
    )
    model = _apart(construct)
    model.construct = construct
    initialise(model)
    return model


def _construct(
    architecture: Callable[[], nn.Module], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    model = architecture()
    model.normalize.mean.copy_(torch.tensor(mean))
    model.normalize.std.copy_(torch.tensor(std))
    return model


def _apart(construct: Callable[[], nn.Module]) -> nn.Module:
    """What ``construct`` makes; its draws follow from torch's generator, repeat none of those to
    come and leave it where it was.

    So what :func:`initialise` draws does not depend on how often a layer draws for itself.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**63 - 1, (), device="cpu")))
        return construct()


def check_arch(arch: str, image_size: int | None, imagenet_stem: bool) -> None:
    """Refuse a stem or an image size (None: not known yet) that the architecture does not have."""
    if imagenet_stem and arch not in IMAGENET_STEMS:
        raise UserError(
            f"--imagenet_arch: {arch} has no ImageNet stem; allowed with"
            f" {', '.join(IMAGENET_STEMS)}"
        )
    if image_size is not None and image_size < MIN_SIZE.get(arch, 1):
        raise UserError(
            f"--arch {arch} needs images of at least {MIN_SIZE[arch]} pixels, got {image_size}; add"
            " --input_size 32"
        )


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on ``device`` in channels_last; its BatchNorm normalises over all processes of a
    run where the device can (CUDA).
    """
    if distributed.world_size() > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Draw the weights of every convolution and linear layer anew from torch's global generator and
    reset BatchNorm.

    Convolutions: He normal, fan-out (He et al. 2015). BatchNorm: one and zero. Linear: PyTorch's
    default. One rule for all architectures. Every other kind of layer or parameter is left as its
    constructor made it.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Linear)):  # SyncBatchNorm too
            module.reset_parameters()


@torch.no_grad()
def redraw(model: nn.Module, seed: int, modules: Iterable[str] = ("",)) -> None:
    """Put the named modules (all of ``model`` by default) of a new model of this seed in place of
    the model's own.

    Every parameter and buffer is replaced, whatever the layers are: the model is made anew by
    ``model.construct``, a function of no arguments, and :func:`initialise` draws what it knows.
    :func:`build_model` sets ``construct``; any other module needs it set, such as ``model.construct
    = lambda: MyNet(10)``. All is drawn on the CPU: one seed is the same network on every device.

    Raises:
        UserError: there is no ``construct``, or it makes another network.
    """
    construct = getattr(model, "construct", None)
    if construct is None:
        raise UserError(
            f"this {type(model).__name__} does not know how to be made anew; set model.construct to"
            " a function of no arguments that returns an untrained one, such as lambda: MyNet(10)"
        )
    fresh = (
        copy.deepcopy(model).cpu().train()
    )  # its memory formats, since a draw fills memory in order; a new model's mode
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        _fill(fresh, _apart(construct))
        initialise(fresh)
    for name in modules:
        _fill(model.get_submodule(name), fresh.get_submodule(name))


def _fill(module: nn.Module, source: nn.Module) -> None:
    """Copy every parameter and buffer from ``source``, also the buffers that no
    checkpoint holds.
    """
    ours, theirs = (
        dict(itertools.chain(one.named_parameters(), one.named_buffers()))
        for one in (module, source)
    )
    wanted, found = (
        {name: tuple(value.shape) for name, value in one.items()} for one in (ours, theirs)
    )
    if wanted != found:
        name = min(set(wanted.items()) ^ set(found.items()))[0]
        raise UserError(
            f"model.construct makes another network than this {type(module).__name__}: {name} is"
            f" {found.get(name, 'missing')} in the new one and {wanted.get(name, 'missing')} in the"
            " model; let it return one of the same layers"
        )
    for name, value in ours.items():
        value.copy_(theirs[name])


def blocks(model: nn.Module) -> list[list[str]]:
    """What a classifier is made of, from images to logits: groups of module names, the last one the
    classifier layer.

    A block is a layer, or a module of layers such as a residual block; an ``nn.Sequential`` is
    taken apart. A BatchNorm belongs to the block before it, and modules without parameters to none.
    Relies on the models here registering their modules in the order in which they use them.
    """
    groups: list[list[str]] = []
    for name, module in _leaves(model, ""):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and groups:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _leaves(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name, child
