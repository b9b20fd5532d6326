"""Dense convolutions in blocks of rows: exact transforms, torch's numbers for any window, stride, chain and thread."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flexgroup
from flexgroup.engine import CompiledModel, Plan, plan_graph
from flexgroup.engine import _choose as choosing
from flexgroup.engine import _winograd as winograd
from flexgroup.engine._layout import PlaneRef
from flexgroup.engine._operations import Tap
from flexgroup.engine._winograd import taps_of
from flexgroup.kernels import F16_IN_F32, TARGETS, TransformKernel
from flexgroup.kernels.transform import BLOCKS, transforms
from tests.engine.agreement import RUNNABLE
from tests.engine.networks import examples
from tests.engine.test_in_place import CUTS, both_plans, gives_what_torch_gives, graph_of, residual_networks
from tests.engine.twins import run_plan
from tests.kernels.here import HERE, HOST

AVX2 = TARGETS["x86-64-avx2"]


def force(patch: pytest.MonkeyPatch, share: float = 80.0) -> None:
    """Blocks wherever they are possible, whatever they cost, with so much of the cache for their values."""
    patch.setattr(winograd, "WORTH", 1e9)
    patch.setattr(winograd, "FEWEST_CHANNELS", 4)
    patch.setattr(winograd, "FEWEST_BLOCKS", 1)
    patch.setattr(winograd, "SHARE", share)
    patch.setattr(winograd, "SHARE_OF_IMAGES", 1e9)
    patch.setattr(choosing, "PANEL_OF_CACHE", 100.0)


def blocks(plan: Plan) -> int:
    """How many layers are computed in blocks."""
    return len({step.name for step in plan.steps if "Winograd" in step.reason})


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("taps", "most"), [(2, 2), (1, 2), (3, 3), (2, 3), (4, 4), (3, 4)])
def test_the_transforms_are_a_convolution(taps, most, block):
    a, g, b = transforms(taps, most, block)
    rng = np.random.default_rng(taps)
    weights, rows = rng.standard_normal(taps), rng.standard_normal((taps + block - 1, 5))
    wanted = sum(weights[k] * rows[k : k + block] for k in range(taps))
    points = len(b)
    assert (a.shape, g.shape) == ((block, most + block - 1), (points, taps))
    assert points == a.shape[1] - (most - taps)
    np.testing.assert_allclose(a[:, :points] @ ((g @ weights)[:, None] * (b @ rows)), wanted, atol=1e-11)
    # What rounding is multiplied by: nothing that 32 bits would not bear.
    amplified = np.abs(a[:, :points]) @ (np.abs(g).sum(axis=1) * np.abs(b).sum(axis=1))
    assert amplified.max() < (80 if block == 4 else 300)


@pytest.mark.parametrize(
    ("form", "block", "taps", "terms"), [("output", 7, 4, 38), ("output", 4, 4, 18), ("input", 7, 4, 50)]
)
def test_pairs_of_points_halve_what_a_transform_multiplies(form, block, taps, terms):
    kernel = TransformKernel(form, block, taps, 4)
    assert kernel.terms == terms < np.count_nonzero(kernel.matrix)


def window(rows: dict[int, range], columns: range, planes: int = 2) -> list[Tap]:
    return [
        Tap(PlaneRef(0, plane), row, column) for plane in range(planes) for row in rows[plane % 2] for column in columns
    ]


def test_taps_are_found_by_plane_and_column():
    found = taps_of(window({0: range(-2, 2), 1: range(-1, 2)}, range(-1, 2), planes=4), 4)
    assert found is not None
    assert (found.most, found.points, found.reach) == (4, 7, (-1, 1))
    assert found.rows == ((-2, 4), (-1, 3)) * 2
    assert found.columns[0].weights == (0, 3, 6, 9), "from the top down"
    assert [found.has(plane, 6) for plane in range(4)] == [True, False] * 2


@pytest.mark.parametrize(
    "taps",
    [
        window({0: range(1), 1: range(1)}, range(3)),  # one row: nothing to save
        window({0: range(5), 1: range(5)}, range(3)),
        window({0: range(4), 1: range(2)}, range(3)),
        window({0: range(0, 6, 2), 1: range(0, 6, 2)}, range(3)),  # dilated
        [*window({0: range(3), 1: range(3)}, range(3)), Tap(PlaneRef(0, 0), 0, 4)],
        [*window({0: range(3), 1: range(3)}, range(3)), Tap(PlaneRef(0, 0), 0, 0)],  # a plane that is read twice
    ],
    ids=["one row", "many rows", "unequal planes", "dilated", "unequal columns", "twice"],
)
def test_other_taps_are_left_to_other_kernels(taps):
    assert taps_of(taps, 4) is None


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "height", "width"),
    [
        ((3, 3), 1, 12, 20),
        ((3, 3), 1, 8, 32),
        ((7, 7), 2, 24, 40),
        ((3, 1), 1, 8, 33),
        ((5, 5), 2, 16, 41),
        ((4, 3), 1, 13, 19),
        ((3, 3), 1, 14, 20),
        ((7, 7), 2, 28, 40),
        ((5, 5), 2, 42, 41),
        ((4, 3), 1, 22, 19),
    ],
)
def test_every_part_of_a_block(monkeypatch, residual, threads, kernel, stride, height, width):
    """Strides, uneven windows, residuals, activations, channels that fill no strip, in parts."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 6, 1)
            self.second = nn.Conv2d(6, 21, kernel, stride, (1 if kernel[0] == 4 else kernel[0] // 2, kernel[1] // 2))
            self.other = nn.Conv2d(6, 21, 1, stride)
            self.last = nn.Conv2d(21, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            y = self.second(x)
            if residual and kernel[0] % 2:
                y = y + torch.sigmoid(self.other(x))
            return self.last(nn.functional.hardswish(y))

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected = model(x)
    force(monkeypatch, share=0.1 if stride == 1 and height < 20 else 0.4)
    plan = plan_graph(graph_of(model, (3, height, width)), replace(HOST, cache_bytes=1 << 18), threads=threads)
    assert blocks(plan) == 1
    given = CompiledModel(plan, 0.0)(x)
    assert float((given - expected).abs().max() / expected.abs().max()) < 1e-5
    (twin,) = run_plan(plan, x[0].numpy())
    np.testing.assert_allclose(twin, expected[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("height", [24, 28])
def test_blocks_on_any_processor_that_is_here(monkeypatch, height, target):
    """Four rows at a time, and seven; vectors of 16 to 64 bytes."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 21, 7, 2, 3), nn.Hardswish()).eval(), torch.randn(2, 3, height, 40)
    force(monkeypatch)
    plan = plan_graph(graph_of(model, (3, height, 40)), replace(HERE[target], cache_bytes=1 << 18))
    assert blocks(plan) == 1
    with torch.no_grad():
        torch.testing.assert_close(CompiledModel(plan, 0.0)(x), model(x), atol=2e-5, rtol=1e-5)


@settings(max_examples=examples(10), deadline=None)
@given(residual_networks(), st.sampled_from(BLOCKS), st.sampled_from([4096, 16384, 1 << 20]), st.integers(1, 3))
def test_results_are_torchs_for_any_cache_and_threads(case, block, cache, threads):
    model, shape = case
    shape = (shape[0], block * (shape[1] // block + 1), max(shape[2], HOST.vector_bytes // 4))
    x = torch.randn(2, *shape)
    with torch.no_grad():
        expected = model(x)
    with pytest.MonkeyPatch.context() as patch:
        force(patch)
        target = replace(HOST, cache_bytes=cache)
        plan, apart = both_plans(graph_of(model, shape), target, threads)
        alone = plan_graph(graph_of(model, shape), target)
    given = CompiledModel(plan, 0.0)(x)
    scale = max(1e-3, float(expected.abs().max()))
    assert float((given - expected).abs().max()) <= 1e-4 * scale
    assert torch.equal(given, CompiledModel(apart, 0.0)(x))
    assert torch.equal(given, CompiledModel(alone, 0.0)(x))


@settings(max_examples=examples(10), deadline=None)
@given(
    residual_networks(),
    st.sampled_from(BLOCKS),
    CUTS,
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from(sorted(TARGETS)),
)
def test_the_twins_agree_in_any_chain_on_any_target(case, block, cuts, band, threads, target):
    model, (channels, height, width) = case
    with pytest.MonkeyPatch.context() as patch:
        force(patch)
        shape = (channels, block * (height // block + 1), width)
        gives_what_torch_gives(model, shape, cuts, band, TARGETS[target], threads)


class AddedToItsInput(nn.Module):
    """Convolutions of any kernel whose input is their residual too."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.body = nn.Conv2d(8, 8, kernel, padding=kernel // 2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(x + self.body(x)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("cuts", [[1], [2], [3]])
def test_a_convolution_never_takes_the_place_of_what_its_taps_read(monkeypatch, kernel, threads, cuts):
    force(monkeypatch)
    torch.manual_seed(0)
    model, x = AddedToItsInput(kernel).eval(), torch.randn(1, 3, 16, 24)
    plan = plan_graph(graph_of(model, (3, 16, 24)), HOST, threads=threads)
    assert blocks(plan) == (kernel > 1)
    with torch.no_grad():
        torch.testing.assert_close(CompiledModel(plan, 0.0)(x), model(x), atol=1e-5, rtol=1e-5)
    gives_what_torch_gives(model, (3, 16, 24), cuts, 4, HOST, threads)


def test_the_stem_of_a_large_network_is_worth_it_and_what_would_not_fit_is_not():
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU()).eval()
    assert blocks(plan_graph(graph_of(stem, (3, 96, 96)), AVX2)) == 1
    assert blocks(plan_graph(graph_of(stem, (3, 96, 96)), replace(AVX2, cache_bytes=1 << 14))) == 0
    assert blocks(plan_graph(graph_of(stem, (3, 94, 94)), AVX2)) == 0, "47 rows are no whole blocks"
    assert blocks(plan_graph(graph_of(stem, (3, 96, 96)), AVX2, element=F16_IN_F32)) == 0, "rounding"
    small = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()).eval()
    assert blocks(plan_graph(graph_of(small, (4, 32, 32)), AVX2)) == 0, "the transforms take longer than they save"
    with torch.no_grad():
        stem[0].weight[torch.rand_like(stem[0].weight) < 0.9] = 0
    assert blocks(plan_graph(graph_of(stem, (3, 96, 96)), AVX2)) == 0, "zeros save more"


def test_a_compiled_network_says_so(monkeypatch):
    force(monkeypatch)
    model = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 1)).eval()
    fast = flexgroup.compile(model, (torch.randn(1, 3, 32, 32),))
    first, second = fast.explain().layers
    assert first.reason == "fewer multiplications: Winograd's method, 4 rows at a time"
    assert re.match("conv_f32_(strip|dense)", first.kernel)
    assert first.macs < first.dense_macs
    assert second.reason == "no zeros to skip"
