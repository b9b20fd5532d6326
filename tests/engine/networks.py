"""Random small networks, and zeros for their weights, for tests of everything that runs networks."""

from __future__ import annotations

import os

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from flexgroup import Groups, select

TIMES = int(os.environ.get("FLEXGROUP_EXAMPLES", "1"))


def examples(count: int) -> int:
    """How many random cases a test tries: ``FLEXGROUP_EXAMPLES=50 pytest tests/engine`` tries 50 times as many."""
    return count * TIMES


PATTERNS = ["dense", "1x1", "2x1 rows", "4x1 rows", "8x1 rows", "4x1", "2x2 cols"]


@st.composite
def convolutions(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    """One convolution with any kernel, stride, padding, dilation and groups, and an input shape that it takes."""
    draw(st.random_module())  # torch's numbers too
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    in_channels = groups * draw(st.integers(1, 4))
    out_channels = groups * draw(st.integers(1, 5))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    smallest = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    height, width = (draw(st.integers(low, low + 11)) for low in smallest)
    bias = draw(st.booleans())
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias)
    return conv, (in_channels, height, width)


class Residual(nn.Module):
    """Two convolutions with batch norm, around which the input (or an option-A shortcut of it) is carried."""

    def __init__(self, channels: int, out: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, kernel, 1, kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.extra = stride, out - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            x = nn.functional.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return torch.relu(x + y)


class Shortcut(nn.Module):
    """A convolution, and one of another kernel and stride of the same input, added: one matrix for the engine."""

    def __init__(self, channels: int, out: int, stride: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, kernel, stride, kernel // 2)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 2, dilation=2, bias=bias)
        self.down = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=not bias), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu6(self.conv2(torch.relu(self.conv1(x))) + self.down(x))


class Branches(nn.Module):
    """Two paths over one input, concatenated."""

    def __init__(self, channels: int, pool: nn.Module) -> None:
        super().__init__()
        self.left = nn.Conv2d(channels, 3, 3, padding=1)
        self.right = nn.Sequential(pool, nn.Conv2d(channels, 2, 1), nn.ReLU6())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), self.right(x), x], dim=1)


@st.composite
def networks(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    """A stack of blocks that ends in an image or in a vector, with its input shape."""
    draw(st.random_module())  # torch's numbers too
    channels = draw(st.integers(1, 6))
    shape = (channels, draw(st.integers(5, 20)), draw(st.integers(5, 20)))
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "residual", "shortcut", "pool", "branches", "depthwise", "norm", "clamp"]))
        if kind == "conv":
            out, kernel = draw(st.integers(1, 12)), draw(st.sampled_from([1, 3]))
            stride, padding = draw(st.integers(1, 2)), draw(st.integers(kernel // 2, kernel // 2 + 1))
            layers += [nn.Conv2d(channels, out, kernel, stride, padding), nn.BatchNorm2d(out)]
            layers += [draw(st.sampled_from([nn.ReLU(), nn.ReLU6(), nn.Identity()]))]
            channels = out
        elif kind == "residual":
            out = channels + 2 * draw(st.integers(0, 2))
            layers.append(Residual(channels, out, draw(st.integers(1, 2)), draw(st.sampled_from([1, 3]))))
            channels = out
        elif kind == "shortcut":
            out = draw(st.integers(1, 12))
            layers.append(
                Shortcut(channels, out, draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), draw(st.booleans()))
            )
            channels = out
        elif kind == "pool":
            pool = draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
            layers.append(pool(draw(st.integers(2, 3)), draw(st.integers(1, 2)), padding=1))
        elif kind == "branches":
            pool = draw(st.sampled_from([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)]))
            layers.append(Branches(channels, pool))
            channels += 5
        elif kind == "depthwise":
            layers.append(nn.Conv2d(channels, channels, 3, draw(st.integers(1, 2)), 1, groups=channels))
        elif kind == "norm":
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        else:
            layers.append(nn.Hardtanh(-0.5, 0.75))
    ending = draw(st.sampled_from(["image", "mean", "flatten"]))
    if ending == "mean":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    model = nn.Sequential(*layers)
    randomise(model, draw(st.integers(0, 10_000)))
    if ending == "flatten":
        features = model(torch.zeros(1, *shape)).numel()
        head = nn.Sequential(nn.Flatten(), nn.Linear(features, 37), nn.ReLU(), nn.Linear(37, 5))
        randomise(head, 1)
        model = nn.Sequential(model, head)
    return model.eval(), shape


def randomise(model: nn.Module, seed: int) -> None:
    """Weights and statistics that make every mistake visible, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().add_(0.5)
    model.eval()


def prune(model: nn.Module, pattern: str, keep: float) -> None:
    """Zero the weights outside random groups of ``pattern`` in every convolution and linear layer that they fit."""
    if pattern == "dense":
        return
    size, _, unaligned = pattern.partition(" ")
    groups = Groups(size, unaligned=unaligned or None)
    rng = np.random.default_rng(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            matrix = module.weight.detach().reshape(module.weight.shape[0], -1)
            if groups.rows <= matrix.shape[0] and groups.cols <= matrix.shape[1]:
                mask = select({"": rng.random(matrix.shape)}, groups, keep).masks[""]
                with torch.no_grad():
                    matrix *= torch.from_numpy(mask)
