"""A network, data and pruner that the callbacks of every library are tested with."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flexgroup import Cubic, Groups, Pruner


class TinyNet(nn.Module):
    """(N, 12) -> (N, 4) logits, or with labels also the loss, in a dict as Hugging Face's trainer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.hidden = nn.Linear(16, 16)
        self.classifier = nn.Linear(16, 4)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.classifier(torch.relu(self.hidden(torch.relu(self.first(x)))))
        out = {"logits": logits}
        return out if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), **out}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_net() -> Callable[[], TinyNet]:
    """Every call gives a network with the same weights."""

    def make() -> TinyNet:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return TinyNet()

    return make


@pytest.fixture
def samples() -> list[dict[str, Tensor]]:
    """48 samples: 6 batches of 8 an epoch."""
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(12, generator=generator), "labels": torch.tensor(i % 4)} for i in range(48)]


@pytest.fixture
def make_pruner() -> Callable[..., Pruner]:
    """``make_pruner(model, end=8)``: 3 of 4 weights go, chosen anew at every other step up to ``end``."""

    def make(model: nn.Module, end: int = 8, **options: object) -> Pruner:
        return Pruner(model, Groups("4x1", "rows"), 0.75, schedule=Cubic(0, end, 2), **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def no_accelerator_left_behind():
    """Trainers leave Accelerate's process-wide state, which other tests in the same process would find."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(True)
