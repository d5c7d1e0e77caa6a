"""Swin-T (Liu et al., ICCV 2021): torchvision's, with patches and windows that fit the image."""

from collections.abc import Sequence

from torch import nn

from models.external import keeps_its_own_initialisation
from models.normalize import normalised
from models.sides import check_multiple


def swin(
    arch: str,
    num_classes: int,
    image_size: int,
    *,
    width: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
) -> nn.Module:
    """The published patches of 4 and windows of 7 from 128 pixels on; windows of 4 below, which 16
    x 16 patches are a multiple of, and patches of 2 below 64. Stochastic depth up to 0.2, as
    published.

    Raises:
        UserError: the side is no multiple of the patch.
    """
    # torchvision takes about a second to import.
    from torchvision.models.swin_transformer import SwinTransformer

    patch, window = 2 if image_size < 64 else 4, 4 if image_size < 128 else 7
    check_multiple(arch, image_size, patch)
    model = SwinTransformer(
        [patch] * 2,
        width,
        list(depths),
        list(heads),
        [window] * 2,
        stochastic_depth_prob=0.2,
        num_classes=num_classes,
    )
    return keeps_its_own_initialisation(normalised(model))


def swin_t(num_classes: int, image_size: int = 32) -> nn.Module:
    """28,288,354 parameters with 1,000 classes at 224 pixels."""
    return swin("swin_t", num_classes, image_size)
