"""Pools and means: operators that look at windows of an image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._weighted import pair


def _max_pool2d(call: Call) -> Value:
    value = call.image("self")
    kernel, dilation = pair(call["kernel_size"]), pair(call["dilation"])
    stride = pair(call["stride"] or kernel)
    extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    op = ir.MaxPool2d(kernel, stride, _padding(call, value, extent, stride), dilation)
    return call.emit(op, value, kind="max_pool2d")


def _avg_pool2d(call: Call) -> Value:
    value = call.image("self")
    kernel = pair(call["kernel_size"])
    stride = pair(call["stride"] or kernel)
    padding = _padding(call, value, kernel, stride)
    divisor, counts_border = call["divisor_override"], bool(call["count_include_pad"])
    if divisor is not None:
        # Zeros in the border add nothing, so a mean over all of the window is the sum divided by its area.
        mean = call.emit(ir.AvgPool2d(kernel, stride, padding), value, kind="avg_pool2d")
        scale = np.full(value.shape[0], kernel[0] * kernel[1] / divisor, np.float32)
        return call.emit(ir.Affine(scale, np.zeros_like(scale)), mean, kind="divisor")
    top, bottom, left, right = padding
    grown = (top, left) != (bottom, right)
    if grown and counts_border and (top or left):
        raise Unsupported("ceil_mode with padding counts some of the border only; use count_include_pad=False")
    # torch never counts what ceil_mode adds.
    return call.emit(ir.AvgPool2d(kernel, stride, padding, counts_border and not grown), value, kind="avg_pool2d")


def _padding(call: Call, value: Value, extent: ir.Pair, stride: ir.Pair) -> tuple[int, int, int, int]:
    """(top, bottom, left, right), with as much more at the end as ceil_mode needs for torch's last window.

    torch has dropped a last window that would start in the border: its output's size says how many there are.
    """
    top, left = pair(call["padding"])
    more = [
        max(0, (count - 1) * step + window - size - 2 * before)
        for count, step, window, size, before in zip(
            call.result[2:], stride, extent, value.shape[1:], (top, left), strict=True
        )
    ]
    return top, top + more[0], left, left + more[1]


def _adaptive_avg_pool2d(call: Call) -> Value:
    value = call.image("self")
    kernel = _dividing(call, value)
    return call.emit(ir.AvgPool2d(kernel, kernel), value, kind="avg_pool2d")


def _adaptive_max_pool2d(call: Call) -> Value:
    value = call.image("self")
    kernel = _dividing(call, value)
    return call.emit(ir.MaxPool2d(kernel, kernel), value, kind="max_pool2d")


def _dividing(call: Call, value: Value) -> ir.Pair:
    (height, width), (rows, columns) = value.shape[1:], call.result[2:]
    if height % rows or width % columns:
        raise Unsupported(
            f"its output {rows}x{columns} does not divide its input {height}x{width}, so windows differ in "
            f"size; use another output or image size"
        )
    return height // rows, width // columns


def _mean(call: Call) -> Value:
    value = call.viewed("self")
    image = call.stored(value)
    axes = len(value.shape) + 1
    reduced = {axis % axes for axis in call.get("dim") or range(axes)}
    # Height and width may have been flattened into one axis before.
    over_image = len(image) == 3 and axes > 2 and value.shape[0] == image[0] and reduced == set(range(2, axes))
    if not over_image:
        raise Unsupported("only means over all of height and width are compiled: x.mean((2, 3))")
    whole = Value(value.name, image)
    if not call["keepdim"]:
        return call.emit(ir.GlobalMean(), whole, kind="mean")
    pooled = call.emit(ir.AvgPool2d((image[1], image[2]), (image[1], image[2])), whole, kind="mean")
    return Value(pooled.name, call.result[1:])


RULES: Mapping[str, Rule] = {
    "aten.max_pool2d": _max_pool2d,
    "aten.max_pool2d_with_indices": _max_pool2d,
    "aten.avg_pool2d": _avg_pool2d,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten._adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten.adaptive_max_pool2d": _adaptive_max_pool2d,
    "aten.mean": _mean,
}
