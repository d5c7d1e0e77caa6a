"""Say what is there of a data set, what is missing and where it comes from; check it, and decode
its image files into the cache before the first command needs them.

python -m datasets.prepare tiny_imagenet --data tiny-imagenet-200
"""

import sys

import numpy as np

import datasets
from arg_parser import prepare_request
from datasets import layouts
from datasets.from_torchvision import PREFIX
from runtime.cli import script
from runtime.files import hash_arrays
from stages.requests import Request
from utils import UserError, printable

CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html; torchvision downloads it into --data"
ORIGINS = {
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "cifar20": f"CIFAR-100 under its super-classes: {CIFAR}",
    "svhn": "http://ufldl.stanford.edu/housenumbers; torchvision downloads it into --data",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist; torchvision downloads it",
    "fashion_mini": "a part of Fashion-MNIST in this project",
    "digits": "scikit-learn's own",
    "npz": "yours: one file with x_train, y_train, x_test, y_test",
    "folder": "yours: train/CLASS/IMAGE and test/CLASS/IMAGE (or val/)",
    "tiny_imagenet": layouts.TINY_FROM,
    "imagenet": layouts.IMAGENET_FROM,
}


def origin(name: str) -> str:
    """Where a data set comes from."""
    if name.startswith(PREFIX):
        return f"torchvision.datasets.{name.removeprefix(PREFIX)}, which downloads it into --data"
    return ORIGINS[name]


def prepare(request: Request) -> datasets.ImageSet:
    """Read, decode and check a data set; says what it holds."""
    name = request.dataset
    print(f"{name}: from {origin(name)}")
    image_set = datasets.load_dataset(
        name,
        request.data,
        input_size=request.input_size if "input_size" in request.typed else None,
        workers=request.workers,
        fit=request.fit,
        cache=request.cache,
        augment=request.augment,
    )
    for line in image_set.lines():
        print(printable(line))
    for half in ("train", "test"):
        counts = np.bincount(getattr(image_set, f"y_{half}"), minlength=image_set.num_classes)
        print(
            f"{half}: {counts.sum()} images of {image_set.x_train.shape[1]} pixels in"
            f" {np.count_nonzero(counts)} classes, {counts.min()} to {counts.max()} each"
        )
    _check(image_set)
    return image_set


def _check(image_set: datasets.ImageSet) -> None:
    """Compare the pixels, all of which are read, with the hash that later commands take."""
    arrays = {"x_train": image_set.x_train, "y_train": image_set.y_train}
    sha256 = hash_arrays(arrays)
    if sha256 != image_set.sha256():
        raise UserError(
            f"{image_set.name}: the cache holds other pixels than were decoded; remove it and run"
            " this again"
        )
    print(f"checked: data hash {sha256[:12]}")


@script
def main(argv: list[str]) -> None:
    prepare(prepare_request(argv, __doc__))


if __name__ == "__main__":
    sys.exit(main())
