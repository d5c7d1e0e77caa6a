"""Architectures of other packages: ``--arch torchvision:NAME`` and ``--arch timm:NAME``.

Only the code of the network is taken from there; no weights are loaded, nothing is downloaded.
"""

import functools
import re
from collections.abc import Callable

from torch import nn

from models.normalize import normalised
from utils import UserError, closest

PATTERN = re.compile(r"(torchvision|timm):(\w[\w.]*)")


def is_external_arch(arch: str) -> bool:
    """Whether ``arch`` has the form torchvision:NAME or timm:NAME."""
    return PATTERN.fullmatch(arch) is not None


def external_factory(arch: str) -> Callable[..., nn.Module]:
    """(num_classes, image_size=None) -> the classifier that ``arch`` names, untrained, behind a
    normalisation layer; networks of one image size are made for ``image_size``.

    Raises:
        UserError: no such classifier, or timm is not installed.
    """
    package, name = PATTERN.fullmatch(arch).groups()
    make = {"torchvision": _torchvision, "timm": _timm}[package](arch, name)
    return functools.partial(_made, make)


def keeps_its_own_initialisation(model: nn.Module) -> nn.Module:
    """Mark ``model`` so that :func:`models.initialise` leaves what its constructor drew."""
    model.own_initialisation = True
    return model


def _made(
    make: Callable[..., nn.Module], num_classes: int, image_size: int | None = None
) -> nn.Module:
    return keeps_its_own_initialisation(normalised(make(num_classes, image_size)))


def _torchvision(arch: str, name: str) -> Callable[..., nn.Module]:
    # torchvision takes about a second to import.
    from torchvision import models as tv

    known = tv.list_models(module=tv)
    if name not in known:
        meant = closest(name, known)
        raise UserError(f"--arch {arch}: torchvision has no classifier {name}{meant}")
    # Their second output in training is for a loss of their own.
    extra = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    extra |= {"init_weights": True} if extra else {}
    builder = functools.partial(tv.get_model, name, weights=None, **extra)
    return functools.partial(_sized, builder, "image_size")


def _timm(arch: str, name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(f"--arch {arch} needs an extra: pip install timm") from None
    if not timm.is_model(name):
        known = timm.list_models()
        raise UserError(f"--arch {arch}: timm has no model {name}{closest(name, known)}")
    return functools.partial(
        _sized, functools.partial(timm.create_model, name, pretrained=False), "img_size"
    )


def _sized(
    builder: Callable[..., nn.Module], size: str, num_classes: int, image_size: int | None
) -> nn.Module:
    """A model made for ``image_size`` where its builder takes one, by the name ``size``."""
    if image_size is not None:
        try:
            return builder(num_classes=num_classes, **{size: image_size})
        except TypeError as error:
            if f"'{size}'" not in str(error):
                raise
    return builder(num_classes=num_classes)
