"""Patches of images and copies of axes: what is cut out of a value several times, or put together again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._factors import size_of
from flexgroup.graph._moves import expand, join
from flexgroup.graph._shuffles import to_blocks, to_pixels
from flexgroup.graph._transposed import transposed_conv2d
from flexgroup.graph._value import BATCH_MOVES
from flexgroup.graph._views import axes_of, cut, permute, reshape
from flexgroup.graph._weighted import pair


def _unfold(call: Call) -> Value:
    """Every window of an image as a column: a view where windows lie side by side, else a convolution that picks."""
    image, kernel, stride = call.image("self"), pair(call["kernel_size"]), pair(call["stride"])
    padding, dilation = pair(call["padding"]), pair(call["dilation"])
    channels, *size = image.shape
    count = _places(size, kernel, stride, padding, dilation)
    if kernel == stride and (padding, dilation) == ((0, 0), (1, 1)):
        value = image
        for axis in (0, 1):
            value = cut(call, value, 2 + axis, 0, count[axis] * kernel[axis])
        return to_blocks(call, value, kernel, count, call.result)
    (rows, columns), weight = padding, np.tile(_entries(kernel), (channels, 1, 1, 1))
    op = ir.Conv2d(
        weight, np.zeros(len(weight), np.float32), stride, (rows, rows, columns, columns), dilation, groups=channels
    )
    return reshape(call, call.emit(op, image, kind="unfold"), call.result)


def _fold(call: Call) -> Value:
    """The image whose windows these columns are, summed where windows overlap."""
    value, kernel, stride = call.viewed("self"), pair(call["kernel_size"]), pair(call["stride"])
    if pair(call["dilation"]) != (1, 1):
        raise Unsupported("windows with gaps are not put together again; use dilation=1")
    padding = pair(call["padding"])
    if len(call.result) != 4 or call.result[0] != call.batch:
        raise Unsupported(BATCH_MOVES)
    channels, size = call.result[1], (call.result[2], call.result[3])
    count = _places(size, kernel, stride, padding, (1, 1))
    if kernel == stride and not any(padding) and all(n * k == s for n, k, s in zip(count, kernel, size, strict=True)):
        return to_pixels(call, value, channels, kernel, count)
    weight = np.tile(_entries(kernel), (channels, 1, 1, 1))
    image = call.settled(reshape(call, value, (call.batch, len(weight), *count)))
    zeros = np.zeros(channels, np.float32)
    return transposed_conv2d(call, image, weight, zeros, stride=stride, begin=padding, size=size, groups=channels)


def _places(
    size: tuple[int, ...] | list[int], kernel: ir.Pair, stride: ir.Pair, padding: ir.Pair, dilation: ir.Pair
) -> ir.Pair:
    """How many windows there are below and beside each other."""
    rows, columns = ((size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    return rows, columns


def _entries(kernel: ir.Pair) -> ir.Array:
    """One window for every entry of a window, 1 there and 0 elsewhere: (entries, 1, height, width)."""
    return np.eye(kernel[0] * kernel[1], dtype=np.float32).reshape(-1, 1, *kernel)


def _sliding(call: Call) -> Value:
    """`Tensor.unfold`: windows along one axis, their entries along a new last one."""
    value, size, step = call.viewed("self"), int(call["size"]), int(call["step"])
    dim = int(call["dimension"]) % len(axes_of(call, value))
    count, shape = call.result[dim], call.result
    if size == step:
        apart = reshape(call, cut(call, value, dim, 0, count * size), (*shape[: dim + 1], size, *shape[dim + 1 : -1]))
        return permute(call, apart, [*range(dim + 1), *range(dim + 2, len(shape)), dim + 1])
    entries = [cut(call, value, dim, i, i + (count - 1) * step + 1, step) for i in range(size)]
    last = len(shape) - 1
    return join(call, [reshape(call, entry, (*shape[:-1], 1)) for entry in entries], last)


def _repeat_interleave(call: Call) -> Value:
    """Every index along an axis several times in a row."""
    value, times = call.viewed("self"), int(call["repeats"])
    if call["dim"] is None:
        raise Unsupported("it repeats the flattened value, the batch included; name the axis: dim=1")
    if not times:
        raise Unsupported("its result is empty")
    dim = int(call["dim"]) % len(call.result)
    shape = (*call.result[:dim], call.result[dim] // times, *call.result[dim + 1 :])
    return _repeated(call, reshape(call, value, shape), dim, times, before=False)


def _repeat(call: Call) -> Value:
    """Whole axes several times after one another."""
    value, given = call.viewed("self"), call["repeats" if "repeats" in call.arguments else "dims"]
    repeats = [int(count) for count in given]
    if 0 in call.result:
        raise Unsupported("its result is empty")
    repeats = [1] * (len(call.result) - len(repeats)) + repeats
    value = reshape(call, value, tuple(size // times for size, times in zip(call.result, repeats, strict=True)))
    for dim, times in enumerate(repeats):
        if times > 1:
            value = _repeated(call, value, dim, times, before=True)
    return value


def _repeated(call: Call, value: Value, dim: int, times: int, *, before: bool) -> Value:
    """``value`` with copies of axis ``dim`` one after another, or, where not ``before`` it, of each of its indices."""
    shape = tuple(map(size_of, axes_of(call, value)))
    at = dim if before else dim + 1
    single, wide = ((*shape[:at], count, *shape[at:]) for count in (1, times))
    copies = expand(call.given({"self": reshape(call, value, single)}, wide))
    return reshape(call, copies, (*shape[:dim], shape[dim] * times, *shape[dim + 1 :]))


RULES: Mapping[str, Rule] = {
    "aten.im2col": _unfold,
    "aten.col2im": _fold,
    "aten.unfold": _sliding,
    "aten.repeat": _repeat,
    "aten.tile": _repeat,
    "aten.repeat_interleave": _repeat_interleave,
}
