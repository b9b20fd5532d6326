"""How layers and arithmetic become operations: convolutions, linear layers, sums, pools, means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flexgroup.engine._arrange import by_plane, side_by_side
from flexgroup.engine._layout import Image
from flexgroup.engine._operations import ConvOp, DepthwiseOp, ElementwiseOp, LinearOp, MeanOp, PoolOp, Tap
from flexgroup.graph import ir
from flexgroup.kernels.depthwise import handles
from flexgroup.kernels.sparse_linear import MARGIN

if TYPE_CHECKING:
    from flexgroup.engine._lower import Lowering, Rule
    from flexgroup.engine._values import Value


def _conv(lowering: Lowering, node: ir.Node, op: ir.Conv2d) -> Value:
    kernel = (op.weight.shape[2], op.weight.shape[3])
    if lowering.has_depthwise and len(node.inputs) == 1 and op.groups > 1 and op.weight.shape[1] == 1:
        form = "linear" if op.stride == (1, 1) else "down"
        if handles(kernel, op.stride, op.dilation, form):
            return _depthwise(lowering, node, op)
    if node.output in lowering.added:
        return _sum_of_convs(lowering, lowering.added[node.output], node)
    residual = lowering.image(node.inputs[1]) if len(node.inputs) > 1 else None
    out = lowering.new_output(node)
    taps, reads = lowering.window(node.inputs[0], out, kernel, op.stride, op.dilation, op.padding)
    if residual is not None:
        lowering.layout.tie(out, residual)
        reads = (*reads, residual)
    rows, columns = op.weight.shape[0] // op.groups, op.weight.shape[1]
    matrices = op.weight.reshape(op.groups, rows, -1)
    group_taps = tuple(
        tuple(tap for channel in taps[g * columns : (g + 1) * columns] for tap in channel) for g in range(op.groups)
    )
    lowering.append(ConvOp(node.name, tuple(matrices), group_taps, op.bias, op.clamp, reads, out, residual, op.curve))
    return out


def _sum_of_convs(lowering: Lowering, before: ir.Node, node: ir.Node) -> Value:
    """Two convolutions that are added are one, of the planes of both: nothing is stored between them."""
    out = lowering.new_output(node)
    matrices: list[ir.Array] = []
    biases: list[ir.Array] = []
    columns: list[Tap] = []
    reads: list[Image] = []
    for each in (before, node):
        op: Any = each.op
        taps, images = lowering.window(each.inputs[0], out, op.weight.shape[2:], op.stride, op.dilation, op.padding)
        matrices.append(op.weight.reshape(len(op.weight), -1))
        biases.append(op.bias)
        columns += [tap for channel in taps for tap in channel]
        reads += images
    parts = tuple((each.name, matrix.shape[1]) for each, matrix in zip((before, node), matrices, strict=True))
    last: Any = node.op
    lowering.append(
        ConvOp(
            f"{before.name} + {node.name}",
            (np.concatenate(matrices, axis=1),),
            (tuple(columns),),
            biases[1] + biases[0],
            last.clamp,
            tuple(dict.fromkeys(reads)),
            out,
            None,
            last.curve,
            parts,
        )
    )
    return out


def added_convolutions(graph: ir.Graph) -> dict[str, ir.Node]:
    """By a convolution's output, the convolution that only it reads, as what is added to it: of a shortcut, mostly."""
    producers = graph.producers()
    readers = graph.consumers()
    found: dict[str, ir.Node] = {}
    for node in graph.nodes:
        if not isinstance(node.op, ir.Conv2d) or len(node.inputs) < 2:
            continue
        before = producers.get(node.inputs[1])
        if before is None or not isinstance(before.op, ir.Conv2d) or len(before.inputs) > 1:
            continue
        is_plain = before.op.clamp == ir.IDENTITY and not before.op.curve
        is_its_own = len(readers[before.output]) == 1 and before.output not in graph.outputs
        if is_plain and is_its_own and node.op.groups == before.op.groups == 1:
            found[node.output] = before
    return found


def _depthwise(lowering: Lowering, node: ir.Node, op: ir.Conv2d) -> Value:
    weight = op.weight.reshape(-1, *op.weight.shape[2:])
    return _windows(lowering, node, weight, op, bias=op.bias, dilation=op.dilation, clamp=op.clamp, curve=op.curve)


def _windows(
    lowering: Lowering, node: ir.Node, weight: ir.Array, op: ir.Conv2d | ir.MaxPool2d | ir.AvgPool2d, **numbers: Any
) -> Value:
    """One window over one plane for every output plane."""
    image, layout = lowering.image(node.inputs[0]), lowering.layout
    out = lowering.new_output(node)
    for buffer in {ref.buffer for ref in out.planes}:
        layout.buffers[buffer].slack = layout.lanes
    height, width = weight.shape[1:]
    top, left = op.padding[0], op.padding[2]
    rows = (-top, (height - 1) * numbers["dilation"][0] - top)
    columns = (-left, (width - 1) * numbers["dilation"][1] - left)
    tied = op.stride == (1, 1)
    layout.reach(image, out, rows, columns, op.stride, tied=tied)
    layout.walk(image, out)
    if tied:
        layout.tie(out, image)
    times = len(out.planes) // len(image.planes)
    inputs = Image(tuple(plane for plane in image.planes for _ in range(times)), image.height, image.width)
    lowering.append(
        DepthwiseOp(node.name, weight, inputs=inputs, out=out, stride=op.stride, corner=(-top, -left), **numbers)
    )
    return out


def _pool_as_windows(lowering: Lowering, node: ir.Node, op: ir.MaxPool2d | ir.AvgPool2d) -> Value | None:
    """A pool whose border may count as zeros is a depthwise window, which reads every row of the image once.

    That is so for the largest of values that are not negative, and for means that divide by the same number everywhere.
    """
    dilation = op.dilation if isinstance(op, ir.MaxPool2d) else (1, 1)
    form = "linear" if op.stride == (1, 1) else "down"
    if not lowering.has_depthwise or not handles(op.kernel, op.stride, dilation, form):
        return None
    channels, height, width = lowering.graph.shapes[node.inputs[0]]
    entries = op.kernel[0] * op.kernel[1]
    even = lowering.is_nonnegative(node.inputs[0]) if isinstance(op, ir.MaxPool2d) else not any(op.padding)
    if not even or min(height, width) < max(op.kernel):
        return None
    weight = np.full((channels, *op.kernel), 1 / entries, np.float32)
    reduce = "max" if isinstance(op, ir.MaxPool2d) else "sum"
    bias = np.zeros(channels, np.float32)
    return _windows(
        lowering, node, weight, op, bias=bias, dilation=dilation, clamp=ir.IDENTITY, reduce=reduce, is_layer=False
    )


def _linear(lowering: Lowering, node: ir.Node, op: ir.Linear) -> Value:
    x = lowering.vector(node.inputs[0])
    out = lowering.layout.new_vector(op.weight.shape[0])
    scratch = None
    if lowering.has_depthwise and not op.weight.all():  # OpenCL has dense code only
        scratch = lowering.layout.new_scratch(op.weight.shape[0] + (2 * lowering.layout.threads + 2) * MARGIN)
    lowering.append(LinearOp(node.name, op.weight, op.bias, op.clamp, x, out, scratch, op.curve))
    return out


def _elementwise(lowering: Lowering, node: ir.Node, **numbers: Any) -> Value:
    (a, *others), out, result = side_by_side(lowering, node)
    b = others[0] if others else None
    lowering.append(ElementwiseOp(node.name, a, b, out=out, **numbers))
    return result


def _affine(lowering: Lowering, node: ir.Node, op: ir.Affine) -> Value:
    scale, shift = by_plane(lowering, node.inputs[0], op.axis, op.scale, op.shift)
    return _elementwise(lowering, node, scale=scale, shift=shift, clamp=op.clamp, form="affine", curve=op.curve)


def _clamp(lowering: Lowering, node: ir.Node, op: ir.Clamp) -> Value:
    channels = lowering.graph.shapes[node.output][0]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    scale, shift = by_plane(lowering, node.inputs[0], 0, ones, zeros)
    return _elementwise(lowering, node, scale=scale, shift=shift, clamp=op, form="affine")


def _pool(lowering: Lowering, node: ir.Node, op: ir.MaxPool2d | ir.AvgPool2d) -> Value:
    windows = _pool_as_windows(lowering, node, op)
    if windows is not None:
        return windows
    dilation = op.dilation if isinstance(op, ir.MaxPool2d) else (1, 1)
    out = lowering.new_output(node)
    taps, reads = lowering.window(node.inputs[0], out, op.kernel, op.stride, dilation, op.padding)
    _, height, width = lowering.graph.shapes[node.inputs[0]]
    rows, in_rows, padded_rows = _covered(op.kernel[0], op.stride[0], dilation[0], op.padding[:2], height, out.height)
    cols, in_cols, padded_cols = _covered(op.kernel[1], op.stride[1], dilation[1], op.padding[2:], width, out.width)
    inside = (rows[:, None, :, None] & cols[None, :, None, :]).reshape(-1, out.height, out.width)
    if isinstance(op, ir.AvgPool2d) and op.count_include_pad:
        in_rows, in_cols = padded_rows, padded_cols
    counts = (in_rows[:, None] * in_cols[None, :]).astype(np.float32)
    form = "max" if isinstance(op, ir.MaxPool2d) else "mean"
    lowering.append(PoolOp(node.name, form, tuple(map(tuple, taps)), inside, counts, reads, out))
    return out


def _mean(lowering: Lowering, node: ir.Node, op: ir.GlobalMean) -> Value:
    image = lowering.image(node.inputs[0])
    out = lowering.layout.new_vector(len(image.planes))
    lowering.append(MeanOp(node.name, image, out))
    return out


def _covered(
    kernel: int, stride: int, dilation: int, padding: Sequence[int], size: int, out: int
) -> tuple[Any, Any, Any]:
    """Along one axis: (kernel, out) whether a tap is a pixel; taps that are pixels; taps within image and padding."""
    at = np.arange(out)[None, :] * stride + np.arange(kernel)[:, None] * dilation - padding[0]
    pixels = (at >= 0) & (at < size)
    return pixels, pixels.sum(axis=0), (at < size + padding[1]).sum(axis=0)


RULES: Mapping[type, Rule] = {
    ir.Conv2d: _conv,
    ir.Linear: _linear,
    ir.Affine: _affine,
    ir.Clamp: _clamp,
    ir.MaxPool2d: _pool,
    ir.AvgPool2d: _pool,
    ir.GlobalMean: _mean,
}
