"""Convolutions that are added are one convolution of both inputs: nothing is stored between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flexgroup
from flexgroup.engine import plan_graph
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import TARGETS
from flexgroup.pruning._latency_network import Network
from flexgroup.pruning._targets import find_layers
from flexgroup.zoo import build
from tests.engine.agreement import RUNNABLE, agree, twins_agree
from tests.engine.networks import PATTERNS, Shortcut, prune, randomise


def shortcut(stride: int = 2) -> nn.Module:
    model = Shortcut(6, 12, stride, 3, bias=True)
    randomise(model, 0)
    return model


def plan_of(model: nn.Module, x: torch.Tensor, threads: int = 1):
    return plan_graph(optimize(from_torch(model, (x,))), TARGETS["x86-64-avx2"], threads=threads)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_sum_is_one_layer_with_torchs_results(pattern: str, stride: int, threads: int) -> None:
    model = shortcut(stride)
    prune(model, pattern, 0.3)
    x = torch.randn(2, 6, 23, 19)
    compiled = flexgroup.compile(model, (x[:1],), threads=threads)
    assert [layer.name for layer in compiled.explain().layers] == ["conv1", "conv2 + down.0"]
    agree(model, compiled, x)
    for name in RUNNABLE:
        agree(model, flexgroup.compile(model, (x[:1],), target=name, threads=threads), x)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_plan_means_the_same_for_every_target(target: str) -> None:
    twins_agree(shortcut(), (6, 23, 19), "2x1 rows", 0.3, target=TARGETS[target], threads=2)


def test_multiply_adds_and_zeros_are_those_of_both_layers() -> None:
    model, x = shortcut(), torch.randn(1, 6, 20, 20)
    prune(model, "4x1", 0.25)
    _, last = flexgroup.compile(model, (x,)).explain().layers
    layers = (model.conv2, model.down[0])
    assert last.dense_macs == 100 * sum(layer.weight.numel() for layer in layers)
    kept = sum(int((layer.weight != 0).sum()) for layer in layers)
    assert last.sparsity == pytest.approx(1 - 100 * kept / last.dense_macs)


def test_its_time_is_shared_out_by_the_weights_that_are_left() -> None:
    model, x = shortcut(), torch.randn(1, 6, 20, 20)
    prune(model, "4x1", 0.25)
    left = {name: int((layer.weight != 0).sum()) for name, layer in (("conv2", model.conv2), ("down.0", model.down[0]))}
    (step,) = [step for step in plan_of(model, x).steps if step.shares]
    assert dict(step.shares) == pytest.approx({name: count / sum(left.values()) for name, count in left.items()})


def test_a_latency_is_predicted_for_each_layer_of_the_sum() -> None:
    model, x = shortcut(), torch.randn(1, 6, 20, 20)
    layers = find_layers(model, None, ())
    network = Network(model, (x,), layers, target=TARGETS["x86-64-avx2"], threads=1)
    seconds = network.seconds_by_layer(network.plan({}))
    assert {"conv1", "conv2", "down.0"} <= set(seconds)
    weights = [layer.weight.numel() for layer in (model.conv2, model.down[0])]
    assert seconds["conv2"] / seconds["down.0"] == pytest.approx(weights[0] / weights[1])


class Kept(nn.Module):
    """Sums that are no single layer: what is added is read elsewhere, cut off, grouped, or a sum itself."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a = nn.Conv2d(4, 8, 3, padding=1)
        self.b = nn.Conv2d(4, 8, 1, groups=4 if kind == "grouped" else 1)
        self.c = nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        a, b = self.a(x), self.b(x)
        if self.kind == "cut off":
            a = torch.relu(a)
        if self.kind == "curved":
            a = nn.functional.silu(a)
        y = torch.relu(a + b)
        if self.kind == "output":
            return y, a
        if self.kind == "read":
            return y * a
        return y + self.c(x) if self.kind == "thrice" else y


@pytest.mark.parametrize("kind", ["cut off", "curved", "output", "read", "grouped", "thrice", "plain"])
def test_only_what_nobody_else_reads_is_added_in_place(kind: str) -> None:
    model = Kept(kind)
    randomise(model, 0)
    x = torch.randn(2, 4, 9, 11)
    compiled = flexgroup.compile(model, (x[:1],))
    joined = [layer.name for layer in compiled.explain().layers if " + " in layer.name]
    assert len(joined) == (kind in ("plain", "thrice"))
    with torch.no_grad():
        expected, given = model(x), compiled(x)
    for want, have in zip(*((value,) if torch.is_tensor(value) else value for value in (expected, given)), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "sums"), [("resnet18", 3), ("resnet50", 4), ("mobilenet_v2", 0)])
def test_shortcuts_of_the_zoo(name: str, sums: int) -> None:
    plan = plan_graph(optimize(from_torch(build(name).eval(), (torch.randn(1, 3, 64, 64),))), TARGETS["x86-64-avx512"])
    assert len({step.name for step in plan.steps if step.shares}) == sums
