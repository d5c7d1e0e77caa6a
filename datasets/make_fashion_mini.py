"""Write fashion_mini.npz, the embedded data set.

    python datasets/make_fashion_mini.py FASHION_MNIST_FOLDER

The folder holds the four ``*-ubyte.gz`` files that the authors publish. The set is a seeded,
class-balanced draw of 5,000 training and 1,000 test images (28x28 grey), in the source's order.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker"]
CLASSES += ["Bag", "Ankle-boot"]


def read_idx(path: Path, header: int) -> np.ndarray:
    """The bytes of one gzipped IDX file behind its header (16 bytes for images, 8 for labels)."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def draw(folder: Path, stem: str, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (10 * per_class, 28, 28) and labels of a balanced draw from one half of the source."""
    images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", 8)
    rng = np.random.RandomState(seed)
    chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(10)]
    chosen = np.sort(np.concatenate(chosen))
    return images[chosen], labels[chosen]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    x_train, y_train = draw(source, "train", 500, seed=0)
    x_test, y_test = draw(source, "t10k", 100, seed=0)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    file = Path(__file__).with_name("fashion_mini.npz")
    np.savez_compressed(file, **arrays, classes=np.array(CLASSES))
