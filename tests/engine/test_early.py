"""Kernels that ask for inputs before they read them: the same numbers, and only where inputs are not near anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import Plan, _steps_conv, plan_graph
from flexgroup.engine._choose import DENSE_FORMS, Layer, asks_early
from flexgroup.engine._objects import assembly
from flexgroup.kernels import TARGETS, ConvKernel, Target
from flexgroup.kernels.conv import EARLY
from tests.engine.networks import PATTERNS, examples, networks, prune
from tests.engine.test_in_place import gives_the_same_on_any_number_of_threads, graph_of, residual_networks
from tests.kernels.test_half import inner_loop

AVX512 = replace(TARGETS["x86-64-avx512"], first_cache_bytes=48 << 10)


@contextmanager
def everywhere() -> Iterator[None]:
    """Every kernel that can asks early."""

    def forced(layer: Layer, form: str, rows: int, tile: int, target: Target) -> bool:
        return form not in DENSE_FORMS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_steps_conv, "asks_early", forced)
        yield


@settings(max_examples=examples(30), deadline=None)
@given(st.one_of(networks(), residual_networks()), st.sampled_from(PATTERNS))
def test_results_are_those_of_kernels_that_do_not_ask(case, pattern):
    gives_the_same_on_any_number_of_threads(case, pattern, lambda: [everywhere()])


def pruned_plan() -> Plan:
    model = nn.Conv2d(24, 16, 1).eval()
    prune(model, "4x1", 0.3)
    with everywhere():
        return plan_graph(graph_of(model, (24, 9, 9)), AVX512)


def test_offsets_are_there_for_what_is_asked_for_after_the_last_group():
    plan = pruned_plan()
    (step,) = (step for step in plan.steps if isinstance(step.kernel, ConvKernel))
    assert step.kernel.early
    fields = dict(zip(step.kernel.signature.fields, step.parts[0], strict=True))
    groups = int(plan.constants[fields["ends"] :].view(np.int32)[fields["row_count"] // step.kernel.rows - 1])
    after = plan.constants[fields["offsets"] :].view(np.int32)[groups : groups + EARLY]
    assert after.tolist() == [0] * EARLY


@pytest.mark.parametrize(
    ("form", "rows", "tile"), [("ring", 1, 24), ("ring", 2, 13), ("ring", 4, 6), ("strip", 4, 6), ("strip", 8, 3)]
)
def test_a_group_asks_for_each_cache_line_of_its_tile_once_and_touches_no_stack(form, rows, tile):
    kernel = ConvKernel(form, rows, tile, residual=False, ahead=False, early=True)
    loop = inner_loop(assembly([kernel], AVX512))
    assert loop.count("prefetch") == tile
    assert "(%rsp" not in loop


def test_vectors_that_share_a_cache_line_ask_for_it_together():
    target = TARGETS["aarch64-linux"]
    kernel = ConvKernel("strip", 4, 4, residual=False, ahead=False, early=True)
    assert inner_loop(assembly([kernel], target)).count("prfm") == 1


def layer_of(planes: int, taps: int = 1, size: int = 28) -> Layer:
    around = {"segments": (3 if taps > 1 else 1) * planes, "span": 2 * (taps > 1)}
    pattern = np.zeros((64, planes * taps), np.bool_)
    pattern[:, ::10] = True
    return Layer(pattern, size, size, size + 1, 16, taps > 1, planes=planes, rowwise=True, **around)


@pytest.mark.parametrize(
    ("asks", "layer", "form", "rows", "tile"),
    [
        (True, layer_of(256), "strip", 4, 6),
        (True, layer_of(256), "ring", 4, 6),
        (False, layer_of(256), "dense", 4, 6),
        (False, layer_of(256), "channels", 32, 14),
        (False, layer_of(64), "strip", 4, 6),  # 24 KiB
        (True, layer_of(64, taps=9), "strip", 4, 6),  # with the rows around a tile 39 KiB
        (False, layer_of(16, taps=9), "strip", 4, 6),
        (False, layer_of(64), "ring", 2, 14),  # 56 KiB: pairs have no load to spare for what is often near
        (True, layer_of(256), "ring", 2, 14),
        (False, layer_of(2048, size=7), "ring", 2, 4),  # sums that wait for each other
    ],
)
def test_kernels_ask_where_inputs_leave_the_first_level_cache(asks, layer, form, rows, tile):
    assert asks_early(layer, form, rows, tile, AVX512) == asks


def test_kernels_for_gpus_do_not_ask():
    assert not asks_early(layer_of(256), "strip", 4, 6, replace(AVX512, triple=""))


def test_a_network_of_many_planes_asks():
    model = nn.Sequential(nn.Conv2d(256, 256, 1), nn.ReLU(), nn.Conv2d(256, 64, 3, padding=1)).eval()
    prune(model, "4x1", 0.1)
    plan = plan_graph(graph_of(model, (256, 14, 14)), AVX512)
    kernels = [step.kernel for step in plan.steps if isinstance(step.kernel, ConvKernel)]
    assert [kernel.early for kernel in kernels] == [True, True]
