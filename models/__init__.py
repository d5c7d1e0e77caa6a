"""MODELS: every ``--arch``. A model takes images in [0, 1] and holds their mean and deviation."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from models.convnext import convnext_t
from models.external import external_factory, is_external_arch
from models.resnet import resnet18, resnet34, resnet50
from models.small_resnet import resnet20s, resnet44s, resnet56s
from models.structure import (
    blocks,
    classifier,
    first_convolution,
    kernels,
    parameters_of,
    part,
    set_drop_path,
)
from models.swin import swin_t
from models.user import check_output, failed, is_user_arch, user_factory
from models.vgg import vgg16_bn, vgg16_bn_lth
from models.vit import vit_small, vit_tiny
from runtime import distributed
from utils import UserError, first_difference

# What callers ask of an architecture is imported from here, wherever it is defined.
__all__ = ["blocks", "classifier", "first_convolution", "kernels", "parameters_of", "part"]
__all__ += ["set_drop_path"]

# A factory takes the number of classes and, where its layers depend on it, ``image_size``.
MODELS = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet20s": resnet20s,
    "resnet44s": resnet44s,
    "resnet56s": resnet56s,
    "vgg16_bn": vgg16_bn,
    "vgg16_bn_lth": vgg16_bn_lth,
    "vit_tiny": vit_tiny,
    "vit_small": vit_small,
    "swin_t": swin_t,
    "convnext_t": convnext_t,
}
IMAGENET_STEMS = ("resnet18", "resnet34", "resnet50")
# Four pools halve the image; a stem and three stages do.
MIN_SIZE = {"vgg16_bn": 16, "vgg16_bn_lth": 16, "convnext_t": 16}


def build_model(
    arch: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    image_size: int = 32,
    imagenet_stem: bool = False,
) -> nn.Module:
    """A freshly initialised classifier; its ``construct`` makes another one for :func:`redraw`.

    Args:
        arch: a name in :data:`MODELS`; torchvision:NAME or timm:NAME; or FILE.py:FACTORY, which
            runs that file.
        mean, std: three values each, of pixels in [0, 1].
        image_size: the side of the square images it will see.
        imagenet_stem: 7x7 stride-2 convolution and max-pool instead of the 3x3 CIFAR stem
            (ResNet-18/34/50).

    Raises:
        UserError: the architecture has no such stem or cannot take images of that size; a user's
            own or another package's does not map images to logits.
    """
    check_arch(arch, image_size, imagenet_stem)
    architecture = _architecture(arch, num_classes, image_size, imagenet_stem)
    construct = functools.partial(_construct, architecture, mean, std)
    model = _without_rng_effect(construct)
    model.construct = construct
    initialise(model)
    if is_user_arch(arch) or is_external_arch(arch):
        check_output(model, arch, num_classes, image_size)
    return model


def is_arch(arch: str) -> bool:
    """Whether ``arch`` has a form that :func:`build_model` takes."""
    return arch in MODELS or is_external_arch(arch) or is_user_arch(arch)


def _architecture(
    arch: str, num_classes: int, image_size: int | None, imagenet_stem: bool
) -> Callable[[], nn.Module]:
    """What makes the network, for images of a size that is not known yet where that is None."""
    if is_user_arch(arch):
        factory = user_factory(arch)
    else:
        factory = external_factory(arch) if is_external_arch(arch) else MODELS[arch]
    options = {"imagenet_stem": imagenet_stem} if arch in IMAGENET_STEMS else {}
    if image_size is not None and not is_user_arch(arch) and _is_sized(factory):
        options["image_size"] = image_size
    return functools.partial(factory, num_classes, **options)


def _is_sized(factory: Callable[..., nn.Module]) -> bool:
    return "image_size" in inspect.signature(factory).parameters


def skeleton(
    arch: str, num_classes: int, image_size: int | None = None, imagenet_stem: bool = False
) -> nn.Module:
    """The architecture without memory for its weights, where its constructor does not read any."""
    architecture = _architecture(arch, num_classes, image_size, imagenet_stem)
    try:
        with torch.device("meta"):
            return architecture()
    except NotImplementedError:  # torchvision's RegNet computes its widths with tensors
        return _without_rng_effect(architecture)


def _construct(
    architecture: Callable[[], nn.Module], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    model = architecture()
    for name, values in (("mean", mean), ("std", std)):
        own = getattr(model.normalize, name, None)  # a user's layer may have other buffers
        if isinstance(own, torch.Tensor) and own.shape == (3,):
            own.copy_(torch.tensor(values))
    return model


def _without_rng_effect(construct: Callable[[], nn.Module]) -> nn.Module:
    """``construct()`` under a seed drawn from torch's generator, which is then restored.

    So the draws of :func:`initialise` do not depend on how often a layer's constructor draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**63 - 1, (), device="cpu")))
        return construct()


def check_arch(arch: str, image_size: int | None, imagenet_stem: bool) -> None:
    """Refuse a stem or an image size (None: not known yet) that the architecture cannot have."""
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
    if is_external_arch(arch):
        try:
            model = skeleton(arch, 2, image_size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(failed(arch, image_size, error)) from error
        if image_size is not None:
            check_output(model, arch, 2, image_size)
    elif arch in MODELS and _is_sized(MODELS[arch]):
        skeleton(arch, 2, image_size)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on ``device`` in channels_last, with SyncBatchNorm on several GPUs."""
    if distributed.world_size() > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Initialise the weights in place, drawing from torch's global generator.

    Convolutions: He normal, fan-out (He et al. 2015), biases zero. BatchNorm: one and zero. Linear:
    PyTorch's default. Other layers and parameters keep what their constructor set, and so does a
    whole model with ``own_initialisation``, such as a transformer.
    """
    if getattr(model, "own_initialisation", False):
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Linear)):  # SyncBatchNorm too
            module.reset_parameters()


@torch.no_grad()
def redraw(model: nn.Module, seed: int, names: Iterable[str] | None = None) -> None:
    """Overwrite the named modules and parameters (by default the whole model) with those of a new
    model.

    Every parameter and buffer is replaced: ``model.construct()`` makes the new model, and
    :func:`initialise` draws the layers that it knows. :func:`build_model` sets ``construct``; other
    models need it set, as in ``model.construct = lambda: MyNet(10)``. All is drawn on the CPU, so
    one seed is the same network on every device.

    Raises:
        UserError: there is no ``construct``, or it makes another network.
    """
    construct = getattr(model, "construct", None)
    if construct is None:
        raise UserError(
            f"this {type(model).__name__} does not know how to be made anew; set model.construct to"
            " a function of no arguments that returns an untrained one, such as lambda: MyNet(10)"
        )
    # A copy keeps the memory formats, which matter: a draw fills memory in order.
    fresh = copy.deepcopy(model).cpu().train()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        _fill(fresh, _without_rng_effect(construct))
        initialise(fresh)
    if names is None:
        _fill(model, fresh)
        return
    for name in names:
        own, new = part(model, name), part(fresh, name)
        if isinstance(own, nn.Parameter):
            own.copy_(new)
        else:
            _fill(own, new)


def begin(model: nn.Module) -> None:
    """Load the weights that training begins with (``--init``), {name: tensor} of a part of the
    state, from ``model.initial``; nothing where it is not set.
    """
    if initial := getattr(model, "initial", None):
        model.load_state_dict({**model.state_dict(), **initial}, strict=True)


def _fill(module: nn.Module, source: nn.Module) -> None:
    """Copy every parameter and buffer from ``source``, non-persistent buffers too."""
    own, new = _tensors(module), _tensors(source)
    own_shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    new_shapes = {name: tuple(tensor.shape) for name, tensor in new.items()}
    if own_shapes != new_shapes:
        name = first_difference(own_shapes, new_shapes)
        raise UserError(
            f"model.construct makes another network than this {type(module).__name__}: {name} is"
            f" {new_shapes.get(name, 'missing')} in the new one and"
            f" {own_shapes.get(name, 'missing')} in the model; let it return one of the same layers"
        )
    for name, tensor in own.items():
        tensor.copy_(new[name])


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def cpu_copy(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict as it is now, on the CPU and in memory of its own."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
