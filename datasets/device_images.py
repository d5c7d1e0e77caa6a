"""Where a loader's images are: on the device, or streamed to it from memory or a memory map."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from datasets.resized_crop import middle, resized_crops
from runtime import distributed
from runtime.devices import free_memory
from utils import UserError

STORES = ("auto", "device", "stream")
GIB = 2**30
Bounds = Sequence[tuple[int, int]]


class Augmentation(NamedTuple):
    """Crop offsets in 0..2*pad and flips of a pass, each (n,) in its order, or None; the parts that
    are resized, (n, 4) of :func:`datasets.resized_crop.draw_boxes`, or None.
    """

    rows: torch.Tensor | None
    columns: torch.Tensor | None
    flips: torch.Tensor | None
    boxes: torch.Tensor | None = None

    def part(self, start: int, end: int) -> "Augmentation":
        """That of the images from ``start`` to ``end``."""
        return Augmentation(*(draws if draws is None else draws[start:end] for draws in self))


class DeviceImages:
    """uint8 images (n, held, held, 3) on the device; on the CPU these are the given array's own
    pages, be they memory or a file's.

    Batches have images of ``side``, by default that of ``images``: resized parts in training, else
    their middle.
    """

    def __init__(self, images: np.ndarray, device: torch.device, pad: int, side: int | None = None):
        self.pixels = self._held(torch.from_numpy(images), device)
        self.pad, self.held, self.device = pad, images.shape[1], device
        self.side, self.resized = side or self.held, side is not None
        self.middle = middle(self.held, self.side)

    def _held(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        return pixels.to(device)

    def fetched(self, indices: torch.Tensor, bounds: Bounds) -> Iterator[torch.Tensor]:
        """uint8 images (b, held, held, 3) on the device, of each part of ``indices`` (n,) from its
        begin to its end in ``bounds``.
        """
        for start, end in bounds:
            yield self.pixels[indices[start:end]]

    def batch(
        self, indices: torch.Tensor, rows: torch.Tensor | int, columns: torch.Tensor | int
    ) -> torch.Tensor:
        """uint8 windows (b, 3, side, side) of ``indices`` at the given offsets in 0..2*pad."""
        (pixels,) = self.fetched(indices, [(0, len(indices))])
        return self.windows(pixels, rows, columns)

    def windows(
        self, pixels: torch.Tensor, rows: torch.Tensor | int, columns: torch.Tensor | int
    ) -> torch.Tensor:
        """uint8 windows (b, 3, side, side) of the zero-padded middle of ``pixels`` (b, held, held,
        3).
        """
        pad, side = self.pad, self.side
        pixels = pixels[:, self.middle, self.middle]
        if pad and not (isinstance(rows, int) and rows == columns == pad):
            padded = F.pad(pixels, (0, 0, pad, pad, pad, pad))
            # A view (b, 2p+1, 2p+1, side, side, 3): pixels stay in (row, column, channel) order.
            views = padded.unfold(1, side, 1).unfold(2, side, 1).permute(0, 1, 2, 4, 5, 3)
            pixels = views[torch.arange(len(pixels), device=pixels.device), rows, columns]
        return pixels.permute(0, 3, 1, 2)

    def augmented(self, pixels: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """fp32 images (b, 3, side, side) in [0, 1], channels_last, cropped, resized and flipped, of
        ``pixels`` (b, held, held, 3).
        """
        rows, columns, flips, boxes = augmentation
        if rows is None:
            rows = columns = self.pad
        if boxes is not None:
            pixels = resized_crops(pixels, boxes, self.side)
        else:
            pixels = self.windows(pixels, rows, columns)
        if flips is not None:
            pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
        return pixels.float().div_(255).contiguous(memory_format=torch.channels_last)


class StreamedImages(DeviceImages):
    """Images that stay where they are: a thread gathers one batch ahead, in pinned memory for CUDA.

    Batches are those of :class:`DeviceImages`, bit for bit.
    """

    def __init__(self, images: np.ndarray, device: torch.device, pad: int, side: int | None = None):
        super().__init__(images, device, pad, side)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="stream")

    def _held(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        return pixels

    def fetched(self, indices: torch.Tensor, bounds: Bounds) -> Iterator[torch.Tensor]:
        indices = indices.cpu()
        parts = iter([indices[start:end] for start, end in bounds])
        waiting = self._begin(next(parts, None))
        while waiting is not None:
            buffer, gathered = waiting
            gathered.result()
            waiting = self._begin(next(parts, None))
            yield buffer.to(self.device, non_blocking=True)

    def _begin(self, indices: torch.Tensor | None) -> tuple | None:
        """A buffer, and the thread's work of filling it; None where nothing is left."""
        if indices is None:
            return None
        shape = (len(indices), *self.pixels.shape[1:])
        # The allocator of pinned memory gives a buffer out again only once its copy is done.
        buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return buffer, self.thread.submit(_gather, self.pixels, indices, buffer)


def _gather(pixels: torch.Tensor, indices: torch.Tensor, buffer: torch.Tensor) -> None:
    with torch.inference_mode(buffer.is_inference()):  # each thread has a mode of its own
        torch.index_select(pixels, 0, indices, out=buffer)


def place_images(
    images: np.ndarray,
    device: torch.device,
    pad: int,
    store: str = "device",
    side: int | None = None,
) -> DeviceImages:
    """The images in a ``store``, device or stream, that crops of ``pad`` zeros are taken from, or
    where ``side`` is given resized crops of that side.
    """
    kind = StreamedImages if store == "stream" else DeviceImages
    return kind(images, device, pad, side)


def choose_store(asked: str, arrays: Sequence[np.ndarray], device: torch.device) -> tuple[str, str]:
    """Where the images of ``arrays`` go, device or stream, and a line that says why.

    "auto" keeps them on the device where they take at most half of what is free there. On the CPU
    arrays in memory are there already, and pages of a memory map are read in place.

    Raises:
        UserError: "device" is asked for, and they do not fit.
    """
    size = sum(array.nbytes for array in arrays)
    mapped = any(_mapped(array) for array in arrays)
    needed = size if mapped or device.type != "cpu" else 0
    if device.type == "cuda" and distributed.shares_gpus():
        needed *= distributed.local_world_size()
    free = free_memory(device)
    if asked == "device" and needed > free and not (mapped and device.type == "cpu"):
        raise UserError(
            f"--store device: the images need {needed / GIB:.2f} GiB, {device} has"
            f" {free / GIB:.2f} free; use --store stream"
        )
    store = asked if asked != "auto" else "device" if needed <= free / 2 else "stream"
    kind = "memory-mapped" if mapped else "in memory"
    line = f"--store {store}: {size / GIB:.3g} GiB of images, {kind}, {free / GIB:.3g} free"
    return store, f"{line} on {device}"


def _mapped(array: np.ndarray | None) -> bool:
    """Whether an array's pages are those of a file."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False
