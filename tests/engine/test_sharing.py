"""What a step relies on to be zero is zero when it runs, whoever had the memory before: found from the operations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup.engine import CompiledModel, Step, _compiled, plan_graph
from flexgroup.engine._chains import Partition
from flexgroup.engine._in_place import take_places
from flexgroup.engine._layout import Layout, PlaneRef
from flexgroup.engine._operations import ConvOp, DepthwiseOp, MeanOp, Operation, PoolOp
from flexgroup.engine._plan import ARENA, reference
from flexgroup.graph import Add, Graph, Node, Pad, from_torch, optimize
from flexgroup.graph.evaluate import evaluate
from flexgroup.kernels import TARGETS, FillKernel, host_target
from tests.engine.networks import examples, networks
from tests.engine.test_in_place import residual_networks
from tests.engine.twins import Memory, run_plan


@functools.cache
def outside(size: tuple[int, int], first: tuple[int, int], step: tuple[int, int], out: tuple[int, int]) -> np.ndarray:
    """Of ``out`` (rows, columns) that begin at ``first``, ``step`` apart, those beyond an image of ``size``."""
    pairs = np.array(first) + np.array(step) * np.stack(np.indices(out), axis=-1).reshape(-1, 2)
    return pairs[(pairs < 0).any(axis=1) | (pairs >= size).any(axis=1)]


def relied_on(operation: Operation, layout: Layout) -> Iterator[tuple[PlaneRef, int, np.ndarray]]:
    """Planes, their pitch, and the (row, column) of what an operation reads around their pixels and takes for zero."""
    if isinstance(operation, ConvOp | PoolOp):
        if isinstance(operation, PoolOp) and operation.form == "max":
            return
        images = {plane: image for image in operation.reads for plane in image.planes if plane.buffer >= 0}
        size = (operation.out.height, operation.out.width)
        for tap in {tap for taps in operation.taps for tap in taps if tap.plane in images}:
            image = images[tap.plane]
            around = outside((image.height, image.width), (tap.row, tap.column), (1, 1), size)
            yield tap.plane, layout.pitch(image), around
    elif isinstance(operation, DepthwiseOp):
        image, size = operation.inputs, (operation.out.height, operation.out.width)
        for y, x in np.ndindex(*operation.weight.shape[1:]):
            first = (operation.corner[0] + y * operation.dilation[0], operation.corner[1] + x * operation.dilation[1])
            around = outside((image.height, image.width), first, operation.stride, size)
            yield from ((plane, layout.pitch(image), around) for plane in set(image.planes))
    elif isinstance(operation, MeanOp):
        image, pitch = operation.image, layout.pitch(operation.image)
        places = np.stack(np.divmod(np.arange(layout.vectors(image) * layout.lanes), pitch), axis=-1)
        around = places[(places >= (image.height, image.width)).any(axis=1)]
        yield from ((plane, pitch, around) for plane in set(image.planes))


@settings(max_examples=examples(8), deadline=None)
@given(st.one_of(networks(), residual_networks()), st.sampled_from(sorted(TARGETS)), st.integers(1, 2))
def test_what_has_to_be_zero_before_a_step_is_zero(case, target, threads):
    model, shape = case
    found: list[Any] = []

    def take(builder: Any, operations: Any, *rest: Any) -> Any:
        found.extend((builder.layout, operations))
        return take_places(builder, operations, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "take_places", take)
        patch.setattr(_compiled, "partition", lambda builder, operations: Partition(list(operations), []))
        patch.setattr(_compiled, "find_regions", lambda builder, operations, chains: [])
        plan = plan_graph(optimize(from_torch(model, (torch.zeros(1, *shape),))), TARGETS[target], threads=threads)
    layout, operations = found
    turns = cycle(operations)

    def check(step: Step, memory: Memory) -> None:
        if isinstance(step.kernel, FillKernel):
            return
        operation = next(turns)
        assert step.name == operation.name
        numbers, _ = memory.base(reference(ARENA, 0))
        for plane, pitch, places in relied_on(operation, layout):
            first = layout.offset(plane) // memory.size
            assert not numbers[first + places[:, 0] * pitch + places[:, 1]].any()

    run_plan(plan, np.ones(shape, np.float32), times=2, before=check)


@pytest.mark.parametrize("amounts", [((0, 4), (0, 4), (0, 0)), ((0, 0), (0, 4), (0, 0)), ((1, 0), (2, 1), (1, 3))])
def test_pixels_that_no_step_writes_are_zero_for_readers_of_pixels_only(amounts):
    """A padded image that takes over an input's memory, and is given back as it is."""
    shape = (6, 7, 8)
    padded = tuple(size + before + after for size, (before, after) in zip(shape, amounts, strict=True))
    nodes = (Node("sum", Add(), ("x", "y"), "sum"), Node("pad", Pad(amounts), ("sum",), "pad"))
    graph = Graph(("x", "y"), ("pad",), nodes, {"x": shape, "y": shape, "sum": shape, "pad": padded})
    inputs = [np.random.default_rng(i).normal(size=(1, *shape)).astype(np.float32) for i in range(2)]
    (wanted,) = evaluate(graph, inputs)
    compiled = CompiledModel(plan_graph(graph, host_target()), 0.0)
    try:
        for _ in range(2):
            np.testing.assert_allclose(compiled(*inputs), wanted, atol=1e-6)
    finally:
        compiled.close()
