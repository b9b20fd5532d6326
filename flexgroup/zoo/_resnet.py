"""The residual networks for ImageNet of He, Zhang, Ren and Sun, 2015.

"Deep Residual Learning for Image Recognition", arXiv 1512.03385, table 1; the bottleneck halves the image in its 3x3
convolution, not in the first 1x1, as all public checkpoints do ("version 1.5").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup.zoo._initial import draw_weights

STAGE_CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """relu(shortcut + conv3x3(relu(conv3x3(x)))); gives ``channels``."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1 down to ``channels``, 3x3, 1x1 up to four times as many, plus the shortcut; gives ``4 * channels``."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """(N, 3, H, W) images, 224x224 as published -> (N, num_classes) logits.

    ``blocks`` is the number of residual blocks in each of the four stages. The names of the weights are torchvision's.
    """

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], blocks: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages, in_channels = [], 64
        for index, (channels, count) in enumerate(zip(STAGE_CHANNELS, blocks, strict=True)):
            stages.append(_stage(block, in_channels, channels, count, stride=1 if index == 0 else 2))
            in_channels = channels * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(in_channels, num_classes)
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, channels: int, count: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels * block.expansion, channels, 1) for _ in range(count - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where the shape changes; None where the block's input is added as it is."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def resnet18(*, num_classes: int = 1000) -> ResNet:
    """18 layers, 11.7 million weights."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


def resnet34(*, num_classes: int = 1000) -> ResNet:
    """34 layers, 21.8 million weights."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes)


def resnet50(*, num_classes: int = 1000) -> ResNet:
    """50 layers in bottlenecks, 25.6 million weights."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)
