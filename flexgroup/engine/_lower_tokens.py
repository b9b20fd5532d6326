"""How operators on tokens become operations on planes: linear layers as 1x1 convolutions, views, attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from flexgroup.engine import _lower_layers, _lower_moves
from flexgroup.engine._arrange import copied, gather, is_ordinary, like, simplified, to_external, tokens, view
from flexgroup.engine._layout import External, Image, Vector
from flexgroup.engine._operations import ConvOp, Tap
from flexgroup.engine._operations_tokens import AttentionOp, LayerNormOp, ProductOp, SoftmaxOp
from flexgroup.engine._view import COLUMN, PLANE, Held, View, indices, sliced, view_of
from flexgroup.graph import ir
from flexgroup.graph._factors import Axes, Axis, Factor, regrouped, whole
from flexgroup.kernels.attention import LARGEST_TILE

if TYPE_CHECKING:
    from flexgroup.engine._lower import Lowering, Rule
    from flexgroup.engine._values import Value


def _linear(lowering: Lowering, node: ir.Node, op: ir.Linear) -> Value:
    axes = len(lowering.graph.shapes[node.output])
    if axes == 1:
        return _lower_layers.RULES[ir.Linear](lowering, node, op)
    image, around = tokens(lowering, node.inputs[0], [axes - 1])
    out = lowering.layout.new_image(op.weight.shape[0], image.height, image.width)
    result = View(out, (*around[:-1], *whole(op.weight.shape[:1], PLANE)))
    residual = like(lowering, node.inputs[1], result) if len(node.inputs) > 1 else None
    reads = (image,) if residual is None else (image, residual)
    lowering.layout.tie(out, *reads)
    taps = tuple(Tap(plane, 0, 0) for plane in image.planes)
    lowering.append(ConvOp(node.name, (op.weight,), (taps,), op.bias, op.clamp, reads, out, residual, op.curve))
    return result


def _layer_norm(lowering: Lowering, node: ir.Node, op: ir.LayerNorm) -> Value:
    axes = len(lowering.graph.shapes[node.output])
    image, around = tokens(lowering, node.inputs[0], [axes - 1])
    out = lowering.layout.new_image(len(image.planes), image.height, image.width)
    lowering.layout.tie(out, image)
    lowering.append(LayerNormOp(node.name, op.weight, op.bias, op.eps, op.centred, image, out))
    return View(out, (*around[:-1], *whole(op.weight.shape, PLANE)))


def _softmax(lowering: Lowering, node: ir.Node, op: ir.Softmax) -> Value:
    name, shape = node.inputs[0], lowering.graph.shapes[node.output]
    # Axes that lie in planes anyway may as well be blocks.
    blocks = [
        axis for axis, each in enumerate(view(lowering, name).axes) if axis != op.axis and any(map(_is_plane, each))
    ]
    image, around = tokens(lowering, name, [*blocks, op.axis])
    out = lowering.layout.new_image(len(image.planes), image.height, image.width)
    lowering.layout.tie(out, image)
    heads, counted = _planes((*(shape[axis] for axis in blocks), shape[op.axis]))
    lowering.append(SoftmaxOp(node.name, image, out, int(np.prod([shape[axis] for axis in blocks]))))
    placed = dict(zip([*blocks, op.axis], [*heads, counted], strict=True))
    return View(out, tuple(placed.get(axis, each) for axis, each in enumerate(around)))


def _is_plane(factor: Factor) -> bool:
    return factor.axis == PLANE


def _attention(lowering: Lowering, node: ir.Node, op: ir.Attention) -> Value:
    query, key, value, *others = node.inputs
    axes = len(lowering.graph.shapes[query])
    planes = [*range(axes - 2), axes - 1]
    keys, values = (tokens(lowering, name, planes, in_row=True)[0] for name in (key, value))
    queries, around = tokens(lowering, query, planes)
    *batch, count, _ = lowering.graph.shapes[query]
    heads, width = int(np.prod(batch)), lowering.graph.shapes[value][-1]
    out = lowering.layout.new_image(heads * width, queries.height, queries.width)
    lowering.layout.tie(out, queries)
    scratch = lowering.layout.new_scratch(lowering.layout.threads * LARGEST_TILE * keys.width * lowering.layout.lanes)
    mask = None if op.mask is None else op.mask.reshape(-1, count, keys.width)
    if mask is not None:
        # Positions of the image are in the order in which its axes count them.
        at = indices([around[axes - 2]])
        mask = mask[:, np.argsort(at[1] * queries.width + at[2])]
    by_key = lowering.vector(others[0]) if others else None
    lowering.append(AttentionOp(node.name, queries, keys, values, out, scratch, heads, op.scale, mask, by_key))
    blocks, features = _planes((*batch, width))
    return View(out, (*blocks, around[axes - 2], features))


def _planes(shape: tuple[int, ...]) -> tuple[Axes, Axis]:
    """Axes that count planes, row-major: all but the last one, and the last one."""
    axes, step = [], int(np.prod(shape))
    for size in shape:
        step //= size
        axes.append((Factor(PLANE, size, step),) if size > 1 else ())
    return tuple(axes[:-1]), axes[-1]


def _matmul(lowering: Lowering, node: ir.Node, op: ir.MatMul) -> Value:
    """Rows of one operand lie side by side in positions, those of the other are read number by number."""
    first, second = node.inputs
    shape = lowering.graph.shapes[node.output]
    axes = len(shape)
    batch = list(range(axes - 2))
    blocks = int(np.prod(shape[:-2]))
    by_columns = _counts_positions(lowering, second, axes - 1) and not _counts_positions(lowering, first, axes - 2)
    # out[i, j]: positions are j, planes are i; or positions are i, planes are j.
    x_name, entries_name = (second, first) if by_columns else (first, second)
    reduced = axes - 2 if by_columns else axes - 1
    x, around = tokens(lowering, x_name, [*batch, reduced])
    seen = view(lowering, entries_name)
    row_axis, sum_axis = (axes - 2, axes - 1) if by_columns else (axes - 1, axes - 2)
    transposed = any(factor.axis == PLANE for factor in seen.axes[sum_axis])
    entries, _ = tokens(lowering, entries_name, [*batch, sum_axis if transposed else row_axis], in_row=True)
    rows = shape[-2] if by_columns else shape[-1]
    out = lowering.layout.new_image(blocks * rows, x.height, x.width)
    lowering.layout.tie(out, x)
    lowering.append(ProductOp(node.name, entries, x, out, blocks, transposed, op.scale))
    positions = around[axes - 1 if by_columns else axes - 2]
    heads, counted = _planes((*shape[:-2], rows))
    return View(out, (*heads, counted, positions) if by_columns else (*heads, positions, counted))


def _counts_positions(lowering: Lowering, name: str, axis: int) -> bool:
    seen = view(lowering, name)
    return isinstance(seen.source, Image) and any(factor.axis != PLANE for factor in seen.axes[axis])


def _reshape(lowering: Lowering, node: ir.Node, op: ir.Reshape | ir.Flatten) -> Value:
    shape = lowering.graph.shapes[node.output]
    name = node.inputs[0]
    if isinstance(op, ir.Flatten) and is_ordinary(lowering, name):
        return _lower_moves.RULES[ir.Flatten](lowering, node, op)
    seen = view(lowering, name)
    axes = regrouped(seen.axes, shape)
    if axes is None:
        # Factors that the shape does not cut evenly: the numbers in a row can be cut anywhere.
        flat = lowering.layout.new_vector(int(np.prod(shape)))
        rows, columns = [axis for axis in range(len(seen.axes))][:-1], [len(seen.axes) - 1]
        placed = view_of(flat, seen.shape)
        to_rows, to_columns = (indices([placed.axes[axis] for axis in chosen]) for chosen in (rows, columns))
        gather(lowering, node.name, seen, flat, rows, columns, to_rows, to_columns)
        return view_of(flat, shape)
    return simplified(View(seen.source, axes, seen.start))


def _permute(lowering: Lowering, node: ir.Node, op: ir.Permute) -> Value:
    seen = view(lowering, node.inputs[0])
    return simplified(View(seen.source, tuple(seen.axes[axis] for axis in op.axes), seen.start))


def _constant(lowering: Lowering, node: ir.Node, op: ir.Constant) -> Value:
    return view_of(Held(op.value), op.value.shape)


def _slice(lowering: Lowering, node: ir.Node, op: ir.Slice) -> Value:
    name = node.inputs[0]
    if is_ordinary(lowering, name):
        return _lower_moves.RULES[ir.Slice](lowering, node, op)
    seen = view(lowering, name)
    cut = sliced(seen, op.axis, op.start, op.stop, op.step)
    if cut is None:
        cut = sliced(copied(lowering, name, seen, [op.axis]), op.axis, op.start, op.stop, op.step)
    assert cut is not None
    return simplified(cut)


def _concat(lowering: Lowering, node: ir.Node, op: ir.Concat) -> Value:
    shape = lowering.graph.shapes[node.output]
    if is_ordinary(lowering, *node.inputs):
        return _lower_moves.RULES[ir.Concat](lowering, node, op)
    last = len(shape) - 1
    if op.axis == last and last > 0:
        parts = [tokens(lowering, name, [last]) for name in node.inputs]
        if len({(axes, image.height, image.width) for image, axes in parts}) == 1:
            lowering.layout.tie(*(image for image, _ in parts))
            image, around = parts[0]
            planes = tuple(plane for part, _ in parts for plane in part.planes)
            return View(Image(planes, image.height, image.width), (*around[:-1], *whole(shape[-1:], PLANE)))
    # Side by side in new planes: the last axis is planes, all others are positions in a row.
    count = int(np.prod(shape[:-1]))
    out: Image | Vector = lowering.layout.new_image(shape[-1], 1, count) if last else lowering.layout.new_vector(*shape)
    placed = view_of(out, shape) if isinstance(out, Vector) else _in_row(out, shape)
    at = 0
    for name in node.inputs:
        seen = view(lowering, name)
        size = lowering.graph.shapes[name][op.axis]
        there = sliced(placed, op.axis, at, at + size, 1)
        assert there is not None
        at += size
        to_rows, to_columns = indices(there.axes[-1:]), indices(there.axes[:-1])
        if isinstance(out, Image) and op.axis == last:
            to_rows = to_rows + np.array([[at - size], [0], [0]])  # `sliced` renumbers planes
        else:
            to_rows = to_rows + np.array([[0], [there.start[0]], [there.start[1]]])
        gather(lowering, node.name, seen, out, [last], list(range(last)), to_rows, to_columns)
    return placed


def _in_row(image: Image, shape: tuple[int, ...]) -> View:
    """A value whose last axis is the planes, all others positions in one row."""
    axes, step = [], image.width
    for size in shape[:-1]:
        step //= size
        axes.append((Factor(COLUMN, size, step),) if size > 1 else ())
    return View(image, (*axes, *whole(shape[-1:], PLANE)))


def output(lowering: Lowering, name: str, target: External) -> bool:
    """Copy a value of tokens to the caller's array; False for images and vectors, which are not of this kind."""
    if is_ordinary(lowering, name):
        return False
    to_external(lowering, "output", view(lowering, name), target)
    return True


RULES: Mapping[type, Rule] = {
    ir.Linear: _linear,
    ir.LayerNorm: _layer_norm,
    ir.Softmax: _softmax,
    ir.Attention: _attention,
    ir.MatMul: _matmul,
    ir.Flatten: _reshape,
    ir.Reshape: _reshape,
    ir.Permute: _permute,
    ir.Constant: _constant,
    ir.Slice: _slice,
    ir.Concat: _concat,
}
