"""Regions, in which threads keep rows of their own: torch's numbers, those of one thread to the bit, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup import zoo
from flexgroup.engine import CompiledModel, _compiled, _regions, plan_graph
from flexgroup.engine._explain import explain_plan
from flexgroup.engine._regions import Region, cuts, find_regions
from flexgroup.kernels import F16_IN_F32, F32, TARGETS, HaloKernel
from tests.engine.networks import PATTERNS, examples, networks, prune, randomise
from tests.engine.test_chains import deep_networks
from tests.engine.test_in_place import (
    graph_of,
    one_thread_after_another,
    residual_networks,
    twins_give_what_torch_gives,
)
from tests.engine.twins import run_plan
from tests.kernels.here import HOST

AVX512 = TARGETS["x86-64-avx512"]
ANY = st.one_of(networks(), residual_networks(), deep_networks())
GAINS = st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=7)


@contextmanager
def gains(values: Sequence[tuple[float, float]] = ((1.0, 1.0),)) -> Iterator[list[Region]]:
    """Regions by what operations gain in turn, wherever they can be; yields those that are found."""
    turns, own, found = cycle(values), _regions._gain, []

    def gain(*arguments: Any) -> tuple[float, float] | None:
        return None if own(*arguments) is None else next(turns)

    def find(*arguments: Any) -> list[Region]:
        found.extend(find_regions(*arguments))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_regions, "_gain", gain)
        patch.setattr(_compiled, "find_regions", find)
        yield found


@settings(max_examples=examples(25), deadline=None)
@given(ANY, st.sampled_from(PATTERNS), GAINS, st.integers(2, 4), st.sampled_from(sorted(TARGETS)))
def test_the_twins_give_what_torch_gives_whatever_thread_is_first(case, pattern, values, threads, target):
    """Between waits one thread does all of its own before the next; memory that nothing cleared holds NaN."""
    twins_give_what_torch_gives(case, pattern, target, threads, gains(values))


@settings(max_examples=examples(25), deadline=None)
@given(ANY, st.sampled_from(PATTERNS), GAINS, st.sampled_from([4096, 1 << 20]))
def test_results_are_those_of_one_thread(case, pattern, values, cache):
    model, shape = case
    prune(model, pattern, 0.3)
    x, graph, target = torch.randn(2, *shape), graph_of(model, shape), replace(HOST, cache_bytes=cache)
    wanted = CompiledModel(plan_graph(graph, target), 0.0)(x)
    for threads in (2, 3):
        with gains(values):
            compiled = CompiledModel(plan_graph(graph, target, threads=threads), 0.0)
        compiled(torch.randn_like(x))  # what one image leaves must not reach the next
        for always in (True, False):  # all threads, or one that does the work of all
            compiled._program.pace._always = always
            assert torch.equal(compiled(x), wanted)
        compiled.close()


@pytest.mark.parametrize("element", [F32, F16_IN_F32], ids=lambda element: element.name)
@pytest.mark.parametrize(("threads", "height"), [(2, 37), (3, 37), (5, 37), (5, 13)])
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(4, 4, 7, 1, 3), nn.Conv2d(4, 4, 3, 1, 2, dilation=2)],  # more rows around than of its own
        [nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, 2)],  # phases of odd heights
        [nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 5, 2, 2, groups=8)],
        [nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, (1, 3), 1, (0, 1)), nn.AvgPool2d(3, 1, 1)],
        [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, (5, 1)), nn.Conv2d(4, 4, 3, 1, 4)],  # less rows, and more
    ],
    ids=["far", "strided", "depthwise", "pools", "unpadded"],
)
def test_halos_of_every_kind(layers, threads, height, element):
    if element.converts and not HOST.half:
        pytest.skip("this processor has no instructions for numbers of 16 bits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), *layers).eval()
    x, graph = torch.randn(1, 3, height, 35), graph_of(model, (3, height, 35))
    with gains() as found:
        plan = plan_graph(graph, HOST, threads=threads, element=element)
    assert height < 37 or any(halo != (0, 0) for region in found for halo in region.halos.values())
    wanted = CompiledModel(plan_graph(graph, HOST, element=element), 0.0)(x)
    for order in (range(threads), reversed(range(threads))):
        (given,) = run_plan(one_thread_after_another(plan, list(order)), x[0].numpy(), times=2)
        np.testing.assert_allclose(given, wanted[0].numpy(), atol=1e-2 if element.converts else 1e-5)
    for _ in range(3):
        assert torch.equal(CompiledModel(plan, 0.0)(x), wanted)


def blocks(count: int, channels: int = 64) -> nn.Module:
    """Depthwise and pointwise convolutions in turn."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 1)]
    for _ in range(count):
        depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        layers += [depthwise, nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))
    randomise(model, 0)
    return model.eval()


def test_threads_wait_once_a_window_and_copy_what_it_looks_at():
    """By its costs, not forced: all layers but the last few are one region."""
    plan = plan_graph(graph_of(blocks(4), (3, 28, 28)), AVX512, threads=2)
    copies = [step for step in plan.steps if step.name.endswith("/halo")]
    assert len(copies) == 4
    assert all(isinstance(step.kernel, HaloKernel) for step in copies)
    row = 64 * 29 * 4  # 28 pixels and the gap between rows
    assert {step.bytes for step in copies} == {2 * 2 * row}  # one row of every plane, for both, read and written
    layers = [step for step in plan.steps if step.macs and "linear" not in step.kernel.name]
    assert sum(step.barrier for step in layers) == 5  # before every window, and at the end
    assert all(step.barrier for step in copies)


def test_an_explanation_names_the_layers_whose_rows_are_divided():
    plan = plan_graph(graph_of(blocks(2), (3, 28, 28)), AVX512, threads=2)
    explanation = explain_plan(plan)
    (names,) = explanation.regions
    assert names[0] == "input"
    assert {layer.region for layer in explanation.layers} == {0, -1}
    assert "every thread its own rows, copying its neighbours' 2 times: input, 0, 1," in str(explanation)


def test_one_thread_has_no_regions():
    with gains() as found:
        plan_graph(graph_of(blocks(2), (3, 56, 56)), AVX512)
    assert not found


def test_what_gains_nothing_is_in_no_region():
    with gains(((-1.0, 0.0),)) as found:
        plan_graph(graph_of(blocks(2), (3, 56, 56)), AVX512, threads=2)
    assert not found


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_memory_grows_by_little(name):
    """What threads hold twice are halos; images that nobody reads any more leave their memory to the next."""
    graph = graph_of(zoo.build(name).eval(), zoo.input_shape(name))
    target = replace(AVX512, cache_bytes=1 << 24)  # which needs no chains
    one, two = (plan_graph(graph, target, threads=threads).arena_bytes for threads in (1, 2))
    assert two < 1.1 * one


@given(st.integers(1, 300), st.integers(1, 9))
def test_cuts_are_even_and_of_halves_half(height, threads):
    own = cuts(height, threads)
    sizes = [last - first for first, last in pairwise(own)]
    assert own[0] == 0
    assert own[-1] == height
    assert max(sizes) - min(sizes) <= 1
    assert cuts(2 * height, 2)[1] == height


def test_results_of_two_threads_are_those_of_one_on_a_whole_network():
    model = zoo.build("mobilenet_v2").eval()
    randomise(model, 0)
    prune(model, "4x1 rows", 0.3)
    shape = zoo.input_shape("mobilenet_v2")
    graph, x = graph_of(model, shape), torch.randn(1, *shape)
    wanted = CompiledModel(plan_graph(graph, HOST), 0.0)(x)
    for threads in (2, 3):
        compiled = CompiledModel(plan_graph(graph, HOST, threads=threads), 0.0)
        assert torch.equal(compiled(x), wanted)
        compiled.close()
