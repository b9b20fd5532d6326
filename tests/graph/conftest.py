"""What the graph's tests share: a comparison with torch, and the little networks they are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup.graph import Graph, from_torch, optimize
from flexgroup.graph._validate import check
from flexgroup.graph.evaluate import evaluate


class PaddedSubsample(nn.Module):
    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Block(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride == 2 and option == "A":
            self.shortcut = PaddedSubsample(out_channels - channels)
        elif stride == 2:
            conv = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y)


class CifarResNet(nn.Module):
    def __init__(self, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 8, 1, option), Block(8, 8, 1, option))
        self.layer2 = nn.Sequential(Block(8, 16, 2, option), Block(16, 16, 1, option))
        self.linear = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


def settle(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and weights that are not those of a fresh layer."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
            if layer.affine:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
    return model


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cifar_resnet() -> Callable[[str], nn.Module]:
    return lambda option: settle(CifarResNet(option))


@pytest.fixture(scope="session")
def same_as_torch() -> Callable[..., tuple[Graph, Graph]]:
    """Lower and optimize a model, compare both graphs with torch on new inputs, and return the two graphs."""

    def compare(model: nn.Module, *example: torch.Tensor, batch: int = 3) -> tuple[Graph, Graph]:
        graph = from_torch(settle(model), example)
        small = optimize(graph)
        inputs = [torch.randn(batch, *x.shape[1:]) for x in example]
        training = model.training
        model.eval()
        with torch.no_grad():
            expected = model(*inputs)
        model.train(training)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for candidate in (graph, small):
            check(candidate)
            outputs = evaluate(candidate, [x.numpy() for x in inputs])
            assert len(outputs) == len(expected)
            for output, reference in zip(outputs, expected, strict=True):
                assert output.shape == tuple(reference.shape)
                assert np.abs(output - reference.numpy()).max() <= 1e-5 * max(1.0, float(reference.abs().max()))
        return graph, small

    return compare
