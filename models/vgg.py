"""VGG-16 with BatchNorm (Simonyan & Zisserman, ICLR 2015), two CIFAR forms of the literature."""

import torch
from torch import nn

from models.normalize import Normalize

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions)


def _features(bias: bool) -> nn.Sequential:
    """3x3 convolutions with BatchNorm and ReLU, a 2x2 max-pool between stages."""
    layers, channels_in = [], 3
    for channels, convolutions in STAGES:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels_in, channels, 3, padding=1, bias=bias))
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            channels_in = channels
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """Convolutions, one average pool to ``pooled`` x ``pooled``, a classifier."""

    def __init__(self, features: nn.Sequential, pooled: int, classifier: nn.Module):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = classifier
        self.normalize = Normalize()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(self.normalize(images))).flatten(1))


def vgg16_bn(num_classes: int) -> nn.Module:
    """Bias-free convolutions, three linear layers: 15,311,818 parameters with 10 classes."""
    layers = [nn.Linear(512 * 2 * 2, 256), nn.ReLU(inplace=True)]
    layers += [nn.Linear(256, 256), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(256, num_classes))
    return VGG(_features(bias=False), 2, nn.Sequential(*layers))


def vgg16_bn_lth(num_classes: int) -> nn.Module:
    """As in the lottery-ticket literature, one linear layer: 14,728,266 parameters, 10 classes."""
    return VGG(_features(bias=True), 1, nn.Linear(512, num_classes))
