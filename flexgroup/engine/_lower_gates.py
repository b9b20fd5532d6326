"""How sums, products and activation functions become operations; a gate is one number for every plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from flexgroup.engine._arrange import copied, copied_like, side_by_side, spread, view
from flexgroup.engine._layout import Image, Vector
from flexgroup.engine._operations import ElementwiseOp
from flexgroup.engine._view import COLUMN, View
from flexgroup.graph import ir
from flexgroup.graph._factors import Axis, Factor

if TYPE_CHECKING:
    from flexgroup.engine._lower import Lowering, Rule
    from flexgroup.engine._values import Value

Shape = tuple[int, ...]


def _add(lowering: Lowering, node: ir.Node, op: ir.Add) -> Value:
    return _combined(lowering, node, op, "add")


def _mul(lowering: Lowering, node: ir.Node, op: ir.Mul) -> Value:
    return _combined(lowering, node, op, "mul")


def _combined(lowering: Lowering, node: ir.Node, op: ir.Add | ir.Mul, form: str) -> Value:
    shape = lowering.graph.shapes[node.output]
    first, second = node.inputs
    if lowering.graph.shapes[first] != shape:
        first, second = second, first
    if lowering.graph.shapes[first] == lowering.graph.shapes[second]:
        (a, b), out, result = side_by_side(lowering, node)
        lowering.append(ElementwiseOp(node.name, a, b, None, None, op.clamp, out, form, op.curve))
        return result
    if len(shape) == 3:
        return _on_planes(lowering, node, op, form, first, second)
    return _spread_out(lowering, node, op, form, first, second)


def _on_planes(lowering: Lowering, node: ir.Node, op: ir.Add | ir.Mul, form: str, first: str, second: str) -> Value:
    """Images that repeat along axes: a plane is a list entry, so only rows and columns take copies."""
    channels, height, width = lowering.graph.shapes[node.output]
    out = lowering.new_output(node)
    a = _repeated(lowering, first, channels, (height, width))
    b: Image | Vector
    if lowering.graph.shapes[second][1:] == (1, 1) and (height, width) != (1, 1):
        form, b = f"{form}_each", _numbers(lowering, second, channels)
        lowering.layout.tie(out, a)
    else:
        b = _repeated(lowering, second, channels, (height, width))
        lowering.layout.tie(out, a, b)
    lowering.append(ElementwiseOp(node.name, a, b, None, None, op.clamp, out, form, op.curve))
    return out


def _numbers(lowering: Lowering, name: str, channels: int) -> Image | Vector:
    """A value (channels or 1, 1, 1) as one number a plane: an image of single pixels, or a vector as it is."""
    value = lowering.values[name]
    if isinstance(value, View) and isinstance(value.source, Vector) and value.start == (0, 0):
        numbers: Axis = (Factor(COLUMN, channels, 1),)
        if value.axes[0] == numbers and value.source.features == channels:
            return value.source
    image = lowering.image(name)
    return image if len(image.planes) == channels else Image(image.planes * channels, 1, 1)


def _repeated(lowering: Lowering, name: str, channels: int, size: tuple[int, int]) -> Image:
    """A value as an image of ``channels`` planes of ``size``."""
    shape = lowering.graph.shapes[name]
    image = lowering.image(name) if shape[1:] == size else _copy_of(lowering, name, (shape[0], *size))
    return image if shape[0] == channels else Image(image.planes * channels, *size)


def _copy_of(lowering: Lowering, name: str, shape: Shape) -> Image:
    image = copied(lowering, name, _repeating(lowering, name, shape), [0], (shape[1], shape[2])).source
    assert isinstance(image, Image)
    return image


def _spread_out(lowering: Lowering, node: ir.Node, op: ir.Add | ir.Mul, form: str, first: str, second: str) -> Value:
    """Values of any number of axes, of which the second repeats: it is copied to the places of the first."""
    shape = lowering.graph.shapes[node.output]
    if lowering.graph.shapes[first] != shape:
        whole = copied(lowering, first, _repeating(lowering, first, shape), [len(shape) - 1])
    else:
        whole = spread(lowering, first)
    a = whole.source
    assert isinstance(a, Image)
    b = copied_like(lowering, second, _repeating(lowering, second, shape), whole)
    out = lowering.layout.new_image(len(a.planes), a.height, a.width)
    lowering.layout.tie(out, a, b)
    lowering.append(ElementwiseOp(node.name, a, b, None, None, op.clamp, out, form, op.curve))
    return View(out, whole.axes)


def _repeating(lowering: Lowering, name: str, shape: Shape) -> View:
    """The value with its axes of size 1 repeated to ``shape``: factors that step nowhere."""
    seen = view(lowering, name)
    axes = [
        axis if size == there else (Factor(COLUMN, size, 0),)
        for axis, size, there in zip(seen.axes, shape, seen.shape, strict=True)
    ]
    return View(seen.source, tuple(axes), seen.start)


def _expand(lowering: Lowering, node: ir.Node, op: ir.Expand) -> Value:
    return _repeating(lowering, node.inputs[0], op.shape)


def _curve(lowering: Lowering, node: ir.Node, op: ir.Curve) -> Value:
    (a,), out, result = side_by_side(lowering, node)
    count = len(a.planes) if isinstance(a, Image) else a.features
    # Adding -0.0 leaves every number as it is, -0.0 too.
    scale, shift = np.ones(count, np.float32), np.full(count, -0.0, np.float32)
    lowering.append(ElementwiseOp(node.name, a, None, scale, shift, ir.IDENTITY, out, "affine", op.kind))
    return result


RULES: Mapping[type, Rule] = {
    ir.Add: _add,
    ir.Mul: _mul,
    ir.Curve: _curve,
    ir.Expand: _expand,
}
