"""Activations, gates, resizing and shuffles on an OpenCL device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup import gpu

Compare = Callable[..., gpu.GpuModel]

ACTIVATIONS = {
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "tanh": nn.Tanh(),
    "mish": nn.Mish(),
    "softplus": nn.Softplus(),
    "log_sigmoid": nn.LogSigmoid(),
    "erf": torch.erf,
    "leaky_relu": nn.LeakyReLU(0.1),
    "elu": nn.ELU(),
}


class Net(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_follow_convolutions_linear_layers_and_sums(name: str, same_as_torch: Compare) -> None:
    act = ACTIVATIONS[name]

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 5, 3), nn.Linear(5, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = act(self.conv(x))
            return act(self.linear(act(y + act(-y)).mean((2, 3))))

    same_as_torch(Layers(), torch.randn(1, 3, 9, 8))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
        lambda x: x + x.mean((2, 3), keepdim=True),
        lambda x: x * x.mean(1, keepdim=True),
        lambda x: x * F.silu(x),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.interpolate(x, size=(13, 3), mode="bilinear", align_corners=True),
        lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.channel_shuffle(x, 2),
        lambda x: x * torch.arange(9.0)[:, None],
        lambda x: x.flatten(2).transpose(1, 2),
    ],
)
def test_operators_agree_with_torch(function: Callable[..., torch.Tensor], same_as_torch: Compare) -> None:
    same_as_torch(Net(function), torch.randn(1, 4, 9, 8))
