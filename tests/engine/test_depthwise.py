"""Depthwise layers: whichever way a kernel walks, it gives what torch gives, and both ways give the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import CompiledModel, Plan, _chains, _steps_depthwise, plan_graph
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import TARGETS, Target
from flexgroup.kernels.depthwise import MOST_ROWS, DepthwiseKernel, block_rows, loads
from tests.engine.networks import examples
from tests.engine.twins import run_plan
from tests.kernels.here import HOST

WALKS = ("down", "along")
SHORT = replace(HOST, vector_bytes=16, vector_registers=32)  # as phones have: two vectors go down side by side
LITTLE = replace(SHORT, in_order=True)  # and two rows at a time


def plan_of(model: nn.Module, x: torch.Tensor, walk: str, target: Target = HOST) -> Plan:
    """The network with every depthwise window of whole rows walked this way."""
    usual = _steps_depthwise._walk

    def forced(builder, op, rows):
        found = usual(builder, op, rows)
        return found if found.form == "linear" else replace(found, form=walk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_steps_depthwise, "_walk", forced)
        return plan_graph(optimize(from_torch(model, (x,))), target)


def forms(plan: Plan) -> set[str]:
    return {word for step in plan.steps for word in step.kernel.name.split("_") if word in (*WALKS, "linear")}


@settings(max_examples=examples(40), deadline=None)
@given(
    st.sampled_from([(3, 3), (5, 5), (3, 5), (2, 3), (7, 7)]),
    st.sampled_from([(1, 1), (2, 2), (2, 1), (1, 2)]),
    st.tuples(st.integers(7, 22), st.integers(7, 40)),
    st.integers(2, 3),
    st.booleans(),
    st.sampled_from([HOST, SHORT, LITTLE]),
)
def test_both_ways_agree_with_torch_and_with_each_other(window, stride, size, channels, pools, target):
    padding = (window[0] // 2, window[1] // 2)
    conv = nn.Conv2d(channels, channels, window, stride, padding, groups=channels)
    middle = nn.MaxPool2d(window, stride, padding) if pools else conv
    model = nn.Sequential(nn.ReLU(), middle, nn.ReLU6()).eval()
    x = torch.randn(1, channels, *size)
    plans = [plan_of(model, x, walk, target) for walk in WALKS]
    wide = size[1] // stride[1] >= target.vector_bytes // 4  # a row of the output fills a vector
    assert not wide or [forms(plan) for plan in plans] == [{walk} for walk in WALKS]
    results = [CompiledModel(plan, 0.0)(x) for plan in plans]
    with torch.no_grad():
        torch.testing.assert_close(results[0], model(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)
        for plan in plans:
            np.testing.assert_allclose(run_plan(plan, x[0].numpy())[0], model(x)[0].numpy(), atol=1e-5)


def test_large_planes_are_walked_along_and_small_ones_down():
    def walked(height: int, width: int, stride: int = 1, window: int = 3) -> set[str]:
        model = nn.Conv2d(4, 4, window, stride, window // 2, groups=4).eval()
        x = torch.randn(1, 4, height, width)
        target = replace(TARGETS["x86-64-avx2"], cache_bytes=0)
        return forms(plan_graph(optimize(from_torch(model, (x,))), target))

    assert walked(112, 112) == walked(112, 112, stride=2) == walked(56, 56) == {"along"}
    assert walked(28, 28) == walked(14, 14) == walked(28, 28, stride=2) == walked(56, 56, window=5) == {"down"}


@pytest.mark.parametrize("walk", WALKS)
def test_two_short_vectors_are_computed_side_by_side_where_a_row_has_them(walk):
    def cuts(width: int, target: Target, window: int = 3, pools: bool = False) -> set[tuple[int, bool]]:
        conv, pool = nn.Conv2d(2, 2, window, padding=window // 2, groups=2), nn.MaxPool2d(3, 2, 1)
        model = nn.Sequential(nn.ReLU(), pool if pools else conv).eval()
        plan = plan_of(model, torch.randn(1, 2, 9, width), walk, target)
        return {(kernel.tile, kernel.tail) for kernel in windows(plan)}

    assert cuts(8, SHORT) == cuts(32, SHORT) == {(2, False)}
    assert cuts(28, SHORT) == cuts(9, SHORT) == {(2, True)}  # seven vectors, and three: the last one goes alone
    assert cuts(32, SHORT, window=5) == {(2 if walk == "down" else 1, False)}
    few_registers = replace(SHORT, vector_registers=16)
    assert cuts(32, few_registers) == cuts(32, SHORT, window=7) == cuts(32, SHORT, pools=True) == {(1, False)}


def windows(plan: Plan) -> list[DepthwiseKernel]:
    return [step.kernel for step in plan.steps if isinstance(step.kernel, DepthwiseKernel)]


@pytest.mark.parametrize("walk", WALKS)
def test_the_border_is_written_only_where_rows_are_short_or_somebody_looks_at_it(walk):
    def are_masked(*layers: nn.Module, width: int = 40, cache: int = 0) -> list[bool]:
        model, x = nn.Sequential(*layers).eval(), torch.randn(1, 8, 24, width)
        plan = plan_of(model, x, walk, replace(SHORT, cache_bytes=cache))
        with torch.no_grad():
            torch.testing.assert_close(CompiledModel(plan, 0.0)(x), model(x), atol=1e-5, rtol=1e-5)
        return [kernel.border for kernel in windows(plan)]

    window, point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
    assert are_masked(window, window) == [False, False]
    assert are_masked(window, window, width=3) == [True, False]
    # In bands of rows, whose memory held other rows before: what a pointwise layer reads beside a row does not matter.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chains, "WORTH", 1e9)
        patch.setattr(_chains, "SMALLEST", 0.0)
        assert set(are_masked(point, window, point, cache=1 << 15)) == {False}
        assert True in are_masked(point, window, window, point, cache=1 << 15)


def test_blocks_divide_rows_evenly():
    assert [block_rows(count) for count in (1, 2, 3, 4, 5, 6, 8, 56)] == [1, 2, 3, 4, 3, 3, 4, 4]
    for count in range(1, 20):
        assert 1 <= block_rows(count) <= min(count, MOST_ROWS)


def test_rows_that_registers_do_not_hold_are_loaded_again():
    down = DepthwiseKernel("down", 3, 3, (2, 2))
    assert loads(down, TARGETS["x86-64-avx2"]) == 2 * 4  # two rows of two pairs: the third is the one above
    assert loads(replace(down, reduce="max"), TARGETS["x86-64-avx2"]) == 2 * 4
    assert loads(replace(down, height=5, width=5), TARGETS["x86-64-avx2"]) == 5 * 6
    assert loads(replace(down, form="along", rows=4), TARGETS["x86-64-avx2"]) == 9 * 4 / 4
    assert loads(DepthwiseKernel("down", 5, 5), TARGETS["x86-64-avx2"]) == 5
