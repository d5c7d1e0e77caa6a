"""Images that live on the device as uint8, and their crops."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


class Augmentation(NamedTuple):
    """Crop offsets in 0..2*pad and flips of a pass, each (n,) in its order, or None."""

    rows: torch.Tensor | None
    columns: torch.Tensor | None
    flips: torch.Tensor | None

    def part(self, start: int, end: int) -> "Augmentation":
        """That of the images from ``start`` to ``end``."""
        return Augmentation(*(draws if draws is None else draws[start:end] for draws in self))


class DeviceImages:
    """uint8 images (n, side, side, 3) on the device, zero-padded: a crop is a shifted window."""

    def __init__(self, images: np.ndarray, device: torch.device, pad: int):
        resident = torch.from_numpy(images).to(device)
        self.padded = F.pad(resident, (0, 0, pad, pad, pad, pad))
        self.pad, self.side, self.device = pad, images.shape[1], device
        # A view (n, 2p+1, 2p+1, 3, side, side).
        self.windows = self.padded.unfold(1, self.side, 1).unfold(2, self.side, 1)

    def batch(
        self, indices: torch.Tensor, rows: torch.Tensor | int, columns: torch.Tensor | int
    ) -> torch.Tensor:
        """uint8 windows (b, 3, side, side) of ``indices`` at the given offsets in 0..2*pad."""
        # Pixels stay in (row, column, channel) order: the permuted view is channels_last.
        windows = self.windows.permute(0, 1, 2, 4, 5, 3)
        return windows[indices, rows, columns].permute(0, 3, 1, 2)

    def augmented(self, indices: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """fp32 images (b, 3, side, side) in [0, 1], channels_last, cropped and flipped."""
        rows, columns, flips = augmentation
        if rows is None:
            rows = columns = self.pad
        pixels = self.batch(indices, rows, columns)
        if flips is not None:
            pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
        return pixels.float().div_(255).contiguous(memory_format=torch.channels_last)
