"""Image files at the size of real sets: decoding beside a plain loader, start on a cached set, an
epoch from either store, anonymous memory: results/image_files.md.

    python benchmarks/image_files.py --folder DIR                 # 20,000 + 1,000 JPEGs, 4 GB
    python benchmarks/image_files.py --folder DIR --images 41000  # 8 GB of pixels

DIR gets the generated images, in ImageNet's layout, and the cache. Each measurement is a process
of its own with one thread; what is compared takes turns.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hardware import describe, hardware_line
from datasets import ImageSet, load_dataset
from datasets.loaders import Data
from datasets.splits import make_split
from runtime.files import save_text

CLASSES, SIDE, BATCH, WORKERS = 20, 256, 64, 2
MIB = 2**20


# -------------------------------------------------------------------------------- generated images


def generate(folder: Path, images: int) -> None:
    """JPEGs of 276x256 pixels in ImageNet's layout, a twentieth of them in val; once."""
    from PIL import Image

    done = folder.with_suffix(".json")
    if done.exists() and json.loads(done.read_text()) == images:
        return
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for half, count in (("train", images - images // 21), ("val", images // 21)):
        for number in range(count):
            place = folder / half / f"n{number % CLASSES:08d}"
            place.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
            large = small.resize((SIDE + 20, SIDE), Image.Resampling.BICUBIC)
            large.save(place / f"{number}.JPEG", quality=90)
    done.write_text(json.dumps(images))


def read(folder: Path, cache: str | Path) -> ImageSet:
    return load_dataset("imagenet", folder / "images", workers=WORKERS, cache=str(cache))


def loaded(folder: Path, cache: str | Path, store: str) -> Data:
    dataset = read(folder, cache)
    split = make_split(dataset.y_train, 1)
    device = torch.device("cpu")
    return Data(dataset, split, None, device=device, seed=0, batch_size=BATCH, store=store)


# ------------------------------------------------------------------- what a process of its own does


def plain_pass(folder: Path) -> int:
    """All images of both halves through torchvision's loader."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    whole = transforms.Compose(
        [transforms.Resize(SIDE), transforms.CenterCrop(SIDE), transforms.PILToTensor()]
    )
    seen = 0
    for half in ("train", "val"):
        images = datasets.ImageFolder(str(folder / "images" / half), whole)
        for batch, _ in DataLoader(images, BATCH, num_workers=WORKERS):
            seen += len(batch)
    return seen


def decode(folder: Path) -> dict:
    """Seconds of a pass of the plain loader, and of building the cache."""
    begun = time.perf_counter()
    seen = plain_pass(folder)
    between = time.perf_counter()
    shutil.rmtree(folder / "cache", ignore_errors=True)
    dataset = read(folder, folder / "cache")
    assert seen == len(dataset.x_train) + len(dataset.x_test)
    return {"plain": between - begun, "ours": time.perf_counter() - between}


def start(folder: Path) -> dict:
    """Seconds from the call to images, labels and all hashes."""
    begun = time.perf_counter()
    dataset = read(folder, folder / "cache")
    dataset.lines(), dataset.sha256(), dataset.test_sha256()
    return {"start": time.perf_counter() - begun}


def epoch(folder: Path) -> dict:
    """Seconds of a pass over the training images with a convolution, from each store in turn."""
    weight = torch.rand(16, 3, 3, 3)
    stores = {store: loaded(folder, folder / "cache", store) for store in ("device", "stream")}
    seconds = {}
    for store, data in stores.items():
        begun = time.perf_counter()
        for images, _ in data.train:
            torch.nn.functional.conv2d(images, weight, stride=2)
        seconds[store] = time.perf_counter() - begun
    return seconds


def memory(folder: Path, cache: str, store: str) -> dict:
    """MiB of anonymous memory above that of the imports, at the most in a pass over training."""
    floor = peak = anonymous()
    data = loaded(folder, folder / "cache" if cache == "cache" else cache, store)
    peak = max(peak, anonymous())
    for _ in data.train:
        peak = max(peak, anonymous())
    pixels = (data.dataset.x_train.nbytes + data.dataset.x_test.nbytes) / MIB
    return {"pixels": pixels, "above": peak - floor}


def anonymous() -> float:
    """MiB of this process that no file holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


PARTS: dict[str, Callable[..., dict]] = {
    "decode": decode,
    "start": start,
    "epoch": epoch,
    "memory": memory,
}


# ------------------------------------------------------------------------------------- all of them


def measure(folder: Path, part: str, *words: str) -> dict:
    """What one part prints, run in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--part", part, *words]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def ratios(turns: list[dict], above: str, below: str) -> str:
    """Median, smallest and largest ratio of two seconds over the turns."""
    each = sorted(turn[above] / turn[below] for turn in turns)
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def table(folder: Path, turns: int) -> str:
    decoded = [measure(folder, "decode") for _ in range(turns)]
    begun = [measure(folder, "start")["start"] for _ in range(turns)]
    passes = [measure(folder, "epoch") for _ in range(turns + 1)][1:]  # the first fills page caches
    rows = [
        (
            "decode, hash and write the cache: plain loader's seconds / ours",
            ratios(decoded, "plain", "ours"),
            turns,
        ),
        ("start on the cached set, beyond imports", f"{statistics.median(begun):.2f} s", turns),
        ("a training epoch, streamed / in place", ratios(passes, "stream", "device"), turns),
    ]
    for cache, store in (("none", "device"), ("cache", "device"), ("cache", "stream")):
        found = measure(folder, "memory", cache, store)
        what = "decoded into memory" if cache == "none" else f"from the cache, --store {store}"
        share = f"{found['above']:.0f} MiB, {found['above'] / found['pixels']:.2f} times the pixels"
        rows.append((f"anonymous memory above the imports, {what}", share, 1))
    lines = [f"| {what} | {found} | {n} |" for what, found, n in rows]
    return "\n".join(["| | measured | n |", "|---|---|---:|", *lines])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=21_000, help="of both halves")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.part:
        print(json.dumps(PARTS[args.part](args.folder, *args.words)))
        return 0
    generate(args.folder / "images", args.images)
    text = f"{args.images} JPEGs of 276x256 pixels, decoded to 256 by {WORKERS} processes.\n"
    text += f"{hardware_line(describe())}\n\n{table(args.folder, args.turns)}\n"
    print(text)
    save_text(text, args.folder / "image_files.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
