"""ResNet-18/34/50 (He et al., CVPR 2016): torchvision's, with a CIFAR or an ImageNet stem."""

import torch
from torch import nn

from models.normalize import Normalize


def _resnet(block: str, layers: list[int], num_classes: int, imagenet_stem: bool) -> nn.Module:
    # torchvision takes about a second to import.
    from torchvision.models import resnet as tv

    class ResNet(tv.ResNet):
        def __init__(self) -> None:
            super().__init__(getattr(tv, block), layers, num_classes)
            self.normalize = Normalize()
            if not imagenet_stem:
                self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
                self.maxpool = nn.Identity()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(self.normalize(images))

    return ResNet()


def resnet18(num_classes: int, imagenet_stem: bool = False) -> nn.Module:
    """11,173,962 parameters with the CIFAR stem and 10 classes."""
    return _resnet("BasicBlock", [2, 2, 2, 2], num_classes, imagenet_stem)


def resnet34(num_classes: int, imagenet_stem: bool = False) -> nn.Module:
    """21,282,122 parameters with the CIFAR stem and 10 classes."""
    return _resnet("BasicBlock", [3, 4, 6, 3], num_classes, imagenet_stem)


def resnet50(num_classes: int, imagenet_stem: bool = False) -> nn.Module:
    """23,520,842 parameters with the CIFAR stem and 10 classes."""
    return _resnet("Bottleneck", [3, 4, 6, 3], num_classes, imagenet_stem)
