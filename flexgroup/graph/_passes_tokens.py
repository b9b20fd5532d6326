"""Passes for transformers: moves run together, scales and affine parts go into products, attention is recognised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flexgroup.graph import ir


def merge_moves(before: ir.Op, after: ir.Op, shape: tuple[int, ...]) -> ir.Op | None:
    """One operator for a reshape or permutation after another; ``shape`` is that of the result."""
    if isinstance(before, ir.Permute) and isinstance(after, ir.Permute):
        return ir.Permute(tuple(before.axes[axis] for axis in after.axes))
    if isinstance(before, ir.Reshape | ir.Flatten) and isinstance(after, ir.Reshape | ir.Flatten):
        return after if len(shape) == 1 else ir.Reshape(shape)
    return None


def is_idle(op: ir.Op, shape: tuple[int, ...]) -> bool:
    """Whether a reshape or permutation leaves a value of ``shape`` as it is."""
    if isinstance(op, ir.Permute):
        return op.axes == tuple(range(len(op.axes)))
    return isinstance(op, ir.Reshape) and op.shape == shape


def fold_scales(graph: ir.Graph) -> ir.Graph:
    """Let products do the scaling of their operands: ``(s q) @ k`` is ``s (q @ k)``."""
    producers = graph.producers()
    nodes, changed = [], False
    for node in graph.nodes:
        op = node.op
        if isinstance(op, ir.MatMul | ir.Attention):
            inputs, scale = list(node.inputs), op.scale
            for i, name in enumerate(inputs[:2]):
                factor = uniform_scale(producers[name].op) if name in producers else None
                if factor is not None:
                    inputs[i], scale, changed = producers[name].inputs[0], scale * factor, True
            node = replace(node, op=replace(op, scale=scale), inputs=tuple(inputs))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)) if changed else graph


def uniform_scale(op: ir.Op) -> float | None:
    """The number that ``op`` multiplies by, if that is all it does."""
    if not isinstance(op, ir.Affine) or op.shift.any() or not op.clamp.is_identity or (op.scale != op.scale[0]).any():
        return None
    return float(op.scale[0])


def fold_norm(graph: ir.Graph) -> ir.Graph:
    """Fold a layer norm's weight and bias into linear layers, if these are all that reads it."""
    readers = graph.consumers()
    plain: dict[str, ir.LayerNorm] = {}
    for node in graph.nodes:
        op, reading = node.op, readers[node.output]
        if isinstance(op, ir.LayerNorm) and ((op.weight != 1).any() or op.bias.any()):
            linear = all(isinstance(reader.op, ir.Linear) and reader.inputs[0] == node.output for reader in reading)
            once = all(reader.inputs.count(node.output) == 1 for reader in reading)
            if linear and once and reading and node.output not in graph.outputs:
                plain[node.output] = op
    if not plain:
        return graph
    nodes = []
    for node in graph.nodes:
        if node.output in plain:
            op = plain[node.output]
            node = replace(node, op=replace(op, weight=np.ones_like(op.weight), bias=np.zeros_like(op.bias)))
        elif isinstance(node.op, ir.Linear) and node.inputs[0] in plain:
            norm, linear = plain[node.inputs[0]], node.op
            weight = linear.weight.astype(np.float64)
            bias = (weight @ norm.bias.astype(np.float64) + linear.bias).astype(np.float32)
            node = replace(node, op=replace(linear, weight=(weight * norm.weight).astype(np.float32), bias=bias))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))
