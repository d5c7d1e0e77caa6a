"""ImageNet's augmentation: a part of random area and shape of each image, resized to one side.

Its law and its pixels are those of torchvision's RandomResizedCrop with antialiasing (Szegedy et
al., "Going deeper with convolutions", CVPR 2015). Images are held as squares that are larger than
what the model sees, as 256 is to 224: those of validation and test lose their edges (He et al.,
"Deep residual learning for image recognition", CVPR 2016).
"""

import math

import torch
import torch.nn.functional as F

HELD, SEEN = 256, 224
AREA, LOG_RATIO = (0.08, 1.0), (math.log(3 / 4), math.log(4 / 3))
TRIES = 10  # draws of area and shape, of which the first that fits is taken


def held_side(side: int) -> int:
    """The side of the squares that images are held as, for a model that sees ``side`` pixels."""
    return round(side * HELD / SEEN)


def middle(held: int, side: int) -> slice:
    """Where the middle ``side`` of ``held`` pixels is."""
    edge = round((held - side) / 2)
    return slice(edge, edge + side)


def draw_boxes(count: int, held: int, generator: torch.Generator) -> torch.Tensor:
    """Top, left, height and width, (count, 4) int64, of parts of squares of ``held`` pixels.

    The share of the area is uniform in 0.08 to 1, the logarithm of width / height uniform between
    those of 3/4 and 4/3, the place uniform; an image that no try fits is taken whole.
    """
    device = generator.device

    def uniform() -> torch.Tensor:
        return torch.rand(count, generator=generator, device=device)

    height = torch.full((count,), held, device=device)
    width, found = height.clone(), torch.zeros(count, dtype=torch.bool, device=device)
    for _ in range(TRIES):
        area = (AREA[0] + uniform() * (AREA[1] - AREA[0])) * held**2
        ratio = (LOG_RATIO[0] + uniform() * (LOG_RATIO[1] - LOG_RATIO[0])).exp_()
        sides = [(area / ratio).sqrt_().round_().long(), (area * ratio).sqrt_().round_().long()]
        fits = ~found
        for side in sides:
            fits &= (side > 0) & (side <= held)
        height, width = torch.where(fits, sides[0], height), torch.where(fits, sides[1], width)
        found |= fits
    free = held - height, held - width
    # A product of float32 can round up to one place too many.
    top, left = (torch.minimum((uniform() * (most + 1)).long(), most) for most in free)
    return torch.stack([top, left, height, width], 1)


def resized_crops(pixels: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """uint8 (b, 3, side, side), channels_last: the parts ``boxes`` (b, 4) of ``pixels``, uint8
    (b, h, w, 3), resized bilinearly with antialiasing.
    """
    resize = _by_image if pixels.device.type == "cpu" else by_products
    return resize(pixels, boxes, side)


def _by_image(pixels: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """On the CPU torch's kernel for one image is faster than products of whole batches."""
    planes, size = pixels.permute(0, 3, 1, 2), (side, side)
    found = torch.empty(len(pixels), side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        part = planes[i : i + 1, :, top : top + height, left : left + width]
        found[i : i + 1] = F.interpolate(part, size=size, mode="bilinear", antialias=True)
    return found


def by_products(pixels: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """:func:`resized_crops` as two matrix products, which wait for nothing on the host."""
    b, h, w, _ = pixels.shape
    top, left, height, width = boxes.float().unbind(1)
    with torch.autocast(pixels.device.type, enabled=False):
        rows = _weights(top, height, h, side) @ pixels.float().view(b, h, w * 3)
        turned = rows.view(b, side, w, 3).transpose(1, 2).reshape(b, w, side * 3)
        found = _weights(left, width, w, side) @ turned
    found = found.view(b, side, side, 3).transpose(1, 2)  # (b, rows, columns, 3)
    return found.round_().to(torch.uint8).contiguous().permute(0, 3, 1, 2)


def _weights(start: torch.Tensor, length: torch.Tensor, held: int, side: int) -> torch.Tensor:
    """What each of ``held`` pixels gives to each of ``side``: (b, side, held), rows of sum 1.

    A triangle around the middle of the pixel that is made, as wide as two of these where the image
    shrinks, else as two of the pixels that it is made of, and cut at the ends of the part.
    """
    device = start.device
    start, length = start[:, None, None], length[:, None, None]
    scale = length / side
    middle = start + (torch.arange(side, device=device)[:, None] + 0.5) * scale
    place = torch.arange(held, device=device) + 0.5
    weights = (1 - (place - middle).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= (place > start) & (place < start + length)
    return weights / weights.sum(-1, keepdim=True)
