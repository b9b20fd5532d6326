"""Every kernel once more, slowly and readably, in numpy: what the generated code has to agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flexgroup.engine import Plan, Step
from flexgroup.kernels import (
    ChannelsKernel,
    ConvKernel,
    CopyKernel,
    DepthwiseKernel,
    Element,
    FillKernel,
    HaloKernel,
    LinearKernel,
    MeanKernel,
    PoolKernel,
    TransformKernel,
)
from flexgroup.kernels.emit import BASE_SHIFT
from tests.engine import twins_gates, twins_tokens
from tests.engine.twins_curves import activated, number


class Memory:
    """The regions a plan refers to, and typed views into them.

    Numbers are stored as ``element`` says, masks are integers of the same size. Sums are taken in 32 bits.
    """

    def __init__(self, regions: list[np.ndarray], element: Element) -> None:
        self.regions = regions
        self.size = element.bytes
        self.number, self.integer = np.dtype(f"f{element.bytes}"), np.dtype(f"i{element.bytes}")

    def view(self, reference: int, dtype=None, count: int | None = None) -> np.ndarray:
        """``count`` entries, numbers unless ``dtype`` is given, from a reference on (or to the end of the region)."""
        dtype = self.number if dtype is None else dtype
        region, offset = self.regions[reference >> BASE_SHIFT], reference & ((1 << BASE_SHIFT) - 1)
        size = np.dtype(dtype).itemsize
        stop = len(region) - (len(region) - offset) % size if count is None else offset + count * size
        return region[offset:stop].view(dtype)

    def read(self, reference: int, count: int | None = None) -> np.ndarray:
        """``count`` numbers from a reference on, to compute with."""
        return self.view(reference, None, count).astype(np.float32)

    def base(self, reference: int, element: Element | None = None) -> tuple[np.ndarray, int]:
        """The numbers of a region, and the index of the one that a reference is to: offsets count from there."""
        size = self.size if element is None else element.bytes
        region, offset = self.regions[reference >> BASE_SHIFT], reference & ((1 << BASE_SHIFT) - 1)
        return region[: len(region) - len(region) % 4].view(f"f{size}"), offset // size

    def moved(self, kernel: Any) -> tuple[Element, Element]:
        """The elements that a kernel which only moves numbers reads and writes."""
        return kernel.element, kernel.written or kernel.element


def run_plan(
    plan: Plan, *inputs: np.ndarray, times: int = 1, before: Callable[[Step, Memory], None] | None = None
) -> list[np.ndarray]:
    """Run ``plan`` on one image (inputs without batch), ``times`` times in the same memory.

    ``before`` is called before every step.
    """
    outputs = [np.full(port.shape, np.nan, np.float32) for port in plan.outputs]
    arena = np.zeros(plan.arena_bytes, np.uint8)
    arena[plan.clear_bytes :] = 0xFF  # NaNs
    regions = [plan.constants, arena]
    regions += [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in inputs]
    regions += [array.reshape(-1).view(np.uint8) for array in outputs]
    memory = Memory(regions, plan.element)
    twins = {
        ChannelsKernel: channels,
        ConvKernel: conv,
        DepthwiseKernel: depthwise,
        FillKernel: fill,
        CopyKernel: copy,
        HaloKernel: halo,
        LinearKernel: linear,
        MeanKernel: mean,
        PoolKernel: pool,
        TransformKernel: transform,
        **twins_gates.TWINS,
        **twins_tokens.TWINS,
    }
    lanes = plan.target.lanes(plan.element)
    for step in plan.steps * times:
        if before is not None:
            before(step, memory)
        for part in step.parts:
            if part is not None:
                fields = dict(zip(step.kernel.signature.fields, part, strict=True))
                twins[type(step.kernel)](step.kernel, fields, memory, lanes)
    return outputs


def tile_at(kernel: ConvKernel, f: dict[str, int], tile: int, lanes: int) -> tuple[int, int]:
    """Where a tile is due, and its numbers: those after the whole tiles are shorter."""
    tails = max(0, tile - f["whole_tiles"]) if kernel.tail else 0
    is_tail = kernel.tail and tile >= f["whole_tiles"]
    due = (tile - tails) * kernel.tile + tails * kernel.tail
    stacked = lanes // kernel.stacked if is_tail and kernel.stacked else 0
    return due * lanes, (kernel.tail if is_tail else kernel.tile) * lanes + stacked


def conv(kernel: ConvKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    rows = kernel.rows
    (source, first_in), (target, first_out) = memory.base(f["source"]), memory.base(f["target"])
    residual, first_residual = memory.base(f["residual"])
    size, bias = memory.size, memory.read(f["bias"])
    ends, offsets = memory.view(f["ends"], np.int32), memory.view(f["offsets"], np.int32)
    outputs, residuals = memory.view(f["outputs"], np.int32), memory.view(f["residuals"], np.int32)
    weights, mask = memory.read(f["weights"]), memory.view(f["mask"], memory.integer)
    loops = f["row_count"] if kernel.form == "ring" else f["row_count"] // rows
    for tile in range(f["first_tile"], f["last_tile"]):
        # Rows are adjacent positions too, with the border between them, which the mask makes zero.
        due, width = tile_at(kernel, f, tile, kernel.held * kernel.pitch // size or lanes)
        start = min(due, f["last_start"] // size)
        sums = np.zeros((f["row_count"] + rows, width), np.float32)
        inputs, first_tap = source, first_in + start
        if kernel.panel:
            inputs, first_tap = memory.base(f["panel"])
            for number, segment in enumerate(memory.view(f["segments"], np.int32)[: f["segment_count"]]):
                copied = source[first_in + start + segment // size :][: width + kernel.span]
                inputs[first_tap + number * kernel.panel * lanes :][: len(copied)] = copied
        group = 0
        for loop in range(loops):
            first_row = loop if kernel.form == "ring" else loop * rows
            beyond = first_row - first_row % f["sweep"] + f["sweep"]  # what groups have below a sweep does not count
            end = group + f["columns"] if kernel.form == "dense" else ends[loop]
            for g in range(group, end):
                tap = first_tap + offsets[g - group if kernel.form == "dense" else g] // size
                x = inputs[tap : tap + width].astype(np.float32)
                count = min(rows, beyond - first_row)
                sums[first_row : first_row + count] += weights[g * rows : g * rows + count, None] * x
            group = end
        for row in range(f["row_count"]):
            value = sums[row] + bias[row]
            if kernel.residual:
                value = value + residual[first_residual + residuals[row] // size + start :][:width]
            value = activated(kernel, f, value)
            out = first_out + outputs[row] // size + start
            value = np.where(mask[start : start + width], value, 0) if kernel.border else value
            done = due - start if kernel.in_place else 0
            target[out + done : out + width] = value[done:]


def transform(kernel: TransformKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    """Plane by plane, and in it vector by vector: the last one may overlap the one before."""
    (source, first_in), (target, first_out) = memory.base(f["source"]), memory.base(f["target"])
    size, read = memory.size, kernel.matrix.shape[1]
    apart_in, apart_out = f["read"] // size, f["written"] // size
    inputs, outputs = memory.view(f["inputs"], np.int32) // size, memory.view(f["outputs"], np.int32) // size
    for plane in range(f["planes"]):
        for vector in range(f["vectors"]):
            due = vector * lanes
            start = min(due, f["last_start"] // size)
            rows = [first_in + inputs[plane] + start + row * apart_in for row in range(read)]
            values = kernel.matrix.astype(np.float32) @ np.stack([source[row : row + lanes] for row in rows])
            for i, value in enumerate(values):
                out = first_out + outputs[plane] + start + i * apart_out
                done = 0
                if kernel.form == "output":
                    value = value + memory.read(f["bias"])[plane]
                    if kernel.residual:
                        residual, first = memory.base(f["residual"])
                        first += memory.view(f["residuals"], np.int32)[plane] // size + start + i * apart_out
                        value = value + residual[first : first + lanes]
                    mask = memory.view(f["mask"], memory.integer)[start : start + lanes]
                    value = np.where(mask, activated(kernel, f, value), 0)
                    done = due - start if kernel.in_place else 0
                target[out + done : out + lanes] = value[done:]


def channels(kernel: ChannelsKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    """Strip by strip, and in it tile by tile; zeros follow the last tile of a row."""
    rows, tile, size = kernel.vectors * lanes, kernel.tile, memory.size
    (source, first_in), (target, first_out) = memory.base(f["source"]), memory.base(f["target"])
    residual, first_residual = memory.base(f["residual"])
    offsets = memory.view(f["offsets"], np.int32)[: f["columns"]] // size
    outputs, residuals = memory.view(f["outputs"], np.int32) // size, memory.view(f["residuals"], np.int32) // size
    weights, bias = memory.read(f["weights"]), memory.read(f["bias"])
    for strip in range(f["row_count"] // rows):
        matrix = weights[strip * rows * f["columns"] :][: rows * f["columns"]].reshape(f["columns"], rows)
        for index in range(f["first_tile"], f["last_tile"]):
            row, across = divmod(index, f["row_tiles"])
            start = row * f["image_row"] // size + across * tile
            x = np.stack([source[first_in + start + offset :][:tile] for offset in offsets]).astype(np.float32)
            sums = matrix.astype(np.float32).T @ x
            for i in range(rows):
                plane = strip * rows + i
                value = sums[i] + bias[plane]
                if kernel.residual:
                    value = value + residual[first_residual + residuals[plane] + start :][:tile]
                out = first_out + outputs[plane] + start
                target[out : out + tile] = activated(kernel, f, value)
                if across == f["row_tiles"] - 1:
                    target[out + tile : out + tile + kernel.gap] = 0


def depthwise(kernel: DepthwiseKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    """All forms, one number after another."""
    (source, first_in), (target, first_out) = memory.base(f["source"]), memory.base(f["target"])
    bytes_ = memory.size
    inputs, outputs = memory.view(f["inputs"], np.int32) // bytes_, memory.view(f["outputs"], np.int32) // bytes_
    weights, bias, mask = memory.read(f["weights"]), memory.read(f["bias"]), memory.view(f["mask"], memory.integer)
    size, block_size = kernel.height * kernel.width, lanes * kernel.tile
    last_start = f["last_start"] // bytes_
    blocks = [(min(block * block_size, last_start), block_size) for block in range(f["starts"])]
    blocks += [(last_start, lanes)] * kernel.tail
    rows = 1 if kernel.form == "linear" else f["rows"]
    for plane in range(f["first"], f["last"]):
        window = weights[plane * size :][:size].reshape(kernel.height, kernel.width)
        for start, width in blocks:
            for row in range(rows):
                total = np.full(width, bias[plane], np.float32)
                for y in range(kernel.height):
                    for x in range(kernel.width):
                        at = first_in + inputs[plane] + start * kernel.stride[1] + x * kernel.dilation
                        at += (row * kernel.stride[0] + y * kernel.dilation) * f["source_row"] // bytes_
                        value = source[at : at + width * kernel.stride[1] : kernel.stride[1]].astype(np.float32)
                        total = np.maximum(total, value) if kernel.reduce == "max" else total + window[y, x] * value
                value = activated(kernel, f, total)
                out = first_out + outputs[plane] + row * f["target_row"] // bytes_ + start
                inside = mask[start : start + width] if kernel.border else True
                target[out : out + width] = np.where(inside, value, 0)


def fill(kernel: FillKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    (target, first), targets = memory.base(f["target"]), memory.view(f["targets"], np.int32) // memory.size
    for plane in range(f["first"], f["last"]):
        target[first + targets[plane] :][: f["vectors"] * lanes] = 0


def halo(kernel: HaloKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    (source, first_in), (target, first_out) = memory.base(f["source"]), memory.base(f["target"])
    sources, targets = (memory.view(f[name], np.int32) // memory.size for name in ("sources", "targets"))
    for plane in range(f["first"], f["last"]):
        values = source[first_in + sources[plane] :][: kernel.vectors * lanes]
        target[first_out + targets[plane] :][: kernel.vectors * lanes] = values


def copy(kernel: CopyKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    read_as, written_as = memory.moved(kernel)
    (source, first_in), (target, first_out) = memory.base(f["source"], read_as), memory.base(f["target"], written_as)
    sources, targets = memory.view(f["sources"], np.int32), memory.view(f["targets"], np.int32)
    for plane in range(f["first"], f["last"]):
        for row in range(f["rows"]):
            read = first_in + (sources[plane] + row * f["source_row"]) // read_as.bytes
            for part in range(kernel.parts):
                to = targets[plane * kernel.parts + part] + row * f["target_row"]
                write = first_out + to // written_as.bytes
                for column in range(f["columns"]):
                    target[write + column] = source[read + column * kernel.step + part]
                target[write + f["columns"] : write + f["columns"] + f["gap"]] = 0


def linear(kernel: LinearKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    width, columns = kernel.tile * lanes, f["columns"]
    x, weights = memory.read(f["input"], columns), memory.read(f["weights"])
    for block in range(f["first"], f["last"]):
        matrix = weights[block * columns * width :][: columns * width].reshape(columns, width)
        value = x @ matrix + memory.read(f["bias"])[block * width :][:width]
        value = activated(kernel, f, value)
        memory.view(f["output"])[block * width :][:width] = value


def mean(kernel: MeanKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    arena, planes = memory.view(f["arena"]), memory.view(f["inputs"], np.int32) // memory.size
    inside = memory.view(f["mask"], memory.integer, f["vectors"] * lanes) != 0
    for plane in range(f["first"], f["last"]):
        total = arena[planes[plane] :][: len(inside)][inside].sum(dtype=np.float64)
        memory.view(f["output"])[plane] = total * number(f["scale"])


def pool(kernel: PoolKernel, f: dict[str, int], memory: Memory, lanes: int) -> None:
    (source, first_in), (target, first_out) = memory.base(f["source"]), memory.base(f["target"])
    size = memory.size
    taps, outputs = memory.view(f["taps"], np.int32) // size, memory.view(f["outputs"], np.int32) // size
    mask, inside = memory.view(f["mask"], memory.integer), memory.view(f["inside"], memory.integer)
    for plane in range(f["first"], f["last"]):
        for block in range(f["vectors"]):
            start = min(block * lanes, f["last_start"] // size)
            places = [first_in + taps[plane * f["tap_count"] + t] + start for t in range(f["tap_count"])]
            window = np.stack([source[at : at + lanes].astype(np.float32) for at in places])
            if kernel.form == "max":
                rows = [inside[t * f["inside_tap"] // size + start :][:lanes] for t in range(f["tap_count"])]
                value = np.where(np.stack(rows), window, -np.inf).max(axis=0)
            else:
                value = window.sum(axis=0) * memory.view(f["scale"])[start : start + lanes]
            out = first_out + outputs[plane] + start
            target[out : out + lanes] = np.where(mask[start : start + lanes], value, 0)
