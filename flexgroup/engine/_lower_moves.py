"""How operators that only move numbers become views, or copies where a view will not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flexgroup.engine._geometry import Footprint
from flexgroup.engine._layout import ZERO, Image, PlaneRef, Vector
from flexgroup.engine._operations import CopyOp
from flexgroup.engine._values import Crop
from flexgroup.graph import ir

if TYPE_CHECKING:
    from flexgroup.engine._lower import Lowering, Rule
    from flexgroup.engine._values import Value


def _flatten(lowering: Lowering, node: ir.Node, op: ir.Flatten) -> Value:
    if len(lowering.graph.shapes[node.inputs[0]]) == 1:
        return lowering.values[node.inputs[0]]
    image = lowering.image(node.inputs[0])
    channels = len(image.planes)
    out = lowering.layout.new_vector(channels * image.height * image.width)
    lowering.append(CopyOp(node.name, image, out, channels, image.height, image.width))
    return out


def _slice(lowering: Lowering, node: ir.Node, op: ir.Slice) -> Value:
    name = node.inputs[0]
    shape = lowering.graph.shapes[name]
    if len(shape) == 1:
        vector = lowering.vector(name)
        cut = lowering.layout.new_vector(lowering.graph.shapes[node.output][0])
        lowering.append(CopyOp(node.name, vector, cut, 1, 1, cut.features, ((0, op.start),), (1, op.step)))
        return cut
    if op.axis == 0:
        image = lowering.image(name)
        return Image(image.planes[op.start : op.stop : op.step], image.height, image.width)
    _, height, width = lowering.graph.shapes[node.output]
    start = (op.start, 0) if op.axis == 1 else (0, op.start)
    step = (op.step, 1) if op.axis == 1 else (1, op.step)
    before = lowering.values[name]
    if isinstance(before, Crop):
        start = (before.start[0] + start[0] * before.step[0], before.start[1] + start[1] * before.step[1])
        step = (before.step[0] * step[0], before.step[1] * step[1])
        name = before.source
    return Crop(name, start, step, height, width)


def _pad(lowering: Lowering, node: ir.Node, op: ir.Pad) -> Value:
    image = lowering.image(node.inputs[0])
    (before, after), (top, bottom), (left, right) = op.amounts
    if top or bottom or left or right:
        channels, height, width = len(image.planes), image.height + top + bottom, image.width + left + right
        footprint = Footprint(((top, left, image.height, image.width),))
        padded = lowering.layout.new_image(channels, height, width, footprint)
        lowering.append(CopyOp(node.name, image, padded, channels, image.height, image.width, target_start=(top, left)))
        image = padded
    zeros = PlaneRef(ZERO, 0)
    return Image((zeros,) * before + image.planes + (zeros,) * after, image.height, image.width)


def _concat(lowering: Lowering, node: ir.Node, op: ir.Concat) -> Value:
    shape = lowering.graph.shapes[node.output]
    if len(shape) == 3 and op.axis == 0:
        images = [lowering.image(name) for name in node.inputs]
        lowering.layout.tie(*images)
        return Image(tuple(plane for image in images for plane in image.planes), shape[1], shape[2])
    parts = [lowering.either(name) for name in node.inputs]
    out: Image | Vector = lowering.layout.new_vector(shape[0]) if len(shape) == 1 else lowering.new_output(node)
    at = 0
    for part in parts:
        channels = shape[0] if isinstance(part, Image) else 1
        rows, columns = (part.height, part.width) if isinstance(part, Image) else (1, part.features)
        corner = (at, 0) if len(shape) == 3 and op.axis == 1 else (0, at)
        lowering.append(CopyOp(node.name, part, out, channels, rows, columns, target_start=corner))
        at += rows if len(shape) == 3 and op.axis == 1 else columns
    return out


RULES: Mapping[type, Rule] = {
    ir.Flatten: _flatten,
    ir.Slice: _slice,
    ir.Pad: _pad,
    ir.Concat: _concat,
}
