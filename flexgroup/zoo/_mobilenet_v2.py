"""MobileNetV2 of Sandler, Howard, Zhu, Zhmoginov and Chen, 2018: inverted residuals with linear bottlenecks.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381, table 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup.zoo._channels import divisible
from flexgroup.zoo._initial import draw_weights

# (expansion, output channels, blocks, stride of the first block)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class ConvNormRelu6(nn.Sequential):
    """Convolution, batch norm, and a relu cut off at 6."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """1x1 up to ``expansion`` times the channels, depthwise 3x3, 1x1 down without activation; added where it fits."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [ConvNormRelu6(in_channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNormRelu6(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """(N, 3, H, W) images, 224x224 as published -> (N, num_classes) logits.

    ``width`` multiplies every layer's channels, rounded to a multiple of 8; the last convolution never has fewer than
    1,280. The names of the weights are torchvision's.
    """

    def __init__(self, *, width: float = 1.0, num_classes: int = 1000) -> None:
        super().__init__()
        channels = divisible(32 * width)
        layers: list[nn.Module] = [ConvNormRelu6(3, channels, 3, stride=2)]
        for expansion, full, blocks, stride in STAGES:
            out_channels = divisible(full * width)
            for index in range(blocks):
                layers.append(InvertedResidual(channels, out_channels, stride if index == 0 else 1, expansion))
                channels = out_channels
        last = divisible(1280 * max(1.0, width))
        self.features = nn.Sequential(*layers, ConvNormRelu6(channels, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def mobilenet_v2(*, width: float = 1.0, num_classes: int = 1000) -> MobileNetV2:
    """53 layers, 3.5 million weights at width 1."""
    return MobileNetV2(width=width, num_classes=num_classes)
