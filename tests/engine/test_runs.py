"""Columns of dense convolutions are taken in runs: the same numbers to the bit, and fewer loads and branches."""

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
from flexgroup.engine import _steps_conv as steps
from flexgroup.engine import _winograd as winograd
from flexgroup.engine._objects import assembly
from flexgroup.engine._steps_conv import longest_run, runs
from flexgroup.kernels import F16, F32, TARGETS, ConvKernel
from tests.engine.agreement import agree
from tests.engine.networks import examples
from tests.engine.test_in_place import CACHES, graph_of
from tests.kernels.here import HOST
from tests.kernels.test_half import inner_loop


def lengths(plan: Plan) -> set[tuple[int, int]]:
    return {(step.kernel.run, step.kernel.step) for step in plan.steps if isinstance(step.kernel, ConvKernel)}


@st.composite
def dense_networks(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    draw(st.random_module())
    channels = draw(st.sampled_from([3, 4, 6, 8, 12]))
    shape = (channels, draw(st.integers(7, 30)), draw(st.integers(7, 30)))
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        out, size = draw(st.sampled_from([4, 5, 8, 24])), draw(st.sampled_from([1, 1, 3, 5]))
        dilation, stride = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        layers += [nn.Conv2d(channels, out, size, stride, dilation * (size // 2), dilation), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers).eval(), shape


@settings(max_examples=examples(20), deadline=None)
@given(dense_networks(), CACHES, st.integers(1, 3), st.booleans(), st.booleans())
def test_runs_change_no_bit_for_any_window_cache_and_threads(case, cache, threads, panels, blocks):
    model, shape = case
    x = torch.randn(2, *shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "WORTH", 1e9 if blocks else 0.0)
        patch.setattr(winograd, "FEWEST_CHANNELS", 4)
        patch.setattr(choosing, "SHORT_TILE", 1 << 20 if panels else 0)
        results = []
        for longest in (steps.LONGEST_RUN, 1):
            patch.setattr(steps, "LONGEST_RUN", longest)
            plan = plan_graph(graph_of(model, shape), replace(HOST, cache_bytes=cache), threads=threads)
            results.append(CompiledModel(plan, 0.0)(x))
    assert lengths(plan) <= {(1, 0)}
    assert torch.equal(*results)
    agree(model, lambda _: results[0], x)


def test_planes_segments_and_taps_are_runs_and_pruned_layers_are_not(monkeypatch):
    monkeypatch.setenv("FLEXGROUP_COSTS", "default")
    monkeypatch.setattr(winograd, "WORTH", 0.0)
    avx2, shape = TARGETS["x86-64-avx2"], (64, 56, 56)

    def of(layer: nn.Module, target=avx2) -> tuple[int, int]:
        plan = plan_graph(graph_of(layer.eval(), shape), target)
        (found,) = {each for each in lengths(plan)}
        return found

    pointwise, taps = nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, padding=1)
    assert of(pointwise)[0] == steps.LONGEST_RUN
    assert of(taps) == (3, 4)
    assert of(nn.Conv2d(64, 64, 3, padding=2, dilation=2)) == (3, 8)
    assert of(pointwise, TARGETS["x86-64-avx512"]) == (1, 0), "planes would need a kernel for each size of images"
    assert of(pointwise, replace(avx2, triple="")) == (1, 0), "kernels for GPUs have none"
    with torch.no_grad():
        pointwise.weight[:, ::2] = 0
    assert of(pointwise) == (1, 0)


def test_a_run_divides_every_strip_and_has_one_step():
    def found(*strips: list[int]) -> tuple[int, int]:
        return runs([np.array(strip, np.int64) for strip in strips], vector=32, tile=3, longest=4)

    assert found([0, 8, 16, 24]) == (4, 8)
    assert found([0, 8, 16, 24, 100, 108, 116, 124]) == (4, 8)
    assert found([0, 4, 8, 100, 104, 108]) == (3, 4)
    assert found([0, 8, 16, 24], [7, 15]) == (2, 8)
    assert found([0, 8, 100, 104]) == (1, 0)
    assert found([8, 0]) == (1, 0), "kernels go forwards"
    assert found([5]) == found([]) == (1, 0)
    assert found([0, 96]) == (2, 96)
    assert found([0, 64]) == found([0, 0]) == (1, 0), "two columns have vectors in common"


def test_kernels_that_would_need_the_stack_have_short_runs_or_none():
    avx512, arm = TARGETS["x86-64-avx512"], TARGETS["aarch64-android"]
    assert [longest_run(rows, "", avx512) for rows in (1, 2, 4, 8)] == [1, 1, 4, 1]
    assert [longest_run(rows, "", arm) for rows in (1, 2, 4, 8)] == [1, 4, 4, 1]
    assert longest_run(4, "hard_swish", arm) == 2
    kernel = ConvKernel("dense", 4, 6, True, curve="hard_swish", tail=5, run=2, step=1088)
    assert "[sp" not in inner_loop(assembly([kernel], arm))


@pytest.mark.parametrize("step", [4, 384])
@pytest.mark.parametrize("form", ["dense", "strip"])
@pytest.mark.parametrize(
    ("target", "rows", "tile", "element"),
    [
        ("x86-64-avx2", 4, 3, F32),
        ("x86-64-avx2", 2, 6, F32),
        ("x86-64-avx512", 4, 6, F32),
        ("aarch64-android", 4, 6, F32),
        ("aarch64-android", 4, 6, F16),
        ("aarch64-android", 2, 11, F32),
    ],
)
def test_a_run_reads_one_offset_and_stays_in_registers(target, rows, tile, element, form, step):
    def loop(run: int) -> str:
        kernel = ConvKernel(form, rows, tile, False, element, panel=tile, run=run, step=step)
        return inner_loop(assembly([kernel], TARGETS[target]))

    one, four = loop(1), loop(4)
    multiplies = r"\bv?fm(?:la|add)\w*\b"
    assert len(re.findall(multiplies, four)) == 4 * len(re.findall(multiplies, one)) > 0
    assert not re.search(r"\(%rsp|\[sp", four)
    assert len(re.findall(r"movslq|ldrsw", one)) == len(re.findall(r"movslq|ldrsw", four)) == 1
