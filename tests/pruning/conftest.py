"""A small network with every kind of layer that the pruner treats in its own way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class SmallNet(nn.Module):
    """(N, 3, 8, 8) images -> (N, 4) logits: plain, depthwise and grouped convolutions, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 24, 3, stride=2, groups=2)
        self.hidden = nn.Linear(24, 20)
        self.classifier = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(torch.relu(self.stem(x)))
        x = torch.relu(self.grouped(torch.relu(self.depthwise(x))))
        return self.classifier(torch.relu(self.hidden(x.mean((2, 3)))))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_net() -> Callable[..., SmallNet]:
    """``make_net(seed)``: a fresh network; the same seed gives the same weights."""

    def make(seed: int = 0) -> SmallNet:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SmallNet()

    return make


@pytest.fixture
def images() -> Tensor:
    return torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(48) % 4


@pytest.fixture
def train(images: Tensor, labels: Tensor) -> Callable[..., None]:
    """``train(model, optimizer, steps, pruner=None)``: plain full-batch training steps."""

    def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, pruner: object = None) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if pruner is not None:
                pruner.step()  # type: ignore[attr-defined]

    return run
