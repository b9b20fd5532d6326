"""Slices move towards the input: what only the class token is read of is computed for the class token only.

A classifier that ends in ``norm(x)[:, 0]`` needs one token of the last block's output, so one of its perceptron, so one
query of its attention. Every operator that treats the indices of an axis alike lets a slice along it pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flexgroup.graph import ir

Shape = tuple[int, ...]


def slice_early(graph: ir.Graph) -> ir.Graph:
    """Move slices before what computes their input, where all its readers take the same slice of it."""
    producers, readers = graph.producers(), graph.consumers()
    for name, node in reversed(producers.items()):
        reading = readers[name]
        slices = [reader.op for reader in reading]
        if not slices or name in graph.outputs or not isinstance(slices[0], ir.Slice):
            continue
        wanted = slices[0]
        if all(op == wanted for op in slices) and wanted.stop - wanted.start < graph.shapes[name][wanted.axis]:
            passed = _passed(graph, node, wanted)
            if passed is not None:
                return _moved(graph, node, wanted, *passed)
    return graph


def _moved(graph: ir.Graph, node: ir.Node, wanted: ir.Slice, op: ir.Op, axes: Sequence[int | None]) -> ir.Graph:
    """The graph with ``node`` doing ``op`` on slices of its inputs along ``axes``; its readers' slices are gone."""
    shapes, nodes = dict(graph.shapes), list(graph.nodes)
    at = nodes.index(node)
    before, inputs = [], []
    for i, (name, axis) in enumerate(zip(node.inputs, axes, strict=True)):
        if axis is None:
            inputs.append(name)
            continue
        part = f"{node.output}/part{i}"
        shapes[part] = _cut(shapes[name], axis, wanted)
        before.append(ir.Node(f"{node.name}/part{i}", replace(wanted, axis=axis), (name,), part, node.source))
        inputs.append(part)
    readers = [reader for reader in nodes if node.output in reader.inputs]
    shapes[node.output] = shapes[readers[0].output]
    nodes[at : at + 1] = [*before, replace(node, op=op, inputs=tuple(inputs))]
    same = {reader.output: node.output for reader in readers}
    kept = [
        replace(each, inputs=tuple(same.get(value, value) for value in each.inputs))
        for each in nodes
        if each.output not in same
    ]
    outputs = tuple(same.get(value, value) for value in graph.outputs)
    shapes = {name: shape for name, shape in shapes.items() if name not in same}
    return replace(graph, outputs=outputs, nodes=tuple(kept), shapes=shapes)


def _cut(shape: Shape, axis: int, wanted: ir.Slice) -> Shape:
    return (*shape[:axis], len(range(wanted.start, wanted.stop, wanted.step)), *shape[axis + 1 :])


def _passed(graph: ir.Graph, node: ir.Node, wanted: ir.Slice) -> tuple[ir.Op, Sequence[int | None]] | None:
    """What ``node`` does on slices, and along which axis each of its inputs is cut; None if a slice cannot pass."""
    op: Any = node.op
    axis, shape = wanted.axis, graph.shapes[node.output]
    inputs = [graph.shapes[name] for name in node.inputs]
    last = len(shape) - 1
    if isinstance(op, ir.LayerNorm | ir.Linear) and axis != last:
        return op, [axis] * len(inputs)
    if isinstance(op, ir.Clamp | ir.Curve) or (isinstance(op, ir.Affine) and op.axis != axis):
        return op, [axis]
    if isinstance(op, ir.Add | ir.Mul):
        return op, [axis if each[axis] == shape[axis] else None for each in inputs]
    if isinstance(op, ir.Permute):
        return op, [op.axes[axis]]
    if isinstance(op, ir.Reshape) and inputs[0][: axis + 1] == shape[: axis + 1]:
        return ir.Reshape(_cut(shape, axis, wanted)), [axis]
    if isinstance(op, ir.Attention) and axis == last - 1:
        mask = None if op.mask is None else op.mask[..., wanted.start : wanted.stop : wanted.step, :]
        return replace(op, mask=mask), [axis, None, None]
    return None
