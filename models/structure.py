"""What methods ask of an architecture, found by looking at its modules: no name is asked for."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

from utils import UserError

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    *(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Their parameters of two and more dimensions multiply what the layer is given.
LAYERS = (*CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)
CONTAINERS = (nn.Sequential, nn.ModuleList)
# Layers that drop a block's branch, by the name of their class, and where they hold the rate:
# torchvision's and timm's.
STOCHASTIC_DEPTH = {"StochasticDepth": "p", "DropPath": "drop_prob"}


class Named(NamedTuple):
    """A layer and its name in the model."""

    name: str
    layer: nn.Module


def blocks(model: nn.Module) -> list[list[str]]:
    """Groups of names of modules and parameters, from the images to the logits; together they hold
    each parameter once, and the last one holds the classifier layer.

    A block is a layer or a module of layers, such as a residual or a transformer block. An
    ``nn.Sequential`` or ``nn.ModuleList`` is several, and so is a module that holds a stack of
    blocks, such as a transformer's encoder. A normalisation belongs to the block before it, and so
    do the parameters beside the blocks of a stack, such as a position embedding: to the first block
    where there is none before. Modules without parameters belong to none. The models here register
    their modules in the order in which they use them.
    """
    groups: list[list[str]] = []
    waiting: list[str] = []
    for name, part in _parts(model, ""):
        if isinstance(part, nn.Parameter):
            (groups[-1] if groups else waiting).append(name)
        elif isinstance(part, NORMS) and groups:
            groups[-1].append(name)
        else:
            groups.append([name])
    if groups:
        groups[0] += waiting
    return groups


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """What ``module`` itself holds, with what its containers hold in their place."""
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter
    for name, child in module.named_children():
        if isinstance(child, CONTAINERS) or _holds_a_stack(child):
            yield from _parts(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name, child


def _holds_a_stack(module: nn.Module) -> bool:
    """Whether ``module``, or a module in it that is no container, has a container of two or more
    blocks of one class, as an encoder and the stages of a ResNet have.
    """
    for child in module.children():
        is_container = isinstance(child, CONTAINERS)
        if _is_stack(child) if is_container else _holds_a_stack(child):
            return True
    return False


def _is_stack(container: nn.Module) -> bool:
    items = [item for item in container if any(True for _ in item.parameters())]
    blocks = [item for item in items if not isinstance(item, CONTAINERS) and _is_a_block(item)]
    return 1 < len(items) == len(blocks) and len({type(item) for item in items}) == 1


def _is_a_block(module: nn.Module) -> bool:
    """Whether it has several layers; a convolution with its BatchNorm is none."""
    return sum(isinstance(each, LAYERS) for each in module.modules()) > 1


def part(model: nn.Module, name: str) -> nn.Module | nn.Parameter:
    """The module or the parameter of this name, as :func:`blocks` has them."""
    owner, _, last = name.rpartition(".")
    return getattr(model.get_submodule(owner), last)


def parameters_of(model: nn.Module, names: Iterable[str]) -> set[str]:
    """The names of all parameters in the modules ``names``, and those of ``names`` that are
    parameters.
    """
    prefixes = tuple(f"{name}." for name in names)
    return {name for name, _ in model.named_parameters() if f"{name}.".startswith(prefixes)}


def classifier(model: nn.Module) -> Named:
    """The layer that gives the logits: the last linear one of the last block, or else its last
    convolution, as in SqueezeNet.

    Raises:
        UserError: there is neither.
    """
    last = blocks(model)[-1]
    found = [
        Named(name, layer)
        for name, layer in model.named_modules()
        if f"{name}.".startswith(tuple(f"{block}." for block in last))
    ]
    for kind in (nn.Linear, CONVOLUTIONS):
        if layers := [each for each in found if isinstance(each.layer, kind)]:
            return layers[-1]
    raise UserError(
        f"the last block of this architecture, {' + '.join(last)}, has no linear layer and no"
        " convolution to be the classifier; register the classifier last"
    )


def linear_classifier(model: nn.Module, why: str) -> Named:
    """:func:`classifier` for a method that needs a linear one; ``why`` ends the refusal.

    Raises:
        UserError: the logits come from another layer.
    """
    found = classifier(model)
    if not isinstance(found.layer, nn.Linear):
        raise UserError(
            f"the classifier of this architecture, {found.name}, is a"
            f" {type(found.layer).__name__} and not a linear layer, {why}"
        )
    return found


def first_convolution(model: nn.Module) -> Named:
    """The convolution that sees the images, in a transformer the embedding of the patches.

    Raises:
        UserError: the first block has none.
    """
    first = blocks(model)[0]
    for name, layer in model.named_modules():
        if f"{name}.".startswith(tuple(f"{block}." for block in first)) and isinstance(
            layer, CONVOLUTIONS
        ):
            return Named(name, layer)
    raise UserError(f"this architecture has no convolution in its first block, {' + '.join(first)}")


def kernels(model: nn.Module, kinds: tuple[type, ...] = LAYERS) -> dict[str, nn.Parameter]:
    """The weights of layers of these kinds by name, of two and more dimensions: no biases, norms,
    embeddings, tokens, or tables of positions.
    """
    found = {}
    for prefix, layer in model.named_modules():
        if not isinstance(layer, kinds):
            continue
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.ndim > 1 and not name.startswith("bias_"):  # MultiheadAttention's bias_k
                found[f"{prefix}.{name}" if prefix else name] = parameter
    return found


def stochastic_depths(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The layers of stochastic depth (Huang et al., ECCV 2016) from the images to the logits, each
    with the name of its rate.
    """
    found = [(layer, STOCHASTIC_DEPTH.get(type(layer).__name__)) for layer in model.modules()]
    return [(layer, name) for layer, name in found if name]


def set_drop_path(model: nn.Module, rate: float, arch: str = "this architecture") -> None:
    """Let stochastic depth drop the branches of the first block never and those of the last one
    with the probability ``rate``, linearly between, as the code of Swin and ConvNeXt does.

    Raises:
        UserError: the architecture has no stochastic depth.
    """
    layers = stochastic_depths(model)
    if not layers:
        raise UserError(
            f"--drop_path {rate}: {arch} has no stochastic depth; give --drop_path own, or an"
            " --arch that has, such as swin_t, convnext_t or vit_tiny"
        )
    for number, (layer, name) in enumerate(layers, start=1):
        at = (number - 1) / (len(layers) - 1) if len(layers) > 1 else 1.0
        setattr(layer, name, rate * at)


def share_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> float:
    """Which share of the model's weights these are."""
    return sum(p.numel() for p in parameters) / sum(p.numel() for p in model.parameters())
