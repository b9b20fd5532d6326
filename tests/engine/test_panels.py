"""Kernels that copy a tile's inputs to a panel first: torch's numbers for any form, tap, cut, chain and thread."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import CompiledModel, Plan, plan_graph
from flexgroup.engine import _choose as choosing
from flexgroup.engine._choose import HEIGHTS, Choice, Layer, choose, panel_for, tile_of
from flexgroup.engine._costs import Costs
from flexgroup.engine._objects import assembly
from flexgroup.kernels import F16_IN_F32, F32, TARGETS, ConvKernel, Target
from tests.engine.networks import PATTERNS, examples, prune
from tests.engine.test_in_place import CACHES, CUTS, both_plans, gives_what_torch_gives, graph_of, residual_networks
from tests.kernels.here import HOST
from tests.kernels.test_half import inner_loop

AVX2 = TARGETS["x86-64-avx2"]


def panels_where_possible(form: str = "", rows: int = 4):
    """A chooser that copies every tile that can be copied, in kernels of that form (any, if there is none)."""

    def chooser(layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice:
        choice = choose(layer, target, sparse=sparse, heights=heights)
        if form and layer.blocks == 1:
            tile = tile_of(layer, form, rows, target)
            choice = replace(choice, form=form, rows=rows, tile=tile, groups=layer.groups(form, rows))
        return replace(choice, panel=panel_for(layer, choice.form, choice.rows, choice.tile, target))

    return chooser


@pytest.fixture(scope="module", autouse=True)
def anywhere():
    """Let long tiles and tiny caches have panels too: they are right there, if not fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "SHORT_TILE", 1 << 20)
        patch.setattr(choosing, "PANEL_OF_CACHE", 100.0)
        yield


def panels(plan: Plan) -> list[ConvKernel]:
    return [step.kernel for step in plan.steps if isinstance(step.kernel, ConvKernel) and step.kernel.panel]


@settings(max_examples=examples(10), deadline=None)
@given(
    residual_networks(),
    st.sampled_from(PATTERNS),
    CACHES,
    st.integers(1, 3),
    st.sampled_from(["", "dense", "strip", "ring"]),
)
def test_results_are_torchs_for_any_cache_and_threads(case, pattern, cache, threads, form):
    model, shape = case
    prune(model, pattern, 0.5)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        expected = model(x)
    target, chooser = replace(HOST, cache_bytes=cache), panels_where_possible(form)
    plan, apart = both_plans(graph_of(model, shape), target, threads, chooser=chooser)
    given = CompiledModel(plan, 0.0)(x)
    scale = max(1e-3, float(expected.abs().max()))
    assert float((given - expected).abs().max()) <= 1e-4 * scale
    assert torch.equal(given, CompiledModel(apart, 0.0)(x))
    alone = plan_graph(graph_of(model, shape), target, chooser=chooser)
    assert torch.equal(given, CompiledModel(alone, 0.0)(x))


@settings(max_examples=examples(10), deadline=None)
@given(
    residual_networks(),
    CUTS,
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from(sorted(TARGETS)),
    st.sampled_from(["", "dense", "strip", "ring"]),
)
def test_the_twins_agree_in_any_chain_on_any_target(case, cuts, band, threads, target, form):
    gives_what_torch_gives(*case, cuts, band, TARGETS[target], threads, chooser=panels_where_possible(form))


@pytest.mark.parametrize("element", [F32, F16_IN_F32], ids=lambda element: element.name)
@pytest.mark.parametrize("rows", HEIGHTS)
@pytest.mark.parametrize(("kernel", "dilation"), [((1, 1), 1), ((3, 3), 1), ((1, 5), 1), ((5, 1), 1), ((3, 3), 2)])
@pytest.mark.parametrize("form", ["dense", "strip", "ring"])
def test_every_part_of_the_kernel(element, rows, kernel, dilation, form):
    """Taps in rows and columns, residuals, tails, channels that fill no strip, planes that no group reads."""
    if element.converts and not HOST.half:
        pytest.skip("this processor has no instructions for numbers of 16 bits")
    padding = tuple(size // 2 * dilation for size in kernel)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(5, 21, 1), nn.Conv2d(21, 21, kernel, 1, padding, dilation)
            self.last = nn.Conv2d(21, 3, 3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.last(torch.relu(x + self.second(x)))

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(3, 5, 9, 13)
    with torch.no_grad():
        model.second.weight[:, ::3] = 0
        expected = model(x)
    chooser = panels_where_possible(form, rows)
    plan = plan_graph(graph_of(model, (5, 9, 13)), HOST, threads=2, element=element, chooser=chooser)
    used = panels(plan)
    assert len(used) >= 3
    assert {each.span for each in used} == {0, 1, (kernel[1] - 1) * dilation}
    error = float((CompiledModel(plan, 0.0)(x) - expected).abs().max() / expected.abs().max())
    assert error < (4e-3 if element.converts else 1e-5)


def test_only_segments_that_are_read_are_copied():
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, padding=1)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[:, 2, 0] = 1.0
        model[1].weight[:, 5, 1:] = 1.0
    chooser = panels_where_possible("strip")
    plan = plan_graph(graph_of(model, (4, 10, 10)), AVX2, chooser=chooser)
    step = [step for step in plan.steps if isinstance(step.kernel, ConvKernel)][-1]
    (part,) = step.parts
    assert dict(zip(step.kernel.signature.fields, part, strict=True))["segment_count"] == 3


def test_threads_have_panels_of_their_own_behind_the_arena():
    model = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1)).eval()
    graph = graph_of(model, (64, 24, 24))
    without = plan_graph(graph, AVX2, threads=2, chooser=lambda *layer, **how: replace(choose(*layer, **how), panel=0))
    plan = plan_graph(graph, AVX2, threads=2, chooser=panels_where_possible("strip"))
    at = ConvKernel("strip", 4, 3, False, panel=3).signature.fields.index("panel")
    found = {part[at] for step in plan.steps if isinstance(step.kernel, ConvKernel) for part in step.parts}
    assert len(found) == 2
    assert plan.arena_bytes > without.arena_bytes


def layer(share: float, size: int = 1, channels: int = 512, *, far: bool = False) -> Layer:
    kept = (np.random.default_rng(0).random((64, channels * size**2)) < share).repeat(4, axis=0)
    return Layer(kept, 28, 28, 28, 8, size > 1, channels, channels * size, size - 1, far)


def test_panels_are_for_short_tiles_that_are_read_often(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(choosing, "SHORT_TILE", 128)
    monkeypatch.setattr(choosing, "PANEL_OF_CACHE", 0.5)

    def panel(of: Layer, target: Target = AVX2, costs: Costs | None = None) -> int:
        return choose(of, target, sparse=True, heights=(4,), costs=costs or Costs()).panel

    assert panel(layer(0.2)) == 3
    assert panel(layer(0.2), costs=Costs(copy=1e3)) == 0
    assert panel(layer(0.01)) == 0, "no plane is read twice"
    assert panel(layer(0.2, channels=4096)) == 0, "a panel that leaves the second-level cache"
    assert panel(replace(layer(0.2), lanes=16), TARGETS["x86-64-avx512"]) == 0, "a tile is whole cache lines"
    assert panel(layer(0.02, channels=64)) == 0
    assert panel(layer(0.04, channels=64, far=True)) == 3, "copies wait for memory together"


@pytest.mark.parametrize(("form", "rows", "tile"), [("strip", 4, 3), ("ring", 4, 3), ("dense", 2, 6)])
def test_the_inner_loop_stays_in_registers(form, rows, tile):
    loop = inner_loop(assembly([ConvKernel(form, rows, tile, False, panel=tile + 1, span=2)], TARGETS["x86-64-avx2"]))
    assert len(re.findall(r"vfmadd\w+ps", loop)) == rows * tile
    assert not re.findall(r"\(%rsp", loop)
