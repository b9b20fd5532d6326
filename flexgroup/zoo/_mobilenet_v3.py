"""MobileNetV3, small and large, of Howard et al., 2019: inverted residuals with squeeze-and-excitation and hard-swish.

"Searching for MobileNetV3", arXiv 1905.02244, tables 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup.zoo._channels import divisible
from flexgroup.zoo._initial import draw_weights


class Row(NamedTuple):
    """One line of the paper's tables."""

    kernel: int
    expanded: int
    out_channels: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int


RE, HS = nn.ReLU, nn.Hardswish

LARGE = (
    Row(3, 16, 16, False, RE, 1),
    Row(3, 64, 24, False, RE, 2),
    Row(3, 72, 24, False, RE, 1),
    Row(5, 72, 40, True, RE, 2),
    Row(5, 120, 40, True, RE, 1),
    Row(5, 120, 40, True, RE, 1),
    Row(3, 240, 80, False, HS, 2),
    Row(3, 200, 80, False, HS, 1),
    Row(3, 184, 80, False, HS, 1),
    Row(3, 184, 80, False, HS, 1),
    Row(3, 480, 112, True, HS, 1),
    Row(3, 672, 112, True, HS, 1),
    Row(5, 672, 160, True, HS, 2),
    Row(5, 960, 160, True, HS, 1),
    Row(5, 960, 160, True, HS, 1),
)
SMALL = (
    Row(3, 16, 16, True, RE, 2),
    Row(3, 72, 24, False, RE, 2),
    Row(3, 88, 24, False, RE, 1),
    Row(5, 96, 40, True, HS, 2),
    Row(5, 240, 40, True, HS, 1),
    Row(5, 240, 40, True, HS, 1),
    Row(5, 120, 48, True, HS, 1),
    Row(5, 144, 48, True, HS, 1),
    Row(5, 288, 96, True, HS, 2),
    Row(5, 576, 96, True, HS, 1),
    Row(5, 576, 96, True, HS, 1),
)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a hard-sigmoid of what two 1x1 convolutions make of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = divisible(channels / 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.fc2(scale))


class InvertedResidual(nn.Module):
    """1x1 up, depthwise, squeeze-and-excitation, 1x1 down without activation, as ``row`` says; added where it fits."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if row.expanded != in_channels:
            layers.append(_convolution(in_channels, row.expanded, 1, row.activation))
        layers.append(
            _convolution(row.expanded, row.expanded, row.kernel, row.activation, stride=row.stride, groups=row.expanded)
        )
        if row.squeeze:
            layers.append(SqueezeExcitation(row.expanded))
        layers.append(_convolution(row.expanded, row.out_channels, 1, None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and in_channels == row.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """(N, 3, H, W) images, 224x224 as published -> (N, num_classes) logits.

    ``hidden`` is the width of the classifier's first layer. The names of the weights are torchvision's.
    """

    def __init__(self, rows: Sequence[Row], hidden: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 16, 3, HS, stride=2)]
        channels = 16
        for row in rows:
            layers.append(InvertedResidual(channels, row))
            channels = row.out_channels
        last = 6 * channels
        self.features = nn.Sequential(*layers, _convolution(channels, last, 1, HS))
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, num_classes)
        )
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    activation: type[nn.Module] | None,
    *,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
        *([] if activation is None else [activation()]),
    )


def mobilenet_v3_small(*, num_classes: int = 1000) -> MobileNetV3:
    """2.5 million weights."""
    return MobileNetV3(SMALL, 1024, num_classes)


def mobilenet_v3_large(*, num_classes: int = 1000) -> MobileNetV3:
    """5.5 million weights."""
    return MobileNetV3(LARGE, 1280, num_classes)
