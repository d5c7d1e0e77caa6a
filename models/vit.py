"""Vision transformers (Dosovitskiy et al., ICLR 2021) in the sizes of DeiT (Touvron et al., ICML
2021, table 1): torchvision's, with patches that fit the image.
"""

from torch import nn

from models.external import keeps_its_own_initialisation
from models.normalize import normalised
from models.sides import check_multiple


def vit(
    arch: str, num_classes: int, image_size: int, *, width: int, heads: int, depth: int = 12
) -> nn.Module:
    """Patches of 4 pixels for images below 64, of 8 below 128, else of 16; a class token, learnt
    positions; stochastic depth at a rate of 0. Token and head are drawn as DeiT draws them, normal
    of deviation 0.02; the rest as torchvision does.

    Raises:
        UserError: the side is no multiple of the patch.
    """
    # torchvision takes about a second to import.
    from torchvision.models.vision_transformer import VisionTransformer
    from torchvision.ops import StochasticDepth

    patch = 4 if image_size < 64 else 8 if image_size < 128 else 16
    check_multiple(arch, image_size, patch)
    model = VisionTransformer(
        image_size, patch, depth, heads, width, 4 * width, num_classes=num_classes
    )
    for block in model.encoder.layers:
        # In the place of a dropout of 0 at the end of either branch.
        block.dropout = block.mlp[-1] = StochasticDepth(0.0, "row")
    nn.init.trunc_normal_(model.class_token, std=0.02)
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return keeps_its_own_initialisation(normalised(model))


def vit_tiny(num_classes: int, image_size: int = 32) -> nn.Module:
    """5,717,416 parameters with 1,000 classes at 224 pixels."""
    return vit("vit_tiny", num_classes, image_size, width=192, heads=3)


def vit_small(num_classes: int, image_size: int = 32) -> nn.Module:
    """22,050,664 parameters with 1,000 classes at 224 pixels."""
    return vit("vit_small", num_classes, image_size, width=384, heads=6)
