"""VGG-16 with BatchNorm (Simonyan & Zisserman, ICLR 2015) in the two CIFAR forms of the unlearning
literature.
"""

import torch
from torch import nn

from models.normalize import Normalize

CHANNELS = (
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    256,
    256,
    256,
    "pool",
    512,
    512,
    512,
    "pool",
    512,
    512,
    512,
)


def _features(bias: bool) -> nn.Sequential:
    layers, channels_in = [], 3
    for channels in CHANNELS:
        if channels == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
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
    """Bias-free convolutions and a three-layer classifier: 15,311,818 parameters with
    10 classes.
    """
    hidden = [
        nn.Linear(512 * 2 * 2, 256),
        nn.ReLU(inplace=True),
        nn.Linear(256, 256),
        nn.ReLU(inplace=True),
    ]
    return VGG(_features(bias=False), 2, nn.Sequential(*hidden, nn.Linear(256, num_classes)))


def vgg16_bn_lth(num_classes: int) -> nn.Module:
    """Convolutions with biases and one linear layer, as in the lottery-ticket line of work:
    14,728,266 parameters.
    """
    return VGG(_features(bias=True), 1, nn.Linear(512, num_classes))
