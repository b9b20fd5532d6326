"""Outputs in the place of what dies: the same numbers to the bit, for any bands and threads, in less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import combinations, cycle
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup import zoo
from flexgroup.engine import CompiledModel, Plan, Step, _compiled, plan_graph
from flexgroup.engine._chains import Partition, Planner
from flexgroup.engine._choose import Choice
from flexgroup.engine._in_place import take_places
from flexgroup.engine._operations import Operation
from flexgroup.engine._steps import StepBuilder
from flexgroup.engine._steps_chain import Chain
from flexgroup.gpu._launch import OPENCL
from flexgroup.graph import Graph, from_torch, optimize
from flexgroup.kernels import BASE_SHIFT, F16_IN_F32, F32, TARGETS, ConvKernel, Target
from tests.engine.agreement import RUNNABLE
from tests.engine.networks import PATTERNS, Residual, examples, prune, randomise
from tests.engine.twins import run_plan, tile_at
from tests.kernels.here import HERE, HOST

Case: TypeAlias = tuple[nn.Module, tuple[int, int, int]]  # a network and its input's shape


class Sum(nn.Module):
    """A block of layers around which the input is carried, added or multiplied by an operation of its own or not."""

    def __init__(self, body: nn.Module, form: str) -> None:
        super().__init__()
        self.body, self.form = body, form

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        if self.form == "twice":
            return torch.relu(y + x) + x
        return torch.sigmoid(y) * x if self.form == "mul" else torch.relu(x + y)


@st.composite
def residual_networks(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    """Residual blocks of one or several convolutions, and pairs of convolutions without."""
    draw(st.random_module())  # torch's numbers too
    channels = draw(st.integers(2, 9))
    shape = (3, draw(st.integers(6, 40)), draw(st.integers(6, 40)))
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 1, 1)]
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["basic", "pointwise", "bottleneck", "depthwise", "pair"]))
        inner = draw(st.integers(1, 9))
        if kind == "basic":
            out = channels + 2 * draw(st.integers(0, 2))
            layers.append(Residual(channels, out, draw(st.integers(1, 2)), draw(st.sampled_from([1, 3]))))
            channels = out
            continue
        if kind == "pair":
            layers += [nn.Conv2d(channels, inner, 3, 1, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1)]
            continue
        first, last = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        middle = nn.Conv2d(inner, inner, 3, 1, 1, groups=inner if kind == "depthwise" else 1)
        body = (
            nn.Conv2d(channels, channels, 1) if kind == "pointwise" else nn.Sequential(first, nn.ReLU(), middle, last)
        )
        layers.append(Sum(body, draw(st.sampled_from(["add", "add", "twice", "mul"]))))
    model = nn.Sequential(*layers)
    randomise(model, draw(st.integers(0, 1000)))
    return model.eval(), shape


def graph_of(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    return optimize(from_torch(model, (torch.zeros(1, *shape),)))


def both_plans(graph: Graph, target: Target, threads: int, **options: Any) -> tuple[Plan, Plan]:
    """The plan, and the one of which every image has a place of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "take_places", lambda builder, operations, chains, regions, shared: dict(shared))
        patch.setattr(_compiled, "take_pieces", lambda layout, region: None)
        apart = plan_graph(graph, target, threads=threads, **options)
    return plan_graph(graph, target, threads=threads, **options), apart


def one_thread_after_another(plan: Plan, order: list[int]) -> Plan:
    """The same calls, but between barriers one thread does all of its own before the next begins."""
    segments: list[list[Step]] = [[]]
    for step in plan.steps:
        segments[-1].append(step)
        if step.barrier:
            segments.append([])
    steps = [replace(step, parts=(step.parts[t],)) for segment in segments for t in order for step in segment]
    return replace(plan, steps=tuple(steps))


def agrees_whatever_thread_is_first(plan: Plan, x: torch.Tensor, expected: np.ndarray) -> None:
    """The twins' output for an image, twice in a row, is ``expected`` in either order of the threads."""
    for order in (range(plan.threads), reversed(range(plan.threads))):
        (given,) = run_plan(one_thread_after_another(plan, list(order)), x[0].numpy(), times=2)
        np.testing.assert_allclose(given, expected, atol=1e-4 * max(1e-3, np.abs(expected).max()))


def twins_give_what_torch_gives(
    case: Case, pattern: str, target: str, threads: int, *ways: AbstractContextManager[object]
) -> None:
    """A pruned network, planned in these ways, gives torch's numbers whatever thread is first."""
    model, shape = case
    prune(model, pattern, 0.3)
    x = torch.randn(1, *shape)
    with torch.no_grad():
        expected = model(x)[0].numpy()
    with ExitStack() as stack:
        for way in ways:
            stack.enter_context(way)
        plan = plan_graph(graph_of(model, shape), TARGETS[target], threads=threads)
    agrees_whatever_thread_is_first(plan, x, expected)


def gives_the_same_on_any_number_of_threads(
    case: Case, pattern: str, ways: Callable[[], list[AbstractContextManager[object]]]
) -> None:
    """A pruned network, planned in these ways for one to three threads, gives to the bit what it gives without."""
    model, shape = case
    prune(model, pattern, 0.3)
    x, graph = torch.randn(2, *shape), graph_of(model, shape)
    wanted = CompiledModel(plan_graph(graph, HOST), 0.0)(x)
    for result in on_one_to_three_threads(graph, x, ways):
        assert torch.equal(result, wanted)


def on_one_to_three_threads(
    graph: Graph, x: torch.Tensor, ways: Callable[[], list[AbstractContextManager[object]]]
) -> Iterator[torch.Tensor]:
    """What the network gives, planned in these ways for each number of threads."""
    for threads in (1, 2, 3):
        with ExitStack() as stack:
            for way in ways():
                stack.enter_context(way)
            compiled = CompiledModel(plan_graph(graph, HOST, threads=threads), 0.0)
        compiled(torch.randn_like(x))  # what one image leaves must not reach the next
        yield compiled(x)
        compiled.close()


def written(step: Step, part: tuple[int, ...], plan: Plan) -> set[int]:
    """Where in the arena a convolution's part writes, in numbers; rows beyond the last one go nowhere."""
    f = dict(zip(step.kernel.signature.fields, part, strict=True))
    lanes, size = plan.target.lanes(plan.element), plan.element.bytes
    lanes = step.kernel.held * step.kernel.pitch // size or lanes
    due = [tile_at(step.kernel, f, tile, lanes) for tile in range(f["first_tile"], f["last_tile"])]
    first = (f["target"] & ((1 << BASE_SHIFT) - 1)) // size
    starts = [(first + min(start, f["last_start"] // size), width) for start, width in due]
    outputs = plan.constants[f["outputs"] :].view(np.int32)[: f["row_count"]]
    residuals = plan.constants[f["residuals"] :].view(np.int32)[: f["row_count"]]
    outputs = [output for output, residual in zip(outputs, residuals, strict=True) if output == residual]
    return {int(output) // size + start + i for output in outputs for start, width in starts for i in range(width)}


CACHES = st.sampled_from([1024, 4096, 16384, 1 << 20])


@settings(max_examples=examples(8), deadline=None)
@given(residual_networks(), st.sampled_from(PATTERNS), CACHES, st.integers(1, 3))
def test_results_are_those_of_images_with_places_of_their_own(case, pattern, cache, threads):
    model, shape = case
    prune(model, pattern, 0.3)
    x = torch.randn(2, *shape)
    plan, apart = both_plans(graph_of(model, shape), replace(HOST, cache_bytes=cache), threads)
    wanted = CompiledModel(apart, 0.0)(x)
    compiled = CompiledModel(plan, 0.0)
    for _ in range(2):
        assert torch.equal(compiled(x), wanted)


@settings(max_examples=examples(8), deadline=None)
@given(residual_networks(), st.sampled_from(PATTERNS), CACHES, st.integers(1, 3), st.sampled_from(sorted(TARGETS)))
def test_threads_may_run_one_after_another_in_any_order(case, pattern, cache, threads, target):
    model, shape = case
    prune(model, pattern, 0.3)
    plan, _ = both_plans(graph_of(model, shape), replace(TARGETS[target], cache_bytes=cache), threads)
    x = torch.randn(1, *shape)
    with torch.no_grad():
        expected = model(x)[0].numpy()
    orders = [list(range(threads)), list(reversed(range(threads)))]
    first, second = (run_plan(one_thread_after_another(plan, order), x[0].numpy(), times=2)[0] for order in orders)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, expected, atol=1e-4 * max(1e-3, np.abs(expected).max()))


@settings(max_examples=examples(10), deadline=None)
@given(residual_networks(), st.sampled_from(["dense", "4x1"]), st.integers(2, 3), st.sampled_from(sorted(TARGETS)))
def test_no_two_threads_write_a_position_that_is_added_to_in_place(case, pattern, threads, target):
    model, shape = case
    prune(model, pattern, 0.3)
    plan, _ = both_plans(graph_of(model, shape), replace(TARGETS[target], cache_bytes=1 << 20), threads)
    for step in plan.steps:
        if isinstance(step.kernel, ConvKernel) and step.kernel.residual and step.chain < 0:
            for one, other in combinations([written(step, part, plan) for part in step.parts if part], 2):
                assert not one & other


def forced(cuts: Sequence[int], band: int) -> Callable[[StepBuilder, Sequence[Operation]], Partition]:
    """In place of `partition`: chains wherever they can be, as long as ``cuts`` say in turn."""

    def find(builder: StepBuilder, operations: Sequence[Operation]) -> Partition:
        planner, chains, first = Planner(builder, operations), [], 0
        lengths = cycle(cuts)
        while first < len(operations):
            last = min(first + next(lengths), len(operations))
            windowed = planner._windowed(first, last) if last > first + 1 else None
            if windowed is not None and planner.rows[first] is not None:
                chains.append(Chain(first, last, tuple(operations[first:last]), windowed, band, len(chains)))
                first = last
            else:
                first += 1
        return Partition(list(operations), chains)

    return find


def gives_what_torch_gives(
    model: nn.Module,
    shape: tuple[int, ...],
    cuts: Sequence[int],
    band: int,
    target: Target,
    threads: int,
    **options: Any,
) -> None:
    """In chains as long as ``cuts`` say, whatever thread is first between barriers."""
    x = torch.randn(1, *shape)
    with torch.no_grad():
        expected = model(x)[0].numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "partition", forced(cuts, band))
        plan = plan_graph(graph_of(model, shape), target, threads=threads, **options)
    agrees_whatever_thread_is_first(plan, x, expected)


CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@settings(max_examples=examples(12), deadline=None)
@given(residual_networks(), CUTS, st.integers(1, 12), st.integers(1, 3), st.sampled_from(sorted(TARGETS)))
def test_any_chain_in_place_gives_what_torch_gives_whatever_thread_is_first(case, cuts, band, threads, target):
    gives_what_torch_gives(*case, cuts, band, TARGETS[target], threads)


def places_taken(model: nn.Module, shape: tuple[int, ...], cuts: Sequence[int], threads: int, **options: Any) -> int:
    """How many images take the place of others, in chains as long as ``cuts`` say."""
    found: list[int] = []

    def take(builder: StepBuilder, *rest: Any) -> Any:
        needs = take_places(builder, *rest)
        buffers = range(len(builder.layout.buffers))
        found.append(sum(builder.layout.first_in_place(buffer) != buffer for buffer in buffers))
        return needs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "partition", forced(cuts, 7))
        patch.setattr(_compiled, "find_regions", lambda builder, operations, chains: [])
        patch.setattr(_compiled, "take_places", take)
        plan_graph(graph_of(model.eval(), shape), TARGETS["x86-64-avx2"], threads=threads, **options)
    return found[0]


@pytest.mark.parametrize(("kernels", "threads", "taken"), [((3, 3), 1, 1), ((3, 3), 2, 0), ((1, 1), 2, 1)])
def test_bands_take_the_place_of_a_residual_that_one_thread_reads(kernels, threads, taken):
    layers = [nn.Conv2d(8, 8, kernel, 1, kernel // 2) for kernel in kernels]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Sum(nn.Sequential(*layers), "add"), nn.Conv2d(8, 2, 1))
    assert places_taken(model, (3, 40, 34), [1, 1, 2, 1], threads) == taken


@pytest.mark.parametrize(
    ("kernels", "threads", "taken"), [((1, 1), 1, 1), ((3, 1), 1, 0), ((1, 3), 1, 1), ((1, 3), 2, 0)]
)
def test_bands_take_the_place_of_an_image_whose_rows_are_read_before(kernels, threads, taken):
    layers = [nn.Conv2d(8, 8, kernel, 1, kernel // 2) for kernel in kernels]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Conv2d(8, 2, 1))
    assert places_taken(model, (3, 40, 34), [1, 1, 2, 1], threads) == taken


def test_borders_that_only_a_later_image_of_the_place_needs_are_cleared():
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 8, 1)]
    body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    model = nn.Sequential(*first, Sum(body, "add"), nn.Conv2d(8, 4, 3, 1, 1)).eval()
    plan = plan_graph(graph_of(model, (3, 28, 26)), TARGETS["x86-64-avx2"])
    x = torch.randn(1, 3, 28, 26)
    with torch.no_grad():
        np.testing.assert_allclose(run_plan(plan, x[0].numpy(), times=2)[0], model(x)[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("tile", "threads", "tail"), [(3, 1, 1), (3, 2, 2), (2, 2, 0)])
def test_the_tiles_of_two_threads_never_overlap(tile, threads, tail):
    """Four vectors: after three of them a tile of the one that is left, or two for each thread."""
    body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Sum(body, "add"), nn.Conv2d(8, 2, 1))
    choice = Choice("strip", 8, tile, 1.0, 1.0, 1, 1.0, True)
    size = (3, 8, 4)  # 4 vectors of 8 positions
    options = {"threads": threads, "chooser": lambda layer, target, **options: choice}
    assert places_taken(model, size, [1], **options) == 1
    plan = plan_graph(graph_of(model.eval(), size), TARGETS["x86-64-avx2"], **options)
    steps = [step for step in plan.steps if isinstance(step.kernel, ConvKernel) and step.kernel.residual]
    assert {(step.kernel.tile, step.kernel.tail) for step in steps} == {(tile, tail)}
    for step in steps:
        parts = [written(step, part, plan) for part in step.parts if part]
        assert len(parts) == threads
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_the_gap_before_a_threads_first_row_is_zero_before_the_other_thread_comes():
    body = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, 1, 1, groups=2), nn.Conv2d(2, 4, 1))
    model = nn.Sequential(nn.Conv2d(3, 2, 3, 1, 1), Residual(2, 4, 1, 3), Sum(body, "mul"))
    randomise(model, 0)
    graph = graph_of(model, (3, 31, 16))
    plan = plan_graph(graph, replace(TARGETS["x86-64-avx512"], cache_bytes=16384), threads=2)
    x = torch.randn(1, 3, 31, 16)
    (given,) = run_plan(one_thread_after_another(plan, [1, 0]), x[0].numpy(), times=2)
    with torch.no_grad():
        np.testing.assert_allclose(given, model(x)[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", ["ring", "strip", "dense"])
@pytest.mark.parametrize(("target", "element"), [*((name, F32) for name in RUNNABLE), (RUNNABLE[0], F16_IN_F32)])
def test_a_tile_that_overlaps_leaves_what_is_done(form, threads, target, element):
    middle = nn.Conv2d(5, 5, 3, 1, 1) if threads == 1 else nn.Conv2d(5, 5, 1)  # threads that look at no other's rows
    body = nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU(), middle, nn.Conv2d(5, 6, 1))
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Sum(body, "add"), nn.Conv2d(6, 2, 1)).eval()
    choice = Choice(form, 4, 3, 1.0, 1.0, 1, 1.0, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "partition", forced([1, 1, 3, 1], 5))  # bands that end within a vector
        plan, apart = both_plans(
            graph_of(model, (3, 35, 34)),
            HERE[target],
            threads,
            element=element,
            chooser=lambda layer, target, **options: choice,
        )
    assert any("_add_in_place" in step.kernel.name for step in plan.steps)
    assert not any("_in_place" in step.kernel.name for step in apart.steps)
    x = torch.randn(1, 3, 35, 34)
    assert torch.equal(CompiledModel(plan, 0.0)(x), CompiledModel(apart, 0.0)(x))
    twin = run_plan(plan, x[0].numpy())[0]
    with torch.no_grad():
        np.testing.assert_allclose(twin, model(x)[0].numpy(), atol=1e-5 if element == F32 else 1e-2)


@pytest.mark.parametrize(("threads", "most", "least"), [(1, 2.75, 3.5), (2, 4.25, 4.5)])
def test_a_resnet_needs_two_of_its_largest_images(threads, most, least):
    """Beside what threads hold twice, and a shortcut with planes of zeros, which is not divided among them."""
    graph = graph_of(zoo.build("resnet20").eval(), (3, 32, 32))
    plan, apart = both_plans(graph, TARGETS["x86-64-avx512"], threads)
    image = 16 * 32 * 32 * 4
    assert plan.arena_bytes <= most * image < least * image <= apart.arena_bytes


def test_work_items_of_a_gpu_overlap_so_nothing_takes_a_place_there():
    graph = graph_of(zoo.build("resnet20").eval(), (3, 32, 32))
    plan, apart = both_plans(graph, OPENCL, 1)
    assert plan.arena_bytes == apart.arena_bytes
    assert plan.steps == apart.steps
