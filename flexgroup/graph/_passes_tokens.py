"""Passes for transformers: moves run together, scales and affine parts go into products, attention is recognised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flexgroup.graph import ir

_MOVES = (ir.Reshape, ir.Permute, ir.Slice, ir.Flatten)


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
    """Let products do the scaling of their operands: ``(s q) @ k`` is ``s (q @ k)``, whatever moves q between."""
    search = _Search(graph)
    nodes: list[ir.Node] = []
    unscaled: dict[str, str] = {}  # for the moves that read a scaled value, the value before
    changed = False
    for node in graph.nodes:
        op = node.op
        if isinstance(op, ir.MatMul | ir.Attention):
            inputs, scale = list(node.inputs), op.scale
            for i, name in enumerate(inputs[:2]):
                found = search.scaled(name)
                if found is None:
                    continue
                scaling, move = found
                scale, changed = scale * (uniform_scale(scaling.op) or 0.0), True
                if move is None:
                    inputs[i] = scaling.inputs[0]
                else:
                    unscaled[move.output] = scaling.inputs[0]
            node = replace(node, op=replace(op, scale=scale), inputs=tuple(inputs))
        nodes.append(node)
    if not changed:
        return graph
    kept = (replace(x, inputs=(unscaled[x.output],)) if x.output in unscaled else x for x in nodes)
    return replace(graph, nodes=tuple(kept))


def uniform_scale(op: Any) -> float | None:
    """The number that ``op`` multiplies by, if that is all it does."""
    plain = isinstance(op, ir.Affine) and op.clamp.is_identity and not op.curve and not op.shift.any()
    return float(op.scale[0]) if plain and (op.scale == op.scale[0]).all() else None


def fold_norm(graph: ir.Graph) -> ir.Graph:
    """Fold a layer norm's weight and bias into linear layers, if these are all that reads it."""
    readers = graph.consumers()
    plain: dict[str, ir.LayerNorm] = {}
    for node in graph.nodes:
        op, reading = node.op, readers[node.output]
        if isinstance(op, ir.LayerNorm) and ((op.weight != 1).any() or op.bias.any()):
            linears = all(isinstance(reader.op, ir.Linear) and reader.inputs[0] == node.output for reader in reading)
            once = all(reader.inputs.count(node.output) == 1 for reader in reading)
            if linears and once and reading and node.output not in graph.outputs:
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


def find_attention(graph: ir.Graph) -> ir.Graph:
    """Recognise attention that is written out: ``softmax(query @ key.T [+ mask], -1) @ value``."""
    search = _Search(graph)
    nodes: list[ir.Node] = []
    shapes = dict(graph.shapes)
    for node in graph.nodes:
        found = search.attention(node)
        if found is not None:
            op, (query, transposed, value, *by_key) = found
            shape, key = graph.shapes[transposed], f"{node.output}/key"
            swap = ir.Permute((*range(len(shape) - 2), len(shape) - 1, len(shape) - 2))
            shapes[key] = (*shape[:-2], shape[-1], shape[-2])
            nodes.append(ir.Node(f"{node.name}/key", swap, (transposed,), key, node.source))
            for name in by_key:
                flat = f"{node.output}/mask"
                shapes[flat] = shape[-1:]
                nodes.append(ir.Node(f"{node.name}/mask", ir.Reshape(shape[-1:]), (name,), flat, node.source))
            node = replace(node, op=op, inputs=(query, key, value, *(f"{node.output}/mask" for _ in by_key)))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), shapes=shapes) if len(shapes) > len(graph.shapes) else graph


class _Search:
    """Looks for the nodes of a pattern backwards from the last."""

    def __init__(self, graph: ir.Graph) -> None:
        self._shapes, self._outputs = graph.shapes, graph.outputs
        self._producers, self._readers = graph.producers(), graph.consumers()

    def scaled(self, name: str) -> tuple[ir.Node, ir.Node | None] | None:
        """The node that scales the value ``name``, and the move that reads its result if there are some between."""
        move, node = None, self._producers.get(name)
        while node is not None and isinstance(node.op, _MOVES):
            if len(self._readers[node.output]) > 1 or node.output in self._outputs:
                return None
            move, node = node, self._producers.get(node.inputs[0])
        return None if node is None or uniform_scale(node.op) is None else (node, move)

    def attention(self, node: ir.Node) -> tuple[ir.Attention, tuple[str, ...]] | None:
        """The operator, and query, transposed key, value and numbers for keys, if ``node`` ends an attention."""
        if not isinstance(node.op, ir.MatMul) or node.op.scale != 1:
            return None
        weights = self._inner(node.inputs[0], ir.Softmax)
        if weights is None or weights.op != ir.Softmax(len(self._shapes[weights.output]) - 1):
            return None
        name, by_key = self._without_key_mask(weights.inputs[0])
        name, mask = self._without_mask(name)
        scores = self._inner(name, ir.MatMul)
        if scores is None or not isinstance(scores.op, ir.MatMul):
            return None
        return ir.Attention(scores.op.scale, mask), (*scores.inputs, node.inputs[1], *by_key)

    def _inner(self, name: str, kind: type) -> ir.Node | None:
        """The node that computes ``name``, if it is of this kind and one node reads its result."""
        node = self._producers.get(name)
        once = len(self._readers[name]) == 1 and name not in self._outputs
        return node if node is not None and isinstance(node.op, kind) and once else None

    def _without_key_mask(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The scores before numbers for keys, which depend on the input, were added to them, and these."""
        added = self._inner(name, ir.Add)
        if added is None or added.op != ir.Add():
            return name, ()
        shape = self._shapes[name]
        for scores, mask in (added.inputs, added.inputs[::-1]):
            node = self._producers.get(mask)
            varies = node is None or not isinstance(node.op, ir.Constant)
            if varies and self._shapes[scores] == shape and self._shapes[mask] == (*(1,) * (len(shape) - 1), shape[-1]):
                return scores, (mask,)
        return name, ()

    def _without_mask(self, name: str) -> tuple[str, ir.Array | None]:
        """The scores before a constant was added to them, and that constant."""
        added = self._inner(name, ir.Add)
        if added is None or added.op != ir.Add():
            return name, None
        for scores, mask in (added.inputs, added.inputs[::-1]):
            constant = self._producers.get(mask)
            if constant is not None and isinstance(constant.op, ir.Constant):
                shape = self._shapes[scores]
                if shape == self._shapes[name]:
                    return scores, np.ascontiguousarray(np.broadcast_to(constant.op.value, shape))
        return name, None
