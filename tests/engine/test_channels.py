"""Dense convolutions with channels in lanes: torch's numbers for any image, cut, chain and thread, and nothing else."""

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
from flexgroup.engine._choose import Choice, Layer, channel_rows, choose, tile_of
from flexgroup.engine._objects import assembly
from flexgroup.kernels import F16_IN_F32, F32, TARGETS, ChannelsKernel, Target
from flexgroup.kernels import channels as family
from flexgroup.kernels.channels import most_vectors, tile_for
from tests.engine.networks import examples
from tests.engine.test_in_place import CACHES, CUTS, both_plans, gives_what_torch_gives, graph_of, residual_networks
from tests.kernels.here import HOST
from tests.kernels.test_half import inner_loop

AVX512 = TARGETS["x86-64-avx512"]
WIDE = ["x86-64-avx512", "x86-64-avx512-fp16"]


def channels_where_possible(vectors: int):
    """A chooser that takes strips of at most so many vectors of channels for every image that allows it."""

    def chooser(layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice:
        rows = channel_rows(layer, target)[:vectors]
        if not rows:
            return choose(layer, target, sparse=sparse, heights=heights)
        tile = tile_of(layer, "channels", rows[-1], target)
        return Choice("channels", rows[-1], tile, 0.0, 0.0, layer.groups("channels", rows[-1]), 1.0, False)

    return chooser


@pytest.fixture(scope="module", autouse=True)
def anywhere():
    """Let narrow processors have the form too: it is right there, if not fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "FEWEST_LANES", 4)
        patch.setattr(family, "FEWEST_REGISTERS", 16)
        yield


def uses(plan: Plan) -> int:
    return sum(isinstance(step.kernel, ChannelsKernel) for step in plan.steps)


@settings(max_examples=examples(8), deadline=None)
@given(residual_networks(), CACHES, st.integers(1, 3), st.integers(1, 3))
def test_results_are_torchs_for_any_cache_and_threads(case, cache, threads, vectors):
    model, shape = case
    x = torch.randn(2, *shape)
    with torch.no_grad():
        expected = model(x)
    target = replace(HOST, cache_bytes=cache)
    plan, apart = both_plans(graph_of(model, shape), target, threads, chooser=channels_where_possible(vectors))
    given = CompiledModel(plan, 0.0)(x)
    scale = max(1e-3, float(expected.abs().max()))
    assert float((given - expected).abs().max()) <= 1e-4 * scale
    assert torch.equal(given, CompiledModel(apart, 0.0)(x))
    alone = plan_graph(graph_of(model, shape), target, chooser=channels_where_possible(vectors))
    assert torch.equal(given, CompiledModel(alone, 0.0)(x))


@settings(max_examples=examples(8), deadline=None)
@given(residual_networks(), CUTS, st.integers(1, 12), st.integers(1, 3), st.sampled_from(sorted(TARGETS)))
def test_the_twins_agree_in_any_chain_on_any_target(case, cuts, band, threads, target):
    gives_what_torch_gives(*case, cuts, band, TARGETS[target], threads, chooser=channels_where_possible(2))


@pytest.mark.parametrize("element", [F32, F16_IN_F32], ids=lambda element: element.name)
@pytest.mark.parametrize(("width", "kernel"), [(7, 1), (7, 3), (14, 3), (28, 1), (26, 3)])
@pytest.mark.parametrize("curve", [None, nn.Hardswish(), nn.Sigmoid()], ids=["none", "hardswish", "sigmoid"])
def test_every_part_of_the_kernel(element, width, kernel, curve):
    """Several tiles a row, gaps, residuals, curves that are not zero at zero, channels that fill no strip."""
    if element.converts and not HOST.half:
        pytest.skip("this processor has no instructions for numbers of 16 bits")

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(5, 37, 1), nn.Conv2d(37, 37, kernel, padding=kernel // 2)
            self.last = nn.Conv2d(37, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            y = x + self.second(x)
            return self.last(y if curve is None else curve(y))

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(3, 5, 9, width)
    with torch.no_grad():
        expected = model(x)
    graph = graph_of(model, (5, 9, width))
    plan = plan_graph(graph, HOST, threads=2, element=element, chooser=channels_where_possible(3))
    assert uses(plan) == 3
    error = float((CompiledModel(plan, 0.0)(x) - expected).abs().max() / expected.abs().max())
    assert error < (4e-3 if element.converts else 1e-5)


@pytest.mark.parametrize(("threads", "parts"), [(1, [(0, 7)]), (2, [(0, 3), (3, 7)])])
def test_a_tile_is_a_row_and_threads_share_the_rows_of_few_channels(threads, parts):
    model = nn.Sequential(nn.Conv2d(4, 20, 1), nn.Conv2d(20, 4, 3, padding=1)).eval()
    plan = plan_graph(graph_of(model, (4, 7, 7)), AVX512, threads=threads, chooser=channels_where_possible(2))
    first = next(step for step in plan.steps if isinstance(step.kernel, ChannelsKernel))
    fields = [dict(zip(first.kernel.signature.fields, part, strict=True)) for part in first.parts]
    assert first.kernel == ChannelsKernel(2, 7, 1, False)
    assert [(part["first_tile"], part["last_tile"]) for part in fields] == parts
    assert {(part["row_tiles"], part["image_row"], part["row_count"]) for part in fields} == {(1, 32, 32)}


def test_threads_share_the_strips_of_many_channels():
    model = nn.Sequential(nn.Conv2d(4, 64, 1), nn.Conv2d(64, 4, 3, padding=1)).eval()
    plan = plan_graph(graph_of(model, (4, 7, 7)), AVX512, threads=2, chooser=channels_where_possible(2))
    first = next(step for step in plan.steps if isinstance(step.kernel, ChannelsKernel))
    fields = [dict(zip(first.kernel.signature.fields, part, strict=True)) for part in first.parts]
    assert [(part["first_tile"], part["last_tile"], part["row_count"]) for part in fields] == [(0, 7, 32)] * 2
    assert fields[0]["weights"] != fields[1]["weights"]


@pytest.mark.parametrize(
    ("width", "gap", "tile"),
    [(2, 1, 2), (4, 1, 4), (7, 1, 7), (14, 2, 14), (14, 3, 7), (28, 0, 14), (56, 1, 14), (112, 1, 14), (13, 1, 13)],
)
def test_tiles_divide_a_row(width, gap, tile):
    assert tile_for(width, gap, AVX512, F32) == tile


@pytest.mark.parametrize("width", [1, 17, 19, 23])
def test_rows_that_no_tile_divides_are_for_other_kernels(width):
    assert tile_for(width, 1, AVX512, F32) == 0


def test_narrow_vectors_and_few_registers_are_for_other_kernels(monkeypatch):
    monkeypatch.setattr(family, "FEWEST_LANES", 16)
    monkeypatch.setattr(family, "FEWEST_REGISTERS", 32)
    found = {name for name, target in TARGETS.items() if tile_for(14, 1, target, F32)}
    assert found == set(WIDE)


def layer(share: float, width: int = 7) -> Layer:
    pattern = (np.random.default_rng(0).random((128, 512)) < share).repeat(4, axis=0)
    return Layer(pattern, width, width, width + 1, 16, False, 512)


@pytest.mark.parametrize(
    ("share", "form", "width"),
    [*((1.0, "channels", width) for width in (2, 4, 7)), (0.3, "strip", 7), (0.05, "strip", 2), (0.05, "strip", 7)],
)
def test_small_images_get_channels_in_lanes_unless_there_are_zeros(share, form, width):
    choice = choose(layer(share, width), AVX512, sparse=True)
    assert choice.form in (form, "ring" if form == "strip" else form)
    assert ("no zeros to skip" in choice.reason) == (form == "channels")


def test_a_block_diagonal_matrix_is_run_as_groups():
    assert channel_rows(layer(1.0), AVX512)
    assert not channel_rows(replace(layer(1.0), blocks=2), AVX512)


@pytest.mark.parametrize(("tile", "vectors"), [(2, 10), (4, 6), (7, 3), (10, 2), (14, 2)])
def test_the_inner_loop_stays_in_registers(tile, vectors):
    assert most_vectors(tile, AVX512) == vectors
    loop = inner_loop(assembly([ChannelsKernel(vectors, tile, 1, True)], TARGETS["x86-64-avx512"]))
    assert len(re.findall(r"vfmadd\w+ps", loop)) == vectors * tile
    assert not re.findall(r"\(%rsp", loop)
