"""From the graph to operations on planes: views instead of copies, phases instead of strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from flexgroup._errors import FlexgroupError
from flexgroup.engine._layout import ZERO, External, Footprint, Image, Layout, PlaneRef, Vector
from flexgroup.engine._operations import (
    ConvOp,
    CopyOp,
    ElementwiseOp,
    LinearOp,
    MeanOp,
    Operation,
    PoolOp,
    Tap,
    buffers_of,
)
from flexgroup.graph import ir


@dataclass(frozen=True)
class Crop:
    """Every ``step``-th pixel of the value ``source`` from ``start`` on, not yet copied anywhere."""

    source: str
    start: tuple[int, int]
    step: tuple[int, int]
    height: int
    width: int


Value: TypeAlias = Image | Vector | External | Crop


NOTHING = Tap(PlaneRef(ZERO, 0), 0, 0)


class Lowering:
    """Walks a graph once, in order; afterwards `operations` and `layout` describe the network."""

    def __init__(self, graph: ir.Graph, layout: Layout) -> None:
        self.graph = graph
        self.layout = layout
        self.operations: list[Operation] = []
        self._values: dict[str, Value] = {
            name: External(port, graph.shapes[name]) for port, name in enumerate(graph.inputs)
        }
        self._phases: dict[tuple[str, int, int], dict[tuple[int, int], Image]] = {}
        self._wanted_phases = _wanted_phases(graph)

    def run(self) -> None:
        """Lower every node and copy the results to the caller's arrays."""
        rules: dict[type, Callable[[ir.Node, Any], Value]] = {
            ir.Conv2d: self._conv,
            ir.Linear: self._linear,
            ir.Affine: self._affine,
            ir.Add: self._add,
            ir.Clamp: self._clamp,
            ir.MaxPool2d: self._pool,
            ir.AvgPool2d: self._pool,
            ir.GlobalMean: self._mean,
            ir.Flatten: self._flatten,
            ir.Slice: self._slice,
            ir.Pad: self._pad,
            ir.Concat: self._concat,
        }
        for node in self.graph.nodes:
            self._values[node.output] = rules[type(node.op)](node, node.op)
        for port, name in enumerate(self.graph.outputs):
            shape = self.graph.shapes[name]
            target = External(port, shape, output=True)
            rows, columns = (shape[1], shape[2]) if len(shape) == 3 else (1, shape[0])
            source = self._dense_or_planes(name) if len(shape) == 3 else self._vector(name)
            self._append(CopyOp("output", source, target, shape[0] if len(shape) == 3 else 1, rows, columns))
        for step, operation in enumerate(self.operations):
            self.layout.use(step, buffers_of(operation))

    def _append(self, operation: Operation) -> None:
        self.operations.append(operation)

    def _image(self, name: str) -> Image:
        """The value as planes in the arena; an input is copied there when its planes are first needed."""
        value = self._values[name]
        if isinstance(value, External):
            channels, height, width = value.shape
            image = self.layout.new_image(channels, height, width)
            self._append(CopyOp("input", value, image, channels, height, width))
            self._values[name] = value = image
        if isinstance(value, Crop):
            self._values[name] = value = self._cropped(name, value)
        if isinstance(value, Vector):
            raise FlexgroupError(f"value {name!r} is a vector where an image is needed")
        return value

    def _cropped(self, name: str, crop: Crop) -> Image:
        """A crop that is a phase which some convolution reads anyway is a view of it; any other is copied."""
        if crop.start in self._wanted_phases.get((crop.source, *crop.step), ()):
            phase = self._phase_images(crop.source, crop.step)[crop.start]
            if (phase.height, phase.width) == (crop.height, crop.width):
                return phase
        source = self._dense_or_planes(crop.source)
        channels = self.graph.shapes[name][0]
        out = self.layout.new_image(channels, crop.height, crop.width)
        self._append(CopyOp(name, source, out, channels, crop.height, crop.width, (crop.start,), crop.step))
        return out

    def _dense_or_planes(self, name: str) -> Image | External:
        """What a copy can read: the caller's array as it is, or planes."""
        value = self._values[name]
        return value if isinstance(value, External) else self._image(name)

    def _vector(self, name: str) -> Vector:
        value = self._values[name]
        if isinstance(value, External) and len(value.shape) == 1:
            vector = self.layout.new_vector(value.shape[0])
            self._append(CopyOp("input", value, vector, 1, 1, value.shape[0]))
            self._values[name] = value = vector
        if not isinstance(value, Vector):
            raise FlexgroupError(f"value {name!r} is an image where a vector is needed; flatten it first")
        return value

    def _either(self, name: str) -> Image | Vector:
        return self._image(name) if len(self.graph.shapes[name]) == 3 else self._vector(name)

    def _phase_images(self, name: str, stride: tuple[int, int]) -> dict[tuple[int, int], Image]:
        """The value split into ``stride`` phases: phase (a, b) holds pixels (a + stride * row, b + stride * column)."""
        if stride == (1, 1):
            return {(0, 0): self._image(name)}
        key = (name, *stride)
        if key not in self._phases:
            source = self._dense_or_planes(name)
            channels, height, width = self.graph.shapes[name]
            rows, columns = -(-height // stride[0]), -(-width // stride[1])
            phases = sorted(self._wanted_phases[key])
            sizes = [(-(-(height - a) // stride[0]), -(-(width - b) // stride[1])) for a, b in phases]
            # All phases live in one buffer, so they share a component and a life.
            footprint = Footprint(tuple((0, 0, *size) for size in sizes), run=channels)
            whole = self.layout.new_image(channels * len(phases), rows, columns, footprint)
            images = {}
            by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
            for i, ((a, b), size) in enumerate(zip(phases, sizes, strict=True)):
                images[a, b] = Image(whole.planes[i * channels : (i + 1) * channels], *size)
                by_size.setdefault(size, []).append((a, b))
            for size, starts in by_size.items():
                target = Image(tuple(plane for start in starts for plane in images[start].planes), *size)
                self._append(CopyOp(f"{name}/phases", source, target, channels, *size, tuple(starts), stride))
            self._phases[key] = images
        return self._phases[key]

    def _window(
        self, name: str, out: Image, kernel: ir.Pair, stride: ir.Pair, dilation: ir.Pair, padding: Sequence[int]
    ) -> tuple[list[list[Tap]], tuple[Image, ...]]:
        """For every channel the taps of a sliding window; notes how far they reach."""
        phases = self._phase_images(name, stride)
        channels = self.graph.shapes[name][0]
        taps: list[list[Tap]] = [[] for _ in range(channels)]
        reads: dict[tuple[int, int], Image] = {}
        for ky in range(kernel[0]):
            row, a = divmod(ky * dilation[0] - padding[0], stride[0])
            for kx in range(kernel[1]):
                column, b = divmod(kx * dilation[1] - padding[2], stride[1])
                image = phases.get((a, b))
                if image is None:  # a phase with no pixels: the image is smaller than the stride
                    for channel in range(channels):
                        taps[channel].append(NOTHING)
                    continue
                self.layout.reach(image, out, (row, row), (column, column))
                reads[a, b] = image
                for channel, plane in enumerate(image.planes):
                    # Zero is zero wherever it is read, and the plane of zeros has no margins of this reader's.
                    taps[channel].append(Tap(plane, row, column) if plane.buffer != ZERO else NOTHING)
        self.layout.tie(out, *reads.values())
        return taps, tuple(reads.values())

    def _new_output(self, node: ir.Node) -> Image:
        channels, height, width = self.graph.shapes[node.output]
        return self.layout.new_image(channels, height, width)

    def _conv(self, node: ir.Node, op: ir.Conv2d) -> Value:
        kernel = (op.weight.shape[2], op.weight.shape[3])
        residual = self._image(node.inputs[1]) if len(node.inputs) > 1 else None
        out = self._new_output(node)
        taps, reads = self._window(node.inputs[0], out, kernel, op.stride, op.dilation, op.padding)
        if residual is not None:
            self.layout.tie(out, residual)
            reads = (*reads, residual)
        rows, columns = op.weight.shape[0] // op.groups, op.weight.shape[1]
        matrices = op.weight.reshape(op.groups, rows, -1)
        group_taps = tuple(
            tuple(tap for channel in taps[g * columns : (g + 1) * columns] for tap in channel) for g in range(op.groups)
        )
        self._append(ConvOp(node.name, tuple(matrices), group_taps, op.bias, op.clamp, reads, out, residual))
        return out

    def _linear(self, node: ir.Node, op: ir.Linear) -> Value:
        x = self._vector(node.inputs[0])
        out = self.layout.new_vector(op.weight.shape[0])
        self._append(LinearOp(node.name, op.weight, op.bias, op.clamp, x, out))
        return out

    def _elementwise(self, node: ir.Node, **numbers: Any) -> Value:
        operands = [self._either(name) for name in node.inputs]
        a, b = operands[0], operands[1] if len(operands) > 1 else None
        out: Image | Vector
        if isinstance(a, Vector):
            out = self.layout.new_vector(a.features)
        else:
            out = self._new_output(node)
            self.layout.tie(out, a, *([b] if isinstance(b, Image) else []))
        self._append(ElementwiseOp(node.name, a, b, out=out, **numbers))
        return out

    def _affine(self, node: ir.Node, op: ir.Affine) -> Value:
        return self._elementwise(node, scale=op.scale, shift=op.shift, clamp=op.clamp)

    def _add(self, node: ir.Node, op: ir.Add) -> Value:
        return self._elementwise(node, scale=None, shift=None, clamp=op.clamp)

    def _clamp(self, node: ir.Node, op: ir.Clamp) -> Value:
        channels = self.graph.shapes[node.output][0]
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        return self._elementwise(node, scale=ones, shift=zeros, clamp=op)

    def _pool(self, node: ir.Node, op: ir.MaxPool2d | ir.AvgPool2d) -> Value:
        dilation = op.dilation if isinstance(op, ir.MaxPool2d) else (1, 1)
        out = self._new_output(node)
        taps, reads = self._window(node.inputs[0], out, op.kernel, op.stride, dilation, op.padding)
        _, height, width = self.graph.shapes[node.inputs[0]]
        rows, in_rows, padded_rows = _covered(
            op.kernel[0], op.stride[0], dilation[0], op.padding[:2], height, out.height
        )
        cols, in_cols, padded_cols = _covered(op.kernel[1], op.stride[1], dilation[1], op.padding[2:], width, out.width)
        inside = (rows[:, None, :, None] & cols[None, :, None, :]).reshape(-1, out.height, out.width)
        if isinstance(op, ir.AvgPool2d) and op.count_include_pad:
            in_rows, in_cols = padded_rows, padded_cols
        counts = (in_rows[:, None] * in_cols[None, :]).astype(np.float32)
        form = "max" if isinstance(op, ir.MaxPool2d) else "mean"
        self._append(PoolOp(node.name, form, tuple(map(tuple, taps)), inside, counts, reads, out))
        return out

    def _mean(self, node: ir.Node, op: ir.GlobalMean) -> Value:
        image = self._image(node.inputs[0])
        out = self.layout.new_vector(len(image.planes))
        self._append(MeanOp(node.name, image, out))
        return out

    def _flatten(self, node: ir.Node, op: ir.Flatten) -> Value:
        if len(self.graph.shapes[node.inputs[0]]) == 1:
            return self._values[node.inputs[0]]
        image = self._image(node.inputs[0])
        channels = len(image.planes)
        out = self.layout.new_vector(channels * image.height * image.width)
        self._append(CopyOp(node.name, image, out, channels, image.height, image.width))
        return out

    def _slice(self, node: ir.Node, op: ir.Slice) -> Value:
        name = node.inputs[0]
        shape = self.graph.shapes[name]
        if len(shape) == 1:
            vector = self._vector(name)
            cut = self.layout.new_vector(self.graph.shapes[node.output][0])
            self._append(CopyOp(node.name, vector, cut, 1, 1, cut.features, ((0, op.start),), (1, op.step)))
            return cut
        if op.axis == 0:
            image = self._image(name)
            return Image(image.planes[op.start : op.stop : op.step], image.height, image.width)
        _, height, width = self.graph.shapes[node.output]
        start = (op.start, 0) if op.axis == 1 else (0, op.start)
        step = (op.step, 1) if op.axis == 1 else (1, op.step)
        before = self._values[name]
        if isinstance(before, Crop):
            start = (before.start[0] + start[0] * before.step[0], before.start[1] + start[1] * before.step[1])
            step = (before.step[0] * step[0], before.step[1] * step[1])
            name = before.source
        return Crop(name, start, step, height, width)

    def _pad(self, node: ir.Node, op: ir.Pad) -> Value:
        image = self._image(node.inputs[0])
        (before, after), (top, bottom), (left, right) = op.amounts
        if top or bottom or left or right:
            channels, height, width = len(image.planes), image.height + top + bottom, image.width + left + right
            footprint = Footprint(((top, left, image.height, image.width),))
            padded = self.layout.new_image(channels, height, width, footprint)
            self._append(
                CopyOp(node.name, image, padded, channels, image.height, image.width, target_start=(top, left))
            )
            image = padded
        zeros = PlaneRef(ZERO, 0)
        return Image((zeros,) * before + image.planes + (zeros,) * after, image.height, image.width)

    def _concat(self, node: ir.Node, op: ir.Concat) -> Value:
        shape = self.graph.shapes[node.output]
        if len(shape) == 3 and op.axis == 0:
            images = [self._image(name) for name in node.inputs]
            self.layout.tie(*images)
            return Image(tuple(plane for image in images for plane in image.planes), shape[1], shape[2])
        parts = [self._either(name) for name in node.inputs]
        out: Image | Vector = self.layout.new_vector(shape[0]) if len(shape) == 1 else self._new_output(node)
        at = 0
        for part in parts:
            channels = shape[0] if isinstance(part, Image) else 1
            rows, columns = (part.height, part.width) if isinstance(part, Image) else (1, part.features)
            corner = (at, 0) if len(shape) == 3 and op.axis == 1 else (0, at)
            self._append(CopyOp(node.name, part, out, channels, rows, columns, target_start=corner))
            at += rows if len(shape) == 3 and op.axis == 1 else columns
        return out


def _wanted_phases(graph: ir.Graph) -> dict[tuple[str, int, int], set[tuple[int, int]]]:
    """Which phases of which values the graph's strided windows read."""
    wanted: dict[tuple[str, int, int], set[tuple[int, int]]] = {}
    for node in graph.nodes:
        op = node.op
        if isinstance(op, ir.Conv2d):
            kernel, dilation = (op.weight.shape[2], op.weight.shape[3]), op.dilation
        elif isinstance(op, ir.MaxPool2d | ir.AvgPool2d):
            kernel, dilation = op.kernel, op.dilation if isinstance(op, ir.MaxPool2d) else (1, 1)
        else:
            continue
        phases = wanted.setdefault((node.inputs[0], *op.stride), set())
        _, height, width = graph.shapes[node.inputs[0]]
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                a = (ky * dilation[0] - op.padding[0]) % op.stride[0]
                b = (kx * dilation[1] - op.padding[2]) % op.stride[1]
                if a < height and b < width:
                    phases.add((a, b))
    return wanted


def _covered(
    kernel: int, stride: int, dilation: int, padding: Sequence[int], size: int, out: int
) -> tuple[Any, Any, Any]:
    """Along one axis: (kernel, out) whether a tap is a pixel; taps that are pixels; taps within image and padding."""
    at = np.arange(out)[None, :] * stride + np.arange(kernel)[:, None] * dilation - padding[0]
    pixels = (at >= 0) & (at < size)
    return pixels, pixels.sum(axis=0), (at < size + padding[1]).sum(axis=0)
