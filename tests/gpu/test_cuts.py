"""However a plan's work is cut into work-items and batches, the results are the same."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup import gpu
from flexgroup.engine import plan_graph
from flexgroup.engine._choose import Choice, Layer, choose
from flexgroup.gpu._launch import OPENCL, launch
from flexgroup.graph import Clamp, Conv2d, Graph, Node
from flexgroup.kernels import ConvKernel, Target


def _convolution(weight: np.ndarray, height: int, width: int, residual: bool, **options: object) -> Graph:
    """A graph of one 'same'-sized or strided convolution, with a residual if asked for."""
    rows, kernel = len(weight), weight.shape[2]
    stride, groups = options.get("stride", 1), options.get("groups", 1)
    size = tuple((n + 2 * (kernel // 2) - kernel) // stride + 1 for n in (height, width))
    shapes = {"x": (weight.shape[1] * groups, height, width), "r": (rows, *size), "y": (rows, *size)}
    inputs = ("x", "r") if residual else ("x",)
    bias = np.linspace(-1, 1, rows, dtype=np.float32)
    padding = (kernel // 2,) * 4
    op = Conv2d(weight, bias, (stride, stride), padding, groups=groups, clamp=Clamp(-0.5))
    return Graph(inputs, ("y",), (Node("conv", op, inputs, "y"),), {name: shapes[name] for name in (*inputs, "y")})


def _expected(graph: Graph, inputs: list[np.ndarray]) -> np.ndarray:
    op = graph.nodes[0].op
    y = F.conv2d(
        torch.from_numpy(inputs[0]),
        torch.from_numpy(op.weight),
        torch.from_numpy(op.bias),
        op.stride,
        op.padding[:1] * 2,
        groups=op.groups,
    )
    return (y + (torch.from_numpy(inputs[1]) if len(inputs) > 1 else 0)).clamp(-0.5).numpy()


def _inputs(graph: Graph, images: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((images, *graph.shapes[name]), dtype=np.float32) for name in graph.inputs]


def _structured(rows: int, columns: int, height: int, keep: float, aligned: bool, seed: int = 0) -> np.ndarray:
    """Random weights, non-zero in groups of ``height`` rows that start on the grid or anywhere."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((rows, columns), dtype=np.bool_)
    for column in range(columns):
        for row in range(0, rows - height + 1, height):
            if rng.random() < keep:
                start = row if aligned else rng.integers(0, rows - height + 1)
                mask[start : start + height, column] = True
    return np.where(mask, rng.standard_normal(mask.shape, dtype=np.float32) + 3, 0).astype(np.float32)


FORMS = [("ring", rows) for rows in (1, 2, 4, 8)] + [("strip", rows) for rows in (2, 4, 8)]
FORMS += [("dense", rows) for rows in (1, 2, 4, 8)]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("form", "rows"), FORMS)
def test_every_form_of_convolution_runs_in_any_cut(form: str, rows: int, residual: bool, device: gpu.Device) -> None:
    def forced(layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice:
        return replace(choose(layer, target, sparse=sparse, heights=(rows,)), form=form)

    # 45 rows: the last strip is not whole.
    weight = _structured(45, 36, rows, 0.2, form == "strip").reshape(45, 4, 3, 3)
    graph = _convolution(weight, 7, 9, residual)
    plan = plan_graph(graph, OPENCL, chooser=forced)
    kernel = next(step.kernel for step in plan.steps if isinstance(step.kernel, ConvKernel))
    assert (kernel.form, kernel.rows) == (form, rows)
    inputs = _inputs(graph, 2)
    expected = _expected(graph, inputs)
    items = set()
    for parallelism in (1, 1 << 20):
        cut = copy.copy(device)
        cut.parallelism = parallelism
        items |= {launch(step, parallelism).items for step in plan.steps if step.kernel == kernel}
        np.testing.assert_allclose(gpu.GpuModel(plan, cut)(*inputs), expected, rtol=1e-4, atol=1e-4)
    assert len(items) > 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 20),
    channels=st.integers(1, 5),
    kernel=st.sampled_from([1, 2, 3, 5]),
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    stride=st.integers(1, 3),
    groups=st.integers(1, 3),
    keep=st.floats(0, 1),
    group_rows=st.sampled_from([1, 2, 4]),
    residual=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_convolution_agrees_with_torch(
    rows: int,
    channels: int,
    kernel: int,
    height: int,
    width: int,
    stride: int,
    groups: int,
    keep: float,
    group_rows: int,
    residual: bool,
    seed: int,
    device: gpu.Device,
) -> None:
    weight = _structured(rows * groups, channels * kernel**2, min(group_rows, rows), keep, False, seed)
    shape = (rows * groups, channels, kernel, kernel)
    graph = _convolution(weight.reshape(shape), height, width, residual, stride=stride, groups=groups)
    inputs = _inputs(graph, 2, seed)
    result = gpu.GpuModel(plan_graph(graph, OPENCL), device)(*inputs)
    np.testing.assert_allclose(result, _expected(graph, inputs), rtol=1e-4, atol=1e-4)


def test_a_batch_beyond_the_devices_memory_runs_in_rounds(device: gpu.Device) -> None:
    graph = _convolution(np.ones((4, 2, 3, 3), np.float32), 6, 6, False)
    plan = plan_graph(graph, OPENCL)
    small = copy.copy(device)
    small.memory = 2 * plan.arena_bytes
    inputs = _inputs(graph, 5)
    np.testing.assert_allclose(gpu.GpuModel(plan, small)(*inputs), _expected(graph, inputs), rtol=1e-4, atol=1e-4)


def test_batches_of_any_size_follow_each_other(device: gpu.Device) -> None:
    graph = _convolution(np.ones((4, 2, 3, 3), np.float32), 6, 6, True)
    model = gpu.GpuModel(plan_graph(graph, OPENCL), device)
    for images in (3, 1, 7, 2):
        inputs = _inputs(graph, images, seed=images)
        np.testing.assert_allclose(model(*inputs), _expected(graph, inputs), rtol=1e-4, atol=1e-4)


def test_a_second_network_of_the_same_kind_builds_no_program(device: gpu.Device) -> None:
    x = torch.randn(1, 3, 8, 8)
    gpu.compile(nn.Conv2d(3, 8, 3, padding=1), (x,), device=device)
    built = dict(device._programs)
    gpu.compile(nn.Conv2d(3, 8, 3, padding=1), (x,), device=device)
    assert device._programs == built


def test_bands_of_a_ring_read_the_same_tables_as_the_whole() -> None:
    weight = _structured(64, 64, 4, 0.1, False).reshape(64, 64, 1, 1)
    plan = plan_graph(_convolution(weight, 8, 8, False), OPENCL)
    step = next(step for step in plan.steps if isinstance(step.kernel, ConvKernel))
    assert step.kernel.form == "ring"
    few, many = launch(step, 1), launch(step, 1 << 20)
    tables = slice(0, step.kernel.signature.fields.index("source"))
    assert few.arguments[tables] == many.arguments[tables]
    assert many.items > few.items
