"""From the graph to operations on planes: views instead of copies, phases instead of strides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from flexgroup._errors import FlexgroupError
from flexgroup.engine import _lower_gates, _lower_layers, _lower_moves, _lower_resize, _lower_tokens
from flexgroup.engine._arrange import to_image, to_vector
from flexgroup.engine._geometry import Footprint
from flexgroup.engine._layout import ZERO, External, Image, Layout, PlaneRef, Vector
from flexgroup.engine._operations import (
    CopyOp,
    Operation,
    Tap,
    buffers_of,
)
from flexgroup.engine._order import early_copies
from flexgroup.engine._values import Crop, Value
from flexgroup.engine._view import View
from flexgroup.graph import ir

Rule: TypeAlias = Callable[["Lowering", ir.Node, Any], Value]


NOTHING = Tap(PlaneRef(ZERO, 0), 0, 0)


RULES: Mapping[type, Rule] = {
    **_lower_layers.RULES,
    **_lower_gates.RULES,
    **_lower_resize.RULES,
    **_lower_moves.RULES,
    **_lower_tokens.RULES,
}


class Lowering:
    """Walks a graph once, in order; afterwards `operations` and `layout` describe the network."""

    def __init__(self, graph: ir.Graph, layout: Layout, *, has_depthwise: bool = True) -> None:
        self.graph = graph
        self.layout = layout
        self.has_depthwise = has_depthwise  # whether the target has kernels of their own for depthwise convolutions
        self.operations: list[Operation] = []
        self.values: dict[str, Value] = {
            name: External(port, graph.shapes[name]) for port, name in enumerate(graph.inputs)
        }
        self._producers = graph.producers()
        self._phases: dict[tuple[str, int, int], dict[tuple[int, int], Image]] = {}
        self._wanted_phases = _wanted_phases(graph)
        self.added = _lower_layers.added_convolutions(graph)

    def run(self) -> None:
        """Lower every node and copy the results to the caller's arrays."""
        parts = {node.output for node in self.added.values()}
        for node in self.graph.nodes:
            if node.output in parts:
                continue
            self.values[node.output] = RULES[type(node.op)](self, node, node.op)
        for port, name in enumerate(self.graph.outputs):
            shape = self.graph.shapes[name]
            target = External(port, shape, output=True)
            if _lower_tokens.output(self, name, target):
                continue
            rows, columns = (shape[1], shape[2]) if len(shape) == 3 else (1, shape[0])
            source = self.dense_or_planes(name) if len(shape) == 3 else self.vector(name)
            self.append(CopyOp("output", source, target, shape[0] if len(shape) == 3 else 1, rows, columns))
        self.operations = early_copies(self.operations)
        self.layout.set_lives([buffers_of(operation) for operation in self.operations])

    def is_nonnegative(self, name: str) -> bool:
        """Whether no number of the value can be below zero (it may be NaN)."""
        node = self._producers.get(name)
        if node is None:
            return False
        if isinstance(node.op, ir.MaxPool2d | ir.AvgPool2d | ir.Concat | ir.Slice | ir.Flatten):
            return all(self.is_nonnegative(each) for each in node.inputs)
        clamp = node.op if isinstance(node.op, ir.Clamp) else getattr(node.op, "clamp", ir.IDENTITY)
        return clamp.low >= 0 and not getattr(node.op, "curve", "")

    def append(self, operation: Operation) -> None:
        self.operations.append(operation)

    def image(self, name: str) -> Image:
        """The value as planes in the arena; an input is copied there when its planes are first needed."""
        value = self.values[name]
        if isinstance(value, External):
            channels, height, width = value.shape
            image = self.layout.new_image(channels, height, width)
            self.append(CopyOp("input", value, image, channels, height, width))
            self.values[name] = value = image
        if isinstance(value, Crop):
            self.values[name] = value = self._cropped(name, value)
        if isinstance(value, View):
            self.values[name] = value = to_image(self, name, value)
        if isinstance(value, Vector):
            raise FlexgroupError(f"value {name!r} is a vector where an image is needed")
        return value

    def _cropped(self, name: str, crop: Crop) -> Image:
        """A crop that is a phase which some convolution reads anyway is a view of it; any other is copied."""
        if crop.start in self._wanted_phases.get((crop.source, *crop.step), ()):
            phase = self.phase_images(crop.source, crop.step)[crop.start]
            if (phase.height, phase.width) == (crop.height, crop.width):
                return phase
        source = self.dense_or_planes(crop.source)
        channels = self.graph.shapes[name][0]
        out = self.layout.new_image(channels, crop.height, crop.width)
        self.append(CopyOp(name, source, out, channels, crop.height, crop.width, (crop.start,), crop.step))
        return out

    def dense_or_planes(self, name: str) -> Image | External:
        """What a copy can read: the caller's array as it is, or planes."""
        value = self.values[name]
        return value if isinstance(value, External) else self.image(name)

    def vector(self, name: str) -> Vector:
        value = self.values[name]
        if isinstance(value, External) and len(value.shape) == 1:
            vector = self.layout.new_vector(value.shape[0])
            self.append(CopyOp("input", value, vector, 1, 1, value.shape[0]))
            self.values[name] = value = vector
        if isinstance(value, View):
            self.values[name] = value = to_vector(self, name, value)
        if not isinstance(value, Vector):
            raise FlexgroupError(f"value {name!r} is an image where a vector is needed; flatten it first")
        return value

    def either(self, name: str) -> Image | Vector:
        return self.image(name) if len(self.graph.shapes[name]) == 3 else self.vector(name)

    def phase_images(self, name: str, stride: tuple[int, int]) -> dict[tuple[int, int], Image]:
        """The value split into ``stride`` phases: phase (a, b) holds pixels (a + stride * row, b + stride * column)."""
        if stride == (1, 1):
            return {(0, 0): self.image(name)}
        key = (name, *stride)
        if key not in self._phases:
            source = self.dense_or_planes(name)
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
                self.append(CopyOp(f"{name}/phases", source, target, channels, *size, tuple(starts), stride))
            self._phases[key] = images
        return self._phases[key]

    def window(
        self, name: str, out: Image, kernel: ir.Pair, stride: ir.Pair, dilation: ir.Pair, padding: Sequence[int]
    ) -> tuple[list[list[Tap]], tuple[Image, ...]]:
        """For every channel the taps of a sliding window; notes how far they reach."""
        phases = self.phase_images(name, stride)
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

    def new_output(self, node: ir.Node) -> Image:
        channels, height, width = self.graph.shapes[node.output]
        return self.layout.new_image(channels, height, width)


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
