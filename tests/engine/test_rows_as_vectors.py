"""Kernels whose vectors hold one or two whole rows of an image: torch's numbers for any form, chain and thread."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import CompiledModel, Plan, plan_graph
from flexgroup.engine._choose import HEIGHTS, Choice, Chooser, Layer, choose, tile_of
from flexgroup.engine._objects import assembly
from flexgroup.kernels import F16, F16_IN_F32, F32, TARGETS, ConvKernel, Element, Target
from tests.engine.networks import PATTERNS, examples, prune
from tests.engine.test_in_place import CUTS, gives_what_torch_gives, graph_of
from tests.kernels.here import HOST
from tests.kernels.test_half import inner_loop

AVX512 = TARGETS["x86-64-avx512"]


class Stages(nn.Module):
    """Rows and columns of taps, a stride, a residual, a concatenation, channels that fill no strip."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 13, 3, stride, 1)
        self.second, self.third = nn.Conv2d(13, 13, 3, padding=1), nn.Conv2d(26, 7, (1, 5), padding=(0, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        y = torch.relu(x + self.second(x))
        return self.third(torch.cat([x, y], 1))


def forced(form: str, rows: int):
    """A chooser that takes this form and height wherever they are possible."""

    def chooser(layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice:
        choice = choose(layer, target, sparse=sparse, heights=heights)
        tile = tile_of(layer, form, rows, target)
        return replace(choice, form=form, rows=rows, tile=tile, groups=layer.groups(form, rows), panel=0)

    return chooser


def network(seed: int, pattern: str, stride: int, height: int, width: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """A pruned network whose convolutions have outputs of ``height x width``."""
    torch.manual_seed(seed)
    model = Stages(stride).eval()
    prune(model, pattern, 0.6)
    return model, (3, height * stride, width * stride)


def held(plan: Plan) -> list[int]:
    """How many rows a vector holds in each convolution."""
    return [step.kernel.held for step in plan.steps if isinstance(step.kernel, ConvKernel)]


def off_by(plan: Plan, model: nn.Module, x: torch.Tensor) -> float:
    """The largest difference to torch, over torch's largest number."""
    with torch.no_grad():
        expected = model(x)
    return float((CompiledModel(plan, 0.0)(x) - expected).abs().max()) / max(1e-3, float(expected.abs().max()))


def agrees_on_any_threads(
    model: nn.Module, shape: tuple[int, ...], target: Target, threads: int, chooser: Chooser
) -> Plan:
    """The plan for so many threads, which gives torch's numbers, and to the bit those of one thread."""
    x, graph = torch.randn(2, *shape), graph_of(model, shape)
    plan, alone = (plan_graph(graph, target, threads=count, chooser=chooser) for count in (threads, 1))
    assert off_by(plan, model, x) <= 1e-4
    assert torch.equal(CompiledModel(plan, 0.0)(x), CompiledModel(alone, 0.0)(x))
    return plan


def plan_in_16_bits(element: Element, model: nn.Module, shape: tuple[int, ...]) -> Plan:
    """The plan of a network whose numbers are stored so, which gives nearly torch's numbers."""
    if not (HOST.half == "arithmetic" or (HOST.half and element.converts)):
        pytest.skip("this processor has no instructions for numbers of 16 bits")
    plan = plan_graph(graph_of(model, shape), HOST, element=element, chooser=forced("strip", 4))
    assert off_by(plan, model, torch.randn(2, *shape)) < 1e-2
    return plan


FORMS = st.sampled_from(["dense", "strip", "ring"])
SEEDS, STRIDES, EVEN = st.integers(0, 1 << 16), st.integers(1, 2), st.sampled_from([2, 4, 6, 8, 10])
ROWS = st.integers(1, 2)  # of a vector


@settings(max_examples=examples(12), deadline=None)
@given(SEEDS, st.sampled_from(PATTERNS), STRIDES, EVEN, ROWS, FORMS, st.sampled_from(HEIGHTS[2:]), st.integers(1, 3))
def test_results_are_torchs_for_any_form_and_threads(seed, pattern, stride, height, many, form, rows, threads):
    model, shape = network(seed, pattern, stride, height, HOST.lanes(F32) // many)
    assert held(agrees_on_any_threads(model, shape, HOST, threads, forced(form, rows))) == [many] * 3


@settings(max_examples=examples(16), deadline=None)
@given(
    SEEDS,
    st.sampled_from(PATTERNS),
    STRIDES,
    st.integers(1, 9),
    ROWS,
    CUTS,
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from(sorted(TARGETS)),
    st.sampled_from(["", "dense", "strip", "ring"]),
)
def test_the_twins_agree_in_any_chain_on_any_target(
    seed, pattern, stride, height, many, cuts, band, threads, target, form
):
    """Bands of odd and of even rows: only these go in pairs."""
    own = TARGETS[target]
    model, shape = network(seed, pattern, stride, height, own.lanes(F32) // many)
    options = {"chooser": forced(form, 4)} if form else {}
    gives_what_torch_gives(model, shape, cuts, band, own, threads, **options)


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("element", [F16, F16_IN_F32], ids=lambda element: element.name)
def test_numbers_of_16_bits(element, many):
    model, shape = network(0, "dense", 1, 8, HOST.lanes(element) // many)
    assert held(plan_in_16_bits(element, model, shape)) == [many] * 3


@pytest.mark.parametrize(
    ("target", "height", "width", "rows", "wanted"),
    [
        (AVX512, 8, 8, 4, 2),
        (AVX512, 7, 8, 4, 0),  # a row would be left
        (AVX512, 8, 7, 4, 0),
        (AVX512, 8, 8, 2, 0),  # two multiply-adds would wait for two loads
        (AVX512, 7, 16, 1, 1),
        (AVX512, 8, 32, 4, 0),
        (TARGETS["x86-64-avx2"], 4, 4, 4, 2),
        (TARGETS["x86-64-avx2"], 8, 8, 4, 1),
        (TARGETS["aarch64-linux"], 2, 2, 4, 2),
        (TARGETS["aarch64-linux"], 4, 4, 4, 1),
        (replace(AVX512, triple=""), 8, 8, 4, 0),  # as for GPUs
    ],
)
def test_which_images_go_by_rows(target, height, width, rows, wanted):
    model, shape = network(0, "dense", 1, height, width)
    assert held(plan_graph(graph_of(model, shape), target, chooser=forced("dense", rows))) == [wanted] * 3


def test_without_borders_rows_are_vectors_already():
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    assert not any(held(plan_graph(graph_of(model, (4, 8, 8)), AVX512, chooser=forced("dense", 4))))


@pytest.mark.parametrize(("form", "rows"), [("strip", 4), ("ring", 4), ("dense", 8)])
def test_the_inner_loop_stays_in_registers(form, rows):
    loop = inner_loop(assembly([ConvKernel(form, rows, 12 // rows, False, held=2, pitch=36)], AVX512))
    assert len(re.findall(r"vfmadd\w+ps", loop)) == 12 // rows * rows
    assert len(re.findall(r"vinsertf64x4", loop)) == 12 // rows
    assert not re.findall(r"\(%rsp", loop)
