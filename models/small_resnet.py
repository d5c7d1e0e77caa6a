"""ResNet-20/44/56 for CIFAR (He et al., CVPR 2016, section 4.2) with shortcuts of option A."""

import torch
import torch.nn.functional as F
from torch import nn

from models.normalize import Normalize


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut drops every second pixel and zero-pads channels."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.pad = stride, (channels - channels_in) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x, inplace=True)


class SmallResNet(nn.Module):
    """Depth 6n + 2 with n blocks a stage of 16, 32 and 64 channels."""

    def __init__(self, blocks: int, num_classes: int):
        super().__init__()
        self.normalize = Normalize()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.fc = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(channels_in, channels, stride)
        return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(self.normalize(images))), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def resnet20s(num_classes: int) -> nn.Module:
    """269,722 parameters with 10 classes."""
    return SmallResNet(3, num_classes)


def resnet44s(num_classes: int) -> nn.Module:
    """658,586 parameters with 10 classes."""
    return SmallResNet(7, num_classes)


def resnet56s(num_classes: int) -> nn.Module:
    """853,018 parameters with 10 classes."""
    return SmallResNet(9, num_classes)
