"""A small residual network for scikit-learn's handwritten digits, trained in seconds on one core."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """3x3 convolution and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )


class ResidualBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), same shape out as in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class DigitsNet(nn.Module):
    """(N, 1, 8, 8) images -> (N, 10) logits; 184,000 convolution weights.

    One residual block of 32 channels at 8x8 pixels, then two of 64 channels at 4x4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 32)
        self.block1 = ResidualBlock(32)
        self.down = ConvNorm(32, 64, stride=2)
        self.block2 = ResidualBlock(64)
        self.block3 = ResidualBlock(64)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(F.relu(self.stem(x)))
        x = F.relu(self.down(x))
        x = self.block3(self.block2(x))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def digits_net() -> DigitsNet:
    """The network of ``flexgroup demo``: 99 % on the digits' test images after some seconds of training."""
    return DigitsNet()
