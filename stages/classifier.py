"""Checkpoints -> models to classify with."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datasets import DATASETS, ImageSet
from datasets.image_files import read_image
from models import build_model, place
from runtime.files import reading
from stages.checkpoints import check_typed_arch, read_checkpoint
from stages.saved import REMEDY
from stages.state_dicts import NORMALISATION
from utils import UserError


class _Classifier(NamedTuple):
    model: nn.Module
    classes: tuple[str, ...]
    image_size: int


class Classifier(_Classifier):
    """A model in eval mode and what it was trained on; unpacks to model, classes and image_size.

    ``model`` maps images (n, 3, image_size, image_size) in [0, 1], which it normalises itself, to
    logits (n, k); ``classes`` are the k names.
    """

    reading: Mapping[str, str]  # fit and augment of read_image

    def read(self, path: str | Path, values: tuple[float, float] | None = None) -> np.ndarray:
        """An image file as the model's test images were read, uint8 of (image_size, image_size, 3);
        ``values`` as for :func:`datasets.image_files.read_image`.
        """
        return read_image(path, self.image_size, values=values, **self.reading)


def images_record(dataset: ImageSet) -> dict:
    """What a checkpoint says of its images besides their split."""
    return {"classes": list(dataset.classes), "image_size": dataset.image_size}


def load_classifier(
    path: str | Path, device: torch.device | str = "cpu", arch: str | None = None
) -> Classifier:
    """The model of a checkpoint of main_train, main_forget or main_random; ``arch`` is that of a
    user's own architecture, FILE.py:FACTORY, which runs the file.

    A checkpoint from before class names were recorded has their numbers as names, and its image
    size from its flags.

    Raises:
        UserError: another kind of file, or one without a record of its architecture.
    """
    path = Path(path)
    content = read_checkpoint(path, "checkpoint")
    if not isinstance(arguments := content.get("arguments"), dict):
        raise UserError(f"checkpoint {path} does not say what it is; {REMEDY}")
    check_typed_arch(path, arguments, arch is not None)
    arguments = arguments | ({"arch": arch} if arch else {})
    weights = content["state_dict"]
    with reading(path, "checkpoint", REMEDY):
        # The classifier's bias: models register their layers in the order in which they use them.
        classes = content.get("classes", range(len(next(reversed(weights.values())))))
        classes = tuple(map(str, classes))
        size = content.get("image_size") or _image_size(arguments)
        model = restored(arguments, weights, len(classes), size)
    found = Classifier(place(model, torch.device(device)).eval(), classes, size)
    found.reading = _reading(arguments)
    return found


def _reading(arguments: Mapping) -> dict[str, str]:
    """How the images of a checkpoint's flags were read; before there was --augment, by crops."""
    own = DATASETS[arguments["dataset"]].augment
    augment = arguments.get("augment", "crop") or own
    return {"fit": arguments.get("fit") or "crop", "augment": augment}


def _image_size(arguments: Mapping) -> int:
    own = None if "input_size" in arguments["typed"] else DATASETS[arguments["dataset"]].image_size
    return own or arguments["input_size"]


def restored(
    arguments: Mapping, weights: Mapping[str, Tensor], num_classes: int, image_size: int
) -> nn.Module:
    """A model of a checkpoint's architecture with its weights, which hold the normalisation too.

    Raises:
        LookupError, RuntimeError: an entry is missing, or the weights do not fit.
    """
    zero_and_one = zip(NORMALISATION, ((0.0,) * 3, (1.0,) * 3), strict=True)
    mean, std = (weights[name].tolist() if name in weights else own for name, own in zero_and_one)
    model = build_model(
        arguments["arch"],
        num_classes,
        mean,
        std,
        image_size=image_size,
        imagenet_stem=arguments["imagenet_arch"],
    )
    model.load_state_dict(weights, strict=True)
    return model
