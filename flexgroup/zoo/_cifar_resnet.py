"""The residual networks for CIFAR of He, Zhang, Ren and Sun, 2015.

"Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError

Shortcut: TypeAlias = Literal["A", "B"]


class PaddedSubsample(nn.Module):
    """Option A: every second pixel, then zero channels on both sides; has no weights.

    (N, C, H, W) -> (N, out_channels, ceil(H/2), ceil(W/2)).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``stride`` 2 halves the image."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 and shortcut == "A":
            self.shortcut = nn.Sequential(PaddedSubsample(in_channels, out_channels))
        elif stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """(N, 3, 32, 32) images -> (N, num_classes) logits; ``6 * blocks + 2`` layers.

    Three stages of ``blocks`` basic blocks with ``width``, ``2 * width`` and ``4 * width`` channels. The
    names of the weights are those of the widely used pretrained networks of
    ``akamaster/pytorch_resnet_cifar10``. Raises `FlexgroupError` for a shortcut other than ``"A"`` (subsample
    and pad, as in the paper) or ``"B"`` (1x1 convolution).
    """

    def __init__(self, blocks: int, *, width: int = 16, num_classes: int = 10, shortcut: Shortcut = "A") -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise FlexgroupError(
                f"shortcut {shortcut!r} is unknown; use 'A' (subsample, zero channels) or 'B' (1x1 convolution)"
            )
        if min(blocks, width, num_classes) < 1:
            raise FlexgroupError(
                f"a ResNet of blocks={blocks}, width={width}, num_classes={num_classes} is empty; give at "
                "least 1 of each"
            )
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    rest = [BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def resnet20(*, width: int = 16, num_classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """20 layers, 0.27 million weights at width 16."""
    return CifarResNet(3, width=width, num_classes=num_classes, shortcut=shortcut)


def resnet32(*, width: int = 16, num_classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """32 layers, 0.46 million weights at width 16."""
    return CifarResNet(5, width=width, num_classes=num_classes, shortcut=shortcut)


def resnet44(*, width: int = 16, num_classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """44 layers, 0.66 million weights at width 16."""
    return CifarResNet(7, width=width, num_classes=num_classes, shortcut=shortcut)


def resnet56(*, width: int = 16, num_classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """56 layers, 0.85 million weights at width 16."""
    return CifarResNet(9, width=width, num_classes=num_classes, shortcut=shortcut)


def resnet110(*, width: int = 16, num_classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """110 layers, 1.7 million weights at width 16."""
    return CifarResNet(18, width=width, num_classes=num_classes, shortcut=shortcut)
