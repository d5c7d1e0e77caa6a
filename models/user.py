"""A user's own architecture, ``--arch FILE.py:FACTORY``: a function (num_classes) -> nn.Module.

Building one runs the file, so no record may name it: only who types it decides that.
"""

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from models.normalize import normalised
from utils import UserError

PATTERN = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def is_user_arch(arch: str) -> bool:
    """Whether ``arch`` has the form FILE.py:FACTORY."""
    return PATTERN.fullmatch(arch) is not None


def user_factory(arch: str) -> Callable[[int], nn.Module]:
    """The function that ``arch`` names. Its models get a normalisation layer, named ``normalize``,
    in front where they have none of this name.

    Raises:
        UserError: no such file or function, or the file or the function fails.
    """
    file, name = PATTERN.fullmatch(arch).groups()
    if not os.path.isfile(file):
        raise UserError(f"--arch {arch}: there is no file {file}")
    module = _run(Path(file).resolve())
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise UserError(
            f"--arch {arch}: {file} has no function {name}; it has {', '.join(public) or 'none'}"
        )
    return functools.partial(_normalised, factory, arch)


@functools.cache
def _run(path: Path) -> object:
    """The module of a file, run once; files beside it can be imported by it."""
    spec = importlib.util.spec_from_file_location(f"arch_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"--arch: {path} fails with {_words(error)}") from error
    return module


def _normalised(factory: Callable[[int], nn.Module], arch: str, num_classes: int) -> nn.Module:
    """A model of ``factory``, which normalises images in [0, 1] itself."""
    try:
        model = factory(num_classes)
    except (Exception, SystemExit) as error:
        raise UserError(f"--arch {arch}: {num_classes} classes fail: {_words(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--arch {arch} returns a {type(model).__name__}; an nn.Module is wanted")
    if any(map(nn.parameter.is_lazy, (*model.parameters(), *model.buffers()))):
        raise UserError(f"--arch {arch} has lazy layers; give their numbers of inputs")
    return normalised(model)


def check_output(model: nn.Module, arch: str, num_classes: int, image_size: int) -> None:
    """Refuse a model that does not map images to one logit a class; no random state changes.

    Raises:
        UserError: another shape, or the model fails on images of this size.
    """
    training, device = model.training, next(iter(model.parameters()), torch.empty(0)).device
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = model(torch.zeros(2, 3, image_size, image_size, device=device))
    except Exception as error:
        raise UserError(failed(arch, image_size, error)) from error
    finally:
        model.train(training)
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape != (2, num_classes):
        raise UserError(
            f"--arch {arch} maps 2 images to {shape}; logits of shape (2, {num_classes}) are wanted"
        )


def failed(arch: str, image_size: int | None, error: Exception) -> str:
    """That an architecture does not take images of this size, and what it says of it."""
    side = "" if image_size is None else f" on images of {image_size} x {image_size}"
    return f"--arch {arch} fails{side}: {_words(error)}; --input_size gives another size"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
