"""Copies that are an image's last readers come first: less memory, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexgroup.engine import CompiledModel, Plan, _lower, plan_graph
from flexgroup.engine._order import early_copies
from flexgroup.kernels import TARGETS
from tests.engine.test_in_place import graph_of
from tests.kernels.here import HOST


class Stage(nn.Module):
    """The first block of a stage: a strided branch, and a strided shortcut that is read last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1)
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1))
        self.outer, self.shortcut = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return torch.relu(self.outer(torch.relu(self.inner(x))) + self.shortcut(x))


def plan_of(model: nn.Module, shape: tuple[int, ...], target: str = "x86-64-avx512") -> Plan:
    torch.manual_seed(0)
    return plan_graph(graph_of(model.eval(), shape), TARGETS[target], sparse=False)


def names(plan: Plan) -> list[str]:
    return list(dict.fromkeys(step.name for step in plan.steps))


def test_the_phase_of_a_shortcut_is_copied_before_the_branch(monkeypatch):
    model, shape = Stage(32), (32, 32, 32)
    early = plan_of(model, shape)
    monkeypatch.setattr(_lower, "early_copies", list)
    late = plan_of(model, shape)
    phases = [name for name in names(early) if name.endswith("/phases")]
    assert len(phases) == 2
    before, after = (names(plan) for plan in (late, early))
    (shortcut,) = (name for name in phases if before.index(name) > before.index("inner.2"))
    assert after.index(shortcut) < after.index("inner.0")
    assert early.arena_bytes < 0.9 * late.arena_bytes


def test_the_numbers_are_torchs():
    torch.manual_seed(0)
    model, x = Stage(7).eval(), torch.randn(2, 7, 21, 18)
    with torch.no_grad():
        expected = model(x)
    given = CompiledModel(plan_graph(graph_of(model, (7, 21, 18)), HOST, threads=2), 0.0)(x)
    assert float((given - expected).abs().max()) < 1e-4 * float(expected.abs().max())


class Enlarged(nn.Module):
    """A copy that is no smaller than what it is of: all phases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.strided = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.first(x))
        return self.second(x), self.strided(x)


def test_copies_that_are_no_smaller_stay(monkeypatch):
    found: list[list[object]] = []

    def spy(operations):
        found.extend([list(operations), early_copies(operations)])
        return found[-1]

    monkeypatch.setattr(_lower, "early_copies", spy)
    plan_of(Enlarged(), (8, 16, 16))
    before, after = found
    assert before == after


@pytest.mark.parametrize("target", ["x86-64-avx512", "x86-64-avx2", "aarch64-linux"])
def test_resnet50_takes_less_memory_than_its_images(target):
    """Three images of the first stage, of 3.2 MB, never live at once; nor do two and the phases of one."""
    from flexgroup.zoo import build

    assert plan_of(build("resnet50"), (3, 224, 224), target).arena_bytes < 7.0e6


class Written(nn.Module):
    """An image that goes to the caller, and whose shortcut nobody but the copy reads."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(x)
        return x, x[:, :, ::2, ::2]


def test_an_image_that_is_an_output_too():
    x = torch.randn(1, 3, 8, 8)
    plan = plan_graph(graph_of(Written().eval(), (3, 8, 8)), HOST)
    for given, expected in zip(CompiledModel(plan, 0.0)(x), Written()(x), strict=True):
        assert torch.equal(given, expected)
