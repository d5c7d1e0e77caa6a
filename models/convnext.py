"""ConvNeXt-T (Liu et al., CVPR 2022): torchvision's, with a stem that fits the image."""

from collections.abc import Sequence

from torch import nn

from models.external import keeps_its_own_initialisation
from models.normalize import normalised
from models.sides import check_multiple


def convnext(
    arch: str,
    num_classes: int,
    image_size: int,
    *,
    widths: Sequence[int] = (96, 192, 384, 768),
    depths: Sequence[int] = (3, 3, 9, 3),
) -> nn.Module:
    """The published stem of 4 pixels from 64 on, one of 2 pixels below. Stochastic depth up to 0.1,
    as published.

    Raises:
        UserError: the side is no multiple of the stem.
    """
    # torchvision takes about a second to import.
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    patch = 2 if image_size < 64 else 4
    check_multiple(arch, image_size, patch)
    after = [*widths[1:], None]
    stages = [CNBlockConfig(*stage) for stage in zip(widths, after, depths, strict=True)]
    model = ConvNeXt(stages, stochastic_depth_prob=0.1, num_classes=num_classes)
    stem = model.features[0][0]
    if patch != stem.kernel_size[0]:
        model.features[0][0] = nn.Conv2d(3, widths[0], patch, stride=patch)
        nn.init.trunc_normal_(model.features[0][0].weight, std=0.02)
        nn.init.zeros_(model.features[0][0].bias)
    return keeps_its_own_initialisation(normalised(model))


def convnext_t(num_classes: int, image_size: int = 32) -> nn.Module:
    """28,589,128 parameters with 1,000 classes at 224 pixels."""
    return convnext("convnext_t", num_classes, image_size)
