"""Convolutions of which a few rows at a time go through the whole image: the same numbers, and only where it pays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import Plan, _choose, plan_graph
from flexgroup.engine._choose import Choice, Layer, conv_work
from flexgroup.engine._costs import Costs
from flexgroup.engine._explain import explain_plan
from flexgroup.kernels import TARGETS, ConvKernel, Target
from flexgroup.kernels.packing import pack
from tests.engine.networks import PATTERNS, examples, networks, prune
from tests.engine.test_in_place import (
    gives_the_same_on_any_number_of_threads,
    graph_of,
    residual_networks,
    twins_give_what_torch_gives,
)
from tests.engine.test_regions import gains

ANY = st.one_of(networks(), residual_networks())
AVX512 = TARGETS["x86-64-avx512"]


@contextmanager
def everywhere(sweep: int) -> Iterator[None]:
    """Sweeps of so many rows wherever they can be."""

    def forced(layer: Layer, choice: Choice, target: Target, costs: Costs) -> int:
        cannot = choice.form == "channels" or choice.panel or layer.blocks > 1 or not target.triple
        return 0 if cannot else sweep

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_choose, "_sweep", forced)
        yield


@settings(max_examples=examples(40), deadline=None)
@given(ANY, st.sampled_from(PATTERNS), st.sampled_from([8, 16]), st.integers(1, 3), st.sampled_from(sorted(TARGETS)))
def test_the_twins_give_what_torch_gives_whatever_thread_is_first(case, pattern, sweep, threads, target):
    """In bands and regions too; memory that nothing cleared holds NaN."""
    twins_give_what_torch_gives(case, pattern, target, threads, everywhere(sweep), gains())


@settings(max_examples=examples(30), deadline=None)
@given(ANY, st.sampled_from(PATTERNS), st.sampled_from([8, 16]))
def test_results_are_those_of_one_sweep_on_any_number_of_threads(case, pattern, sweep):
    gives_the_same_on_any_number_of_threads(case, pattern, lambda: [everywhere(sweep), gains()])


@settings(max_examples=examples(60), deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.sampled_from([2, 4, 8]), st.sampled_from([8, 16]), st.integers(0, 1000)
)
def test_groups_that_cross_from_a_sweep_to_the_next_are_cut(height, width, rows, sweep, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((height, width)).astype(np.float32) * (rng.random((height, width)) < 0.3)
    packed = pack(matrix, matrix != 0, "ring", rows, sweep=sweep)
    found, group = np.zeros((height + sweep, width), np.float32), 0
    for row, end in enumerate(packed.ends):
        for number in range(group, end):
            count = min(rows, sweep - row % sweep)  # what a group has below its sweep is lost
            found[row : row + count, packed.columns[number]] += packed.weights[number, :count]
        group = end
    assert np.array_equal(found[:height], matrix)
    assert not found[height:].any()


def sweeps(plan: Plan) -> dict[str, int]:
    """How many rows go through the image at a time, for every convolution where that is not all of them."""
    found = {}
    for step in plan.steps:
        if isinstance(step.kernel, ConvKernel):
            fields = dict(zip(step.kernel.signature.fields, next(part for part in step.parts if part), strict=True))
            if fields["sweep"] < fields["row_count"]:
                found[step.name] = fields["sweep"]
    return found


def plan_of(model: nn.Module, channels: int, size: int, share: float = 0.05) -> Plan:
    torch.manual_seed(0)
    model.eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    prune(model, "4x1", share)
    return plan_graph(graph_of(model, (channels, size, size)), replace(AVX512, cache_bytes=1 << 20))


def pointwise(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1))


def test_sweeps_are_where_images_leave_the_cache_and_few_groups_are_left():
    large = plan_of(pointwise(64, 256), 64, 56)
    assert sweeps(large) == {"0": 16}
    assert "16 rows at a time" in explain_plan(large).layers[0].reason
    assert not sweeps(plan_of(pointwise(64, 256), 64, 14)), "all is near"
    assert not sweeps(plan_of(pointwise(64, 32), 64, 112)), "no more planes are written than hardware follows"
    assert not sweeps(plan_of(nn.Sequential(nn.Conv2d(64, 256, 3, 1, 1)), 64, 56)), "taps find their rows near"


def test_what_is_read_again_for_every_sweep_is_counted():
    rng = np.random.default_rng(0)

    def layer(share: float) -> Layer:
        pattern = np.repeat(rng.random((64, 512)) < share, 4, axis=0)
        return Layer(pattern, 28, 28, 29, 16, displaced=False, planes=512, segments=512, far=True, inputs=512)

    few, many = layer(0.01), layer(0.9)
    for each in (few, many):
        once, swept = each.moved(1 << 20), each.moved(1 << 20, 16)
        lines = 28 * 29 * 4 / 64
        assert (once.read, once.written) == (512 * lines, 256 * lines)
        assert (swept.read, swept.written, swept.swept_written) == (0, 0, 256 * lines)
        used = each.pattern.reshape(16, 16, 512).any(axis=1).sum()
        assert swept.swept_read == used * lines
    assert few.moved(1 << 20, 16).swept_read < few.moved(1 << 20).read < many.moved(1 << 20, 16).swept_read
    assert conv_work(few, "strip", 4, 6, AVX512, sweep=16).missed < 0.05, "few planes are read twice in a sweep"
    ring = [conv_work(few, "ring", 4, 6, AVX512, sweep=sweep).groups for sweep in (0, 16)]
    assert ring[1] == round(ring[0] * (1 + 3 / 16)), "groups that are cut count twice"
