"""Convolutions that take their input planes slab by slab: torch's numbers, the same for any number of threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import Plan, _chains, _choose, plan_graph
from flexgroup.engine._choose import Candidate, Layer, choose, conv_work, slabs_for
from flexgroup.engine._costs import Costs
from flexgroup.engine._explain import explain_plan
from flexgroup.kernels import F16, TARGETS, ConvKernel, Target
from flexgroup.kernels.packing import longest_first, pack
from tests.engine.networks import PATTERNS, examples, networks, prune
from tests.engine.test_chains import deep_networks
from tests.engine.test_in_place import (
    agrees_whatever_thread_is_first,
    graph_of,
    on_one_to_three_threads,
    residual_networks,
    twins_give_what_torch_gives,
)
from tests.engine.test_regions import gains
from tests.engine.test_slices import everywhere as in_slices
from tests.engine.test_slices import sliced_networks

ANY = st.one_of(networks(), residual_networks())
AVX512 = replace(TARGETS["x86-64-avx512"], first_cache_bytes=48 << 10, cache_bytes=1 << 20)


@contextmanager
def everywhere(slabs: int) -> Iterator[None]:
    """So many slabs wherever they can be."""

    def many(layer: Layer, form: str, rows: int, tile: int, target: Target) -> int:
        can = form in ("strip", "ring") and layer.blocks == 1 and target.triple
        return min(slabs, layer.planes) if can else 1

    def sliced(candidates: Sequence[Candidate]) -> Candidate:
        best = min(each for each in candidates if each.slabs == 1)
        alike = [each for each in candidates if (each.form, each.rows, each.tile) == (best.form, best.rows, best.tile)]
        return max(alike, key=lambda each: each.slabs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_choose, "slabs_for", many)
        patch.setattr(_choose, "_best", sliced)
        yield


@settings(max_examples=examples(40), deadline=None)
@given(ANY, st.sampled_from(PATTERNS), st.integers(2, 4), st.integers(1, 3), st.sampled_from(sorted(TARGETS)))
def test_the_twins_give_what_torch_gives_whatever_thread_is_first(case, pattern, slabs, threads, target):
    """In bands and regions too; memory that nothing cleared holds NaN."""
    twins_give_what_torch_gives(case, pattern, target, threads, everywhere(slabs), gains())


@settings(max_examples=examples(20), deadline=None)
@given(sliced_networks(), st.sampled_from(PATTERNS), st.integers(2, 4), st.integers(1, 3), st.sampled_from([4, 8]))
def test_slices_of_channels_have_the_slabs_of_their_layer(case, pattern, slabs, threads, channels):
    target = "x86-64-avx512"
    twins_give_what_torch_gives(case, pattern, target, threads, everywhere(slabs), in_slices(channels), gains())


@settings(max_examples=examples(20), deadline=None)
@given(deep_networks(), st.sampled_from(PATTERNS), st.integers(2, 4), st.integers(1, 3), st.sampled_from([1024, 8192]))
def test_bands_of_rows_go_through_all_slabs(case, pattern, slabs, threads, cache):
    model, shape = case
    prune(model, pattern, 0.3)
    x = torch.randn(1, *shape)
    with torch.no_grad():
        expected = model(x)[0].numpy()
    with everywhere(slabs), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chains, "WORTH", 1.0)  # chains wherever they promise anything
        patch.setattr(_chains, "slices", lambda *given: [])
        plan = plan_graph(graph_of(model, shape), replace(AVX512, cache_bytes=cache), threads=threads)
    agrees_whatever_thread_is_first(plan, x, expected)


@settings(max_examples=examples(30), deadline=None)
@given(ANY, st.sampled_from(PATTERNS), st.integers(2, 4), st.booleans())
def test_results_are_the_same_on_any_number_of_threads(case, pattern, slabs, together):
    model, shape = case
    prune(model, pattern, 0.3)
    x, graph = torch.randn(2, *shape), graph_of(model, shape)
    with torch.no_grad():
        expected = model(x)
    found = list(on_one_to_three_threads(graph, x, lambda: [everywhere(slabs), *([gains()] if together else [])]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert (found[0] - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))


def layer_of(rows: int, share: float = 0.2, size: int = 7, inputs: int = 2048, outputs: int = 512) -> Layer:
    pattern = np.repeat(np.random.default_rng(0).random((outputs // rows, inputs)) < share, rows, axis=0)
    planes = {"planes": inputs, "segments": inputs * size, "inputs": inputs}
    return Layer(pattern, size, size, size, 16, displaced=False, rowwise=True, **planes)


def test_slabs_are_as_many_as_the_first_level_cache_needs():
    single = layer_of(1)
    held = 2048 * 64 * 4  # whole vectors
    slabs = slabs_for(single, "ring", 1, 4, AVX512)
    assert held / slabs <= 0.75 * AVX512.first_cache_bytes < held / (slabs - 1)
    assert conv_work(single, "ring", 1, 4, AVX512, slabs=slabs).missed == 0
    assert conv_work(single, "ring", 1, 4, AVX512).missed > 0.5
    assert slabs_for(layer_of(1, inputs=64), "ring", 1, 4, AVX512) == 1, "all of them fit"


def test_only_low_groups_of_single_precision_on_cpus_have_slabs():
    assert slabs_for(layer_of(2), "strip", 2, 4, AVX512) > 1
    assert slabs_for(layer_of(4), "strip", 4, 4, AVX512) == 1, "they ask early for what they read"
    assert slabs_for(layer_of(2), "dense", 2, 4, AVX512) == 1
    assert slabs_for(replace(layer_of(2), element=F16), "strip", 2, 4, AVX512) == 1, "sums would be rounded"
    assert slabs_for(replace(layer_of(2), blocks=2), "strip", 2, 4, AVX512) == 1
    assert slabs_for(layer_of(2), "strip", 2, 4, replace(AVX512, triple="")) == 1


def test_what_waits_in_memory_costs():
    """Twice as many slabs as needed load and store more, and gain nothing."""
    costs, single = Costs(), layer_of(1)
    slots = [conv_work(single, "ring", 1, 4, AVX512, slabs=slabs).slots(costs) for slabs in (1, 15, 30, 60)]
    assert slots[1] < slots[0]
    assert slots[1] < slots[2] < slots[3]


def plan_of(model: nn.Module, shape: tuple[int, int, int], groups: str, share: float, threads: int = 1) -> Plan:
    torch.manual_seed(0)
    model.eval()
    prune(model, groups, share)
    return plan_graph(graph_of(model, shape), AVX512, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_wait_for_each_other_after_the_last_slab_only(threads):
    plan = plan_of(nn.Sequential(nn.Conv2d(1024, 256, 1), nn.ReLU()), (1024, 7, 7), "1x1", 0.1, threads)
    steps = [step for step in plan.steps if isinstance(step.kernel, ConvKernel)]
    assert len(steps) > 3
    assert [step.barrier for step in steps] == [False] * (len(steps) - 1) + [True]
    assert [step.kernel.residual for step in steps] == [False] + [True] * (len(steps) - 1)
    assert [step.kernel.low for step in steps] == [False] * (len(steps) - 1) + [True], "the last one has the ReLU"
    weights = sum(step.useful_macs for step in steps) / 49
    assert weights == round(0.1 * 1024 * 256)
    (layer,) = explain_plan(plan).layers
    assert f"input planes in {len(steps)} slabs" in layer.reason
    assert layer.calls == len(steps)
    assert layer.sparsity == pytest.approx(0.9, abs=1e-3)


def test_groups_of_four_take_all_planes_at_once():
    """Even if half as high groups in slabs were cheaper: the model does not know of what they ask for early."""
    plan = plan_of(nn.Sequential(nn.Conv2d(1024, 256, 1)), (1024, 7, 7), "4x1", 0.1)
    assert sum(isinstance(step.kernel, ConvKernel) for step in plan.steps) == 1
    four, two = (Candidate(slots, "strip", rows, 4, 100, 0, slabs) for slots, rows, slabs in ((2.0, 4, 1), (1.0, 2, 9)))
    assert _choose._best([four, two]) == four
    assert _choose._best([replace(four, rows=2), two]) == two


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.floats(0, 1), st.integers(0, 1000))
def test_the_longest_strips_come_first(height, width, rows, share, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((height, width)).astype(np.float32) * (rng.random((height, width)) < share)
    packed, order = longest_first(pack(matrix, matrix != 0, "strip", rows), rows)
    counts = np.diff(packed.ends, prepend=0)
    assert np.all(np.diff(counts) <= 0)
    found = np.zeros((len(order), width), np.float32)
    for strip, (end, count) in enumerate(zip(packed.ends, counts, strict=True)):
        columns = packed.columns[end - count : end]
        assert np.all(np.diff(columns) > 0), "sums stay in the order of their columns"
        for group, column in enumerate(columns, end - count):
            found[order[strip * rows : (strip + 1) * rows], column] = packed.weights[group]
    assert np.array_equal(found[:height], matrix)
    assert not found[height:].any()


def test_few_sums_wait_for_each_other():
    """Groups of few multiply-adds take as long as one of them."""
    costs, layer = Costs(aligned_load=0.0), layer_of(1)
    few, more = (conv_work(layer, "ring", 1, tile, AVX512, slabs=64).slots(costs) for tile in (1, 4))
    assert few > 3 * more, "four tiles of a vector take four times as long as one of four"


def test_what_a_sweep_reads_again_comes_from_the_second_level():
    layer = replace(layer_of(1, 0.2, 28, 512, 128), far=True)
    again = conv_work(layer, "ring", 1, 24, AVX512, sweep=16).missed
    assert 0.5 < again < 1 - layer.read_in_sweeps(16) / layer.groups("ring", 1) + 1e-9


def test_the_choice_names_its_slabs():
    found = choose(layer_of(1, 0.1), AVX512, sparse=True)
    assert found.slabs > 1
    assert (found.panel, found.sweep) == (0, 0)
    assert f"{found.slabs} slabs" in found.reason
