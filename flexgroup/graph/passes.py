"""Small graphs from large ones: pure passes, each a function from a graph to a graph that means the same.

A pass that finds nothing to do returns the very graph it was given; `optimize` repeats them all until that is
so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup.graph import ir
from flexgroup.graph._early_slices import slice_early
from flexgroup.graph._passes_gates import curve_fused, drop_expansions, name_curves, scaled_clamp, use_vectors
from flexgroup.graph._passes_tokens import find_attention, fold_norm, fold_scales, is_idle, uniform_scale
from flexgroup.graph._passes_tokens import merge_moves as moves_merged

Rule: TypeAlias = Callable[[ir.Node, ir.Node], "ir.Op | None"]


def optimize(graph: ir.Graph) -> ir.Graph:
    """Apply every pass of this module until none changes the graph any more.

    The result computes the same up to rounding, with batch norm, clamps, residual additions and zero padding
    inside the convolutions wherever these can take them.
    """
    while True:
        before = graph
        for change in (
            eliminate_dead_code,
            drop_identities,
            fit_windows,
            use_global_mean,
            use_vectors,
            drop_expansions,
            name_curves,
            fold_padding,
            fold_affine,
            fuse_clamp,
            fuse_add,
            fuse_curve,
            merge_moves,
            fold_scales,
            fold_norm,
            find_attention,
            slice_early,
        ):
            graph = change(graph)
        if graph is before:
            return graph


def eliminate_dead_code(graph: ir.Graph) -> ir.Graph:
    """Drop every node whose output nobody reads."""
    needed = set(graph.outputs)
    kept: list[ir.Node] = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    return graph if len(kept) == len(graph.nodes) else _with_nodes(graph, reversed(kept))


def drop_identities(graph: ir.Graph) -> ir.Graph:
    """Drop nodes that pass on their input as it is: full slices, padding by nothing, boundless clamps, ..."""
    same: dict[str, str] = {}
    kept: list[ir.Node] = []
    for node in graph.nodes:
        inputs = tuple(same.get(value, value) for value in node.inputs)
        if inputs and _is_identity(node.op, graph.shapes[node.inputs[0]]):
            same[node.output] = inputs[0]
        else:
            kept.append(replace(node, inputs=inputs))
    if not same:
        return graph
    outputs = tuple(same.get(value, value) for value in graph.outputs)
    return _with_nodes(replace(graph, outputs=outputs), kept)


def fit_windows(graph: ir.Graph) -> ir.Graph:
    """Let a pool's window see no more than the image where it has one place only, whatever its size."""
    nodes = []
    for node in graph.nodes:
        op = node.op
        if isinstance(op, ir.MaxPool2d | ir.AvgPool2d):
            size, places = (graph.shapes[value][1:] for value in (node.inputs[0], node.output))
            fitted = _fitted(op, size, places)
            node = node if fitted == op else replace(node, op=fitted)
        nodes.append(node)
    changed = any(now is not before for now, before in zip(nodes, graph.nodes, strict=True))
    return _with_nodes(graph, nodes) if changed else graph


def _fitted(
    op: ir.MaxPool2d | ir.AvgPool2d, size: tuple[int, ...], places: tuple[int, ...]
) -> ir.MaxPool2d | ir.AvgPool2d:
    kernel, stride, padding = list(op.kernel), list(op.stride), list(op.padding)
    if isinstance(op, ir.AvgPool2d) and op.count_include_pad and any(padding):
        return op
    for axis in (0, 1):
        apart = isinstance(op, ir.MaxPool2d) and op.dilation[axis] > 1
        if places[axis] == 1 and not apart:
            kernel[axis], stride[axis] = min(kernel[axis] - padding[2 * axis], size[axis]), size[axis]
            padding[2 * axis : 2 * axis + 2] = 0, 0
    top, bottom, left, right = padding
    return replace(op, kernel=(kernel[0], kernel[1]), stride=(stride[0], stride[1]), padding=(top, bottom, left, right))


def use_global_mean(graph: ir.Graph) -> ir.Graph:
    """Turn an average over the whole image, which only flattening reads, into `GlobalMean`."""
    readers = graph.consumers()
    shapes = dict(graph.shapes)
    nodes: list[ir.Node] = []
    for node in graph.nodes:
        flattened = all(isinstance(reader.op, ir.Flatten) for reader in readers[node.output])
        if flattened and node.output not in graph.outputs and _is_whole_mean(node.op, shapes[node.inputs[0]]):
            node = replace(node, op=ir.GlobalMean())
            shapes[node.output] = shapes[node.output][:1]
        nodes.append(node)
    if shapes == graph.shapes:
        return graph
    return _with_nodes(replace(graph, shapes=shapes), nodes)


def fold_padding(graph: ir.Graph) -> ir.Graph:
    """Let a convolution do the zero padding of height and width that comes before it."""

    def rule(before: ir.Node, after: ir.Node) -> ir.Op | None:
        pad, conv = before.op, after.op
        if not (isinstance(pad, ir.Pad) and isinstance(conv, ir.Conv2d) and after.inputs[0] == before.output):
            return None
        channels, rows, columns = pad.amounts
        if channels != (0, 0):
            return None
        top, bottom, left, right = conv.padding
        around = (top + rows[0], bottom + rows[1], left + columns[0], right + columns[1])
        return replace(conv, padding=around)

    return _merge_pairs(graph, rule, keep="after")


def fold_affine(graph: ir.Graph) -> ir.Graph:
    """Fold a batch norm into the weights before it: ``s (W x + b) + t`` is ``(s W) x + (s b + t)``.

    The products are taken in float64 and rounded once.
    """

    def rule(before: ir.Node, after: ir.Node) -> ir.Op | None:
        first, affine = before.op, after.op
        if isinstance(first, ir.MatMul):
            factor = uniform_scale(affine)
            return None if factor is None else replace(first, scale=first.scale * factor)
        if not isinstance(affine, ir.Affine):
            return None
        if isinstance(first, ir.Clamp):
            clamp = scaled_clamp(first, affine)
            return None if clamp is None else replace(affine, clamp=clamp.then(affine.clamp))
        if not isinstance(first, ir.Conv2d | ir.Linear | ir.Affine) or len(before.inputs) > 1 or first.curve:
            return None
        clamp = scaled_clamp(first.clamp, affine)
        if clamp is None:
            return None
        clamp = clamp.then(affine.clamp)
        shape = graph.shapes[before.output]
        axis = {ir.Conv2d: 0, ir.Linear: len(shape) - 1}.get(type(first), getattr(first, "axis", 0))
        moved = _along(affine, axis, shape)
        if moved is None:
            return None
        scale, shift = moved.scale.astype(np.float64), moved.shift.astype(np.float64)
        if isinstance(first, ir.Affine):
            both = _float32(scale * first.scale), _float32(scale * first.shift + shift)
            return ir.Affine(*both, clamp=clamp, axis=axis, curve=affine.curve)
        rows = scale.reshape(-1, *(1,) * (first.weight.ndim - 1))
        weight, bias = _float32(rows * first.weight), _float32(scale * first.bias + shift)
        return replace(first, weight=weight, bias=bias, clamp=clamp, curve=affine.curve)

    return _merge_pairs(graph, rule)


def fuse_clamp(graph: ir.Graph) -> ir.Graph:
    """Let the operator that computes a value also clamp it."""

    def rule(before: ir.Node, after: ir.Node) -> ir.Op | None:
        if not isinstance(after.op, ir.Clamp):
            return None
        if isinstance(before.op, ir.Clamp):
            return before.op.then(after.op)
        if isinstance(before.op, ir.Conv2d | ir.Linear | ir.Affine | ir.Add | ir.Mul) and not before.op.curve:
            return replace(before.op, clamp=before.op.clamp.then(after.op))
        return None

    return _merge_pairs(graph, rule)


def fuse_add(graph: ir.Graph) -> ir.Graph:
    """Let a convolution, or a linear layer over tokens, add the other operand of a sum, its residual.

    Of two that could, the later one does. It moves to the place of the addition, where the
    residual has been computed whatever the order was.
    """

    def rule(before: ir.Node, after: ir.Node) -> ir.Op | None:
        conv, add = before.op, after.op
        if not (isinstance(conv, ir.Conv2d | ir.Linear) and isinstance(add, ir.Add)):
            return None
        shape = graph.shapes[before.output]
        if len(shape) == 1 or any(graph.shapes[value] != shape for value in after.inputs):
            return None
        free = conv.clamp.is_identity and not conv.curve and len(before.inputs) == 1
        return replace(conv, clamp=add.clamp, curve=add.curve) if free else None

    return _merge_pairs(graph, rule)


def fuse_curve(graph: ir.Graph) -> ir.Graph:
    """Let the operator that computes a value also apply an activation function to it."""
    return _merge_pairs(graph, lambda before, after: curve_fused(before.op, after.op, graph.shapes[after.output]))


def merge_moves(graph: ir.Graph) -> ir.Graph:
    """Make one reshape of two, and one permutation of two."""
    return _merge_pairs(graph, lambda before, after: moves_merged(before.op, after.op, graph.shapes[after.output]))


def _along(affine: ir.Affine, axis: int, shape: tuple[int, ...]) -> ir.Affine | None:
    """``affine`` with its numbers along ``axis``, if it has them there or if they are all equal."""
    if affine.axis == axis:
        return affine
    if (affine.scale != affine.scale[0]).any() or (affine.shift != affine.shift[0]).any():
        return None
    scale, shift = (np.full(shape[axis], numbers[0], np.float32) for numbers in (affine.scale, affine.shift))
    return replace(affine, scale=scale, shift=shift, axis=axis)


def _merge_pairs(graph: ir.Graph, rule: Rule, keep: str = "before") -> ir.Graph:
    """Merge (before, after), where only ``after`` reads ``before``, if ``rule`` gives an operator for both.

    The merged node stands where ``after`` stood, which is always late enough: nothing between them reads
    ``before``. It reads what ``before`` read and then the other inputs of ``after``. ``keep`` says whose name
    it carries.
    """
    readers = graph.consumers()
    position = {node.output: index for index, node in enumerate(graph.nodes)}
    done: dict[str, ir.Node] = {}
    for node in graph.nodes:
        for value in sorted(node.inputs, key=lambda name: position.get(name, -1), reverse=True):
            before = done.get(value)
            if before is None or len(readers[value]) != 1 or value in graph.outputs:
                continue
            op = rule(before, node)
            if op is not None:
                del done[value]
                others = tuple(name for name in node.inputs if name != value)
                named = before if keep == "before" else node
                node = replace(named, op=op, inputs=before.inputs + others, output=node.output)
                break
        done[node.output] = node
    return graph if len(done) == len(graph.nodes) else _with_nodes(graph, done.values())


def _with_nodes(graph: ir.Graph, nodes: Iterable[ir.Node]) -> ir.Graph:
    kept = tuple(nodes)
    values = (*graph.inputs, *(node.output for node in kept))
    return replace(graph, nodes=kept, shapes={value: graph.shapes[value] for value in values})


def _is_identity(op: ir.Op, shape: tuple[int, ...]) -> bool:
    if isinstance(op, ir.Clamp):
        return op.is_identity
    if isinstance(op, ir.Affine):
        return uniform_scale(op) == 1.0
    if isinstance(op, ir.Slice):
        return (op.start, op.stop, op.step) == (0, shape[op.axis], 1)
    if isinstance(op, ir.Pad):
        return op.amounts == ((0, 0), (0, 0), (0, 0))
    if isinstance(op, ir.MaxPool2d | ir.AvgPool2d):
        return op.kernel == op.stride == (1, 1) and not any(op.padding)
    return is_idle(op, shape) or (isinstance(op, ir.Flatten) and len(shape) == 1)


def _is_whole_mean(op: ir.Op, shape: tuple[int, ...]) -> bool:
    return isinstance(op, ir.AvgPool2d) and op.kernel == shape[1:] and not any(op.padding)


def _float32(array: npt.NDArray[Any]) -> ir.Array:
    return np.ascontiguousarray(array, dtype=np.float32)
