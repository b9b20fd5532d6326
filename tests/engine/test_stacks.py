"""Kernels whose last vector holds the last positions of several rows: what torch gives, for any form and threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import Plan, plan_graph
from flexgroup.engine._choose import HEIGHTS, best_tile, cut
from flexgroup.engine._work import ConvWork, Tiles
from flexgroup.kernels import F16, F16_IN_F32, TARGETS, ConvKernel
from flexgroup.kernels.conv import fits_stack
from tests.engine.networks import PATTERNS, examples, prune
from tests.engine.test_in_place import CUTS, gives_what_torch_gives, graph_of
from tests.engine.test_rows_as_vectors import (
    FORMS,
    SEEDS,
    STRIDES,
    agrees_on_any_threads,
    forced,
    network,
    off_by,
    plan_in_16_bits,
)
from tests.kernels.here import HERE, HOST

AVX512 = TARGETS["x86-64-avx512"]
SIZES = st.integers(3, 17)


def stacked(plan: Plan) -> list[int]:
    """How many rows the last vector of each convolution holds; 0: its own."""
    return [step.kernel.stacked for step in plan.steps if isinstance(step.kernel, ConvKernel)]


@settings(max_examples=examples(30), deadline=None)
@given(
    SEEDS,
    st.sampled_from(PATTERNS),
    STRIDES,
    SIZES,
    SIZES,
    FORMS,
    st.sampled_from(HEIGHTS[1:]),
    st.integers(1, 3),
    st.sampled_from(sorted(HERE)),
)
def test_results_are_torchs_for_any_form_and_threads(seed, pattern, stride, height, width, form, rows, threads, here):
    model, shape = network(seed, pattern, stride, height, width)
    agrees_on_any_threads(model, shape, HERE[here], threads, forced(form, rows))


@settings(max_examples=examples(30), deadline=None)
@given(
    SEEDS,
    st.sampled_from(PATTERNS),
    STRIDES,
    SIZES,
    SIZES,
    CUTS,
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from(sorted(TARGETS)),
    st.sampled_from(["", "dense", "strip", "ring"]),
)
def test_the_twins_agree_in_any_chain_on_any_target(
    seed, pattern, stride, height, width, cuts, band, threads, target, form
):
    model, shape = network(seed, pattern, stride, height, width)
    options = {"chooser": forced(form, 4)} if form else {}
    gives_what_torch_gives(model, shape, cuts, band, TARGETS[target], threads, **options)


@pytest.mark.parametrize("curve", [nn.ReLU6(), nn.SiLU(), nn.GELU()], ids=lambda curve: type(curve).__name__)
@pytest.mark.parametrize(("form", "rows"), [("strip", 4), ("ring", 4), ("ring", 2), ("ring", 8), ("dense", 4)])
def test_any_activation_and_rows_that_fill_no_strip(form, rows, curve):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(9, 13, 3, padding=1), curve, nn.Conv2d(13, 11, 1)).eval()
    prune(model, "4x1", 0.5)
    plan = plan_graph(graph_of(model, (9, 7, 7)), HOST, chooser=forced(form, rows))
    assert off_by(plan, model, torch.randn(2, 9, 7, 7)) < 1e-5


@pytest.mark.parametrize("element", [F16, F16_IN_F32], ids=lambda element: element.name)
def test_numbers_of_16_bits(element):
    model, shape = network(0, "dense", 1, 5, 6 if HOST.lanes(element) > 8 else 5)
    assert any(stacked(plan_in_16_bits(element, model, shape)))


def plan_of(size: int, target: str, threads: int = 1) -> Plan:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 1)).eval()
    prune(model, "4x1", 0.2)
    return plan_graph(graph_of(model, (64, size, size)), TARGETS[target], threads=threads, chooser=forced("strip", 4))


def test_images_that_end_early_in_a_vector_are_stacked():
    assert stacked(plan_of(7, "x86-64-avx512")) == [2, 2], "56 positions are three vectors and a half"
    assert stacked(plan_of(14, "x86-64-avx512")) == [4, 4], "210 are 13 and an eighth"
    assert stacked(plan_of(14, "x86-64-avx2")) == [4, 4], "and 26 and a quarter of shorter ones"
    assert not any(stacked(plan_of(28, "x86-64-avx512"))), "812 are 50 and three quarters"
    assert not any(stacked(plan_of(56, "x86-64-avx512"))), "of 200 vectors, half of one is not worth it"
    assert not any(stacked(plan_of(14, "aarch64-linux"))), "nor of 53"


def test_a_tile_with_a_stack_comes_last_and_leaves_registers():
    assert cut(4, 4, AVX512, 4, 2) == Tiles(0, 0, 3, 1, 2), "one tile of three vectors and a half"
    assert cut(5, 14, AVX512, 4, 4) == Tiles(5, 2, 3, 1, 4)
    assert cut(3, 4, AVX512, 8, 2) == Tiles(3, 1, 1, 1, 0), "no registers for four stacks beside 24 sums"
    assert not fits_stack(8, 3, 2, AVX512)
    assert not fits_stack(2, 3, 4, AVX512), "a stack of four rows needs as many in a group"
    for rows in HEIGHTS:
        for vectors in range(2, 40):
            tiles = cut(best_tile(rows, vectors, AVX512, 2), vectors, AVX512, rows, 2)
            assert tiles.vectors == vectors


def test_a_stack_costs_its_share_of_multiply_adds():
    from flexgroup.engine._costs import Costs

    work = ConvWork(100, 4, Tiles(0, 0, 3, 1, 2), 64, 16, False, 0.0, 0.0, True)
    whole = replace(work, tiles=Tiles(4, 1))
    assert whole.slots(Costs()) - work.slots(Costs()) == pytest.approx(2 * 100, rel=0.1)
