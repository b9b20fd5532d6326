"""ONNX operators that only move numbers: reshapes, permutations, slices, padding, concatenation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from flexgroup.graph._call import Unsupported
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Operand, Results

aten = torch.ops.aten


def _view(call: OnnxCall, shape: Sequence[int]) -> Operand:
    value = call.value(0)
    return value if tuple(shape) == call.shape(value) else call.apply(aten.view.default, value, list(shape))


def _reshape(call: OnnxCall) -> Results:
    before = call.shape(call.value(0))
    wanted = [int(size) for size in call.constant(1, "shape").reshape(-1)]
    if not call.attribute("allowzero", 0):
        wanted = [before[i] if size == 0 and i < len(before) else size for i, size in enumerate(wanted)]
    return _view(call, _without_blank(wanted, math.prod(before)))


def _without_blank(shape: list[int], count: int) -> list[int]:
    """``shape`` with its -1, if there is one, replaced by what makes ``count`` numbers."""
    known = math.prod(size for size in shape if size != -1)
    full = [count // known if size == -1 and known else size for size in shape]
    if math.prod(full) != count:
        raise Unsupported(f"it cannot make {tuple(shape)} of {count} numbers; check the shape of the input")
    return full


def _flatten(call: OnnxCall) -> Results:
    shape = call.shape(call.value(0))
    axis = int(call.attribute("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return _view(call, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _squeeze(call: OnnxCall) -> Results:
    shape = call.shape(call.value(0))
    axes = call.numbers("axes", 1)
    dropped = [i for i, size in enumerate(shape) if size == 1] if axes is None else [x % len(shape) for x in axes]
    return _view(call, [size for i, size in enumerate(shape) if i not in dropped])


def _unsqueeze(call: OnnxCall) -> Results:
    shape = list(call.shape(call.value(0)))
    axes = call.numbers("axes", 1) or []
    count = len(shape) + len(axes)
    for axis in sorted(axis % count for axis in axes):
        shape.insert(axis, 1)
    return _view(call, shape)


def _transpose(call: OnnxCall) -> Results:
    axes = range(len(call.shape(call.value(0))))
    order = [int(axis) for axis in call.attribute("perm", axes[::-1])]
    return call.apply(aten.permute.default, call.value(0), order)


def _slice(call: OnnxCall) -> Results:
    value: Operand = call.value(0)
    starts, ends = call.numbers("starts", 1), call.numbers("ends", 2)
    if starts is None or ends is None:
        raise Unsupported("its starts or ends are missing")
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    if min(steps) < 1:
        raise Unsupported("it goes backwards; only steps of at least 1 are compiled")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        value = call.apply(aten.slice.Tensor, value, axis, start, end, step)
    return value


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(call: OnnxCall) -> Results:
    value = call.value(0)
    mode = _PAD_MODES[call.attribute("mode", "constant")]
    pads = call.numbers("pads", 1) or []
    axes = call.numbers("axes", 3)
    count = len(call.shape(value))
    amounts = dict.fromkeys(range(count), (0, 0))
    half = len(pads) // 2
    named = range(half) if axes is None else [axis % count for axis in axes]
    amounts.update({axis: (pads[i], pads[half + i]) for i, axis in enumerate(named)})
    if any(amounts[0]):
        raise Unsupported("it pads the first axis, which is the batch")
    # torch counts from the last axis.
    flat = [amount for axis in reversed(range(1, count)) for amount in amounts[axis]]
    if mode == "constant":
        return call.apply(aten.constant_pad_nd.default, value, flat, call.number("value", 2, 0.0))
    while flat and not any(flat[-2:]):
        flat = flat[:-2]
    least = flat + [0] * (2 * count - 4 - len(flat))  # torch's modes want all axes behind the channels
    return call.apply(aten.pad.default, value, least, mode) if flat else value


def _concat(call: OnnxCall) -> Results:
    return call.apply(aten.cat.default, [call[i] for i in range(len(call.inputs))], int(call.attribute("axis")))


def _split(call: OnnxCall) -> Results:
    value = call.value(0)
    axis = int(call.attribute("axis", 0))
    size = call.shape(value)[axis]
    sizes = call.numbers("split", 1)
    if sizes is None:
        count = int(call.attribute("num_outputs", len(call.step.outputs)))
        each = -(-size // count)
        sizes = [min(each, size - start) for start in range(0, size, each)]
    return call.apply_parts(aten.split_with_sizes.default, value, sizes, axis)


def _expand(call: OnnxCall) -> Results:
    value = call.value(0)
    wanted = [int(size) for size in call.constant(1, "shape").reshape(-1)]
    shape = np.broadcast_shapes(call.shape(value), tuple(wanted))
    return call.apply(aten.expand.default, value, list(shape))


def _tile(call: OnnxCall) -> Results:
    repeats = [int(x) for x in call.constant(1, "repeats").reshape(-1)]
    return call.apply(aten.repeat.default, call.value(0), repeats)


def _gather(call: OnnxCall) -> Results:
    """One index of an axis, or indices at equal distances, which are a slice."""
    value, indices = call.value(0), call.constant(1, "indices")
    axis = int(call.attribute("axis", 0))
    size = call.shape(value)[axis]
    if indices.ndim == 0:
        return call.apply(aten.select.int, value, axis, int(indices) % size)
    numbers = [int(index) % size for index in indices.reshape(-1)]
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    even = step > 0 and numbers == list(range(numbers[0], numbers[-1] + 1, step))
    if indices.ndim != 1 or not even:
        raise Unsupported("it gathers indices that are not at equal distances; use slices and concatenation")
    return call.apply(aten.slice.Tensor, value, axis, numbers[0], numbers[-1] + 1, step)


def _depth_to_space(call: OnnxCall) -> Results:
    batch, channels, height, width = _image_shape(call)
    n = int(call.attribute("blocksize"))
    if channels % (n * n):
        raise Unsupported(f"its {channels} channels do not divide into blocks of {n}x{n}")
    left = channels // (n * n)
    by_column = call.attribute("mode", "DCR") == "DCR"
    inner = [batch, n, n, left, height, width] if by_column else [batch, left, n, n, height, width]
    order = [0, 3, 4, 1, 5, 2] if by_column else [0, 1, 4, 2, 5, 3]
    return _rearranged(call, inner, order, [batch, left, height * n, width * n])


def _space_to_depth(call: OnnxCall) -> Results:
    batch, channels, height, width = _image_shape(call)
    n = int(call.attribute("blocksize"))
    if height % n or width % n:
        raise Unsupported(f"its image of {height}x{width} does not divide into blocks of {n}x{n}")
    rows, columns = height // n, width // n
    inner = [batch, channels, rows, n, columns, n]
    return _rearranged(call, inner, [0, 3, 5, 1, 2, 4], [batch, channels * n * n, rows, columns])


def _image_shape(call: OnnxCall) -> tuple[int, ...]:
    shape = call.shape(call.value(0))
    if len(shape) != 4:
        raise Unsupported("it reads other than images (batch, channels, height, width)")
    return shape


def _rearranged(call: OnnxCall, inner: list[int], order: list[int], outer: list[int]) -> Operand:
    apart = call.apply(aten.view.default, call.value(0), inner)
    return call.apply(aten.view.default, call.apply(aten.permute.default, apart, order), outer)


MOVES: Mapping[str, OnnxRule] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _concat,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
