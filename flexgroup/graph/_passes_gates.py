"""Passes for gates: activation functions written out get their names, single pixels become vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flexgroup.graph import ir

Shape = tuple[int, ...]

_CLOSE = 1e-6


def curve_fused(before: ir.Op, after: ir.Op, shape: Shape) -> ir.Op | None:
    """One operator for a curve of what another one computes; ``shape`` is that of the value."""
    if not isinstance(after, ir.Curve):
        return None
    if isinstance(before, ir.Clamp):
        ones, zeros = np.ones(shape[0], np.float32), np.zeros(shape[0], np.float32)
        return ir.Affine(ones, zeros, clamp=before, curve=after.kind)
    if isinstance(before, ir.Conv2d | ir.Linear | ir.Affine | ir.Add | ir.Mul) and not before.curve:
        return replace(before, curve=after.kind)
    return None


def scaled_clamp(clamp: ir.Clamp, affine: ir.Affine) -> ir.Clamp | None:
    """The clamp that does after ``affine`` what ``clamp`` does before it; None where there is no such clamp."""
    scale, shift = float(affine.scale[0]), float(affine.shift[0])
    if clamp.is_identity:
        return clamp
    if scale <= 0 or (affine.scale != affine.scale[0]).any() or (affine.shift != affine.shift[0]).any():
        return None
    return ir.Clamp(clamp.low * scale + shift, clamp.high * scale + shift)


def name_curves(graph: ir.Graph) -> ir.Graph:
    """Recognise ``x * sigmoid(x)`` as silu and ``x * clamp(x + 3, 0, 6)``, scaled anyhow, as hard swish."""
    producers = graph.producers()
    nodes: list[ir.Node] = []
    shapes = dict(graph.shapes)
    for node in graph.nodes:
        found = _gated_by_itself(node, producers, shapes) if isinstance(node.op, ir.Mul) else None
        if found is None:
            nodes.append(node)
            continue
        value, kind, factor = found
        curve = replace(node, op=ir.Curve(kind), inputs=(value,))
        if factor == 1.0:
            nodes.append(curve)
            continue
        inner = _unused(f"{node.output}.curve", shapes)
        shapes[inner] = shapes[node.output]
        scale = np.full(shapes[inner][0], factor, np.float32)
        nodes.append(replace(curve, name=_unused(f"{node.name}.curve", _names(graph)), output=inner))
        nodes.append(replace(node, op=ir.Affine(scale, np.zeros_like(scale)), inputs=(inner,)))
    unchanged = len(nodes) == len(graph.nodes) and all(a is b for a, b in zip(nodes, graph.nodes, strict=True))
    return graph if unchanged else replace(graph, nodes=tuple(nodes), shapes=shapes)


def _gated_by_itself(
    node: ir.Node, producers: Mapping[str, ir.Node], shapes: Mapping[str, Shape]
) -> tuple[str, str, float] | None:
    """The x, the curve and the factor of a product ``x * gate(x)`` that is a curve times a factor."""
    if node.op != ir.Mul() or shapes[node.inputs[0]] != shapes[node.inputs[1]]:
        return None
    for value, gate in (node.inputs, node.inputs[::-1]):
        maker = producers.get(gate)
        if maker is None or maker.inputs != (value,):
            continue
        if maker.op == ir.Curve("sigmoid"):
            return value, "silu", 1.0
        if isinstance(maker.op, ir.Affine):
            factor = _hard_sigmoid_factor(maker.op)
            if factor is not None:
                return value, "hard_swish", factor
    return None


def _hard_sigmoid_factor(op: ir.Affine) -> float | None:
    """h, where ``op`` is ``h * hard_sigmoid``."""
    high = op.clamp.high
    if op.curve or op.clamp.low != 0 or not 0 < high < ir.INF:
        return None
    slopes, offsets = op.scale / np.float32(high), op.shift / np.float32(high)
    hard = (np.abs(slopes - 1 / 6) < _CLOSE).all() and (np.abs(offsets - 0.5) < _CLOSE).all()
    return (1.0 if abs(high - 1) < _CLOSE else float(high)) if hard else None


def drop_expansions(graph: ir.Graph) -> ir.Graph:
    """Let sums and products, which repeat axes of size 1 themselves, read values that have not been expanded."""
    producers = graph.producers()
    nodes, changed = [], False
    for node in graph.nodes:
        for i, value in enumerate(node.inputs if isinstance(node.op, ir.Add | ir.Mul) else ()):
            maker, other = producers.get(value), node.inputs[1 - i]
            if maker is not None and isinstance(maker.op, ir.Expand) and graph.shapes[other] == maker.op.shape:
                inputs = (maker.inputs[0], other) if i == 0 else (other, maker.inputs[0])
                node, changed = replace(node, inputs=inputs), True
                break
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)) if changed else graph


def use_vectors(graph: ir.Graph) -> ir.Graph:
    """Compute with images of one pixel, (channels, 1, 1), as vectors: 1x1 convolutions there are linear layers.

    So a squeeze-and-excitation block is a mean, two linear layers and a gate.
    """
    rewrite = _Pixels(graph)
    for node in graph.nodes:
        rewrite.take(node)
    return graph if not rewrite.vectors else replace(graph, nodes=tuple(rewrite.nodes), shapes=rewrite.shapes)


class _Pixels:
    """The state of `use_vectors`: the nodes so far, and which values there are as vectors too."""

    def __init__(self, graph: ir.Graph) -> None:
        self.nodes: list[ir.Node] = []
        self.shapes = dict(graph.shapes)
        self.vectors: dict[str, str] = {}
        self._names = _names(graph)
        self._flat: dict[str, str] = {}

    def take(self, node: ir.Node) -> None:
        """Append ``node``, or the operator on vectors that computes the same and a reshape of its result."""
        op = _on_vectors(node, self.shapes)
        if op is None:
            self.nodes.append(node)
            return
        inputs = node.inputs
        if not isinstance(op, ir.GlobalMean):
            inputs = tuple(self._flattened(value, node) for value in inputs)
        vector = _unused(f"{node.output}.vector", self.shapes)
        self.shapes[vector] = self.shapes[node.output][:1]
        self.nodes.append(replace(node, op=op, inputs=inputs, output=vector))
        reshape = ir.Reshape(self.shapes[node.output])
        self.nodes.append(ir.Node(self._name(f"{node.name}.reshape"), reshape, (vector,), node.output, node.source))
        self.vectors[node.output] = vector

    def _flattened(self, value: str, node: ir.Node) -> str:
        if value in self.vectors:
            return self.vectors[value]
        if value not in self._flat:
            flat = _unused(f"{value}.flat", self.shapes)
            self.shapes[flat] = self.shapes[value][:1]
            self.nodes.append(ir.Node(self._name(f"{node.name}.flatten"), ir.Flatten(), (value,), flat, node.source))
            self._flat[value] = flat
        return self._flat[value]

    def _name(self, wanted: str) -> str:
        name = _unused(wanted, self._names)
        self._names.add(name)
        return name


def _on_vectors(node: ir.Node, shapes: Mapping[str, Shape]) -> ir.Op | None:
    """What ``node``, whose result is one pixel, does to vectors; None where that is nothing that vectors know."""
    op: Any = node.op
    inputs = [shapes[value] for value in node.inputs]
    if len(shapes[node.output]) != 3 or shapes[node.output][1:] != (1, 1) or not inputs:
        return None
    if isinstance(op, ir.AvgPool2d):
        return ir.GlobalMean() if op.kernel == inputs[0][1:] and not any(op.padding) else None
    if any(len(shape) != 3 or shape[1:] != (1, 1) for shape in inputs):
        return None
    if isinstance(op, ir.Conv2d):
        return _linear(op) if op.groups == 1 and len(inputs) == 1 else None
    if isinstance(op, ir.Add | ir.Mul):
        return op if inputs[0] == inputs[1] else None
    on_channels = isinstance(op, ir.Affine | ir.Slice | ir.Concat) and op.axis == 0
    return op if on_channels or isinstance(op, ir.Clamp | ir.Curve) else None


def _linear(op: ir.Conv2d) -> ir.Linear | None:
    """A convolution of one pixel: only one entry of its window falls on it."""
    rows, columns = (divmod(op.padding[side], op.dilation[side // 2]) for side in (0, 2))
    if rows[1] or columns[1] or rows[0] >= op.weight.shape[2] or columns[0] >= op.weight.shape[3]:
        return None
    weight = np.ascontiguousarray(op.weight[:, :, rows[0], columns[0]])
    return ir.Linear(weight, op.bias, op.clamp, op.curve)


def _names(graph: ir.Graph) -> set[str]:
    return {node.name for node in graph.nodes}


def _unused(name: str, used: Any) -> str:
    candidate, count = name, 1
    while candidate in used:
        count += 1
        candidate = f"{name}{count}"
    return candidate
