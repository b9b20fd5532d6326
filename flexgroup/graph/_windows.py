"""Pools and means: operators that look at windows of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Result, Rule, Unsupported, Value
from flexgroup.graph._elementwise import affine, maximum, minimum
from flexgroup.graph._factors import Axes, size_of
from flexgroup.graph._pointwise import pointwise
from flexgroup.graph._resize import separable
from flexgroup.graph._sequences import of_one_row
from flexgroup.graph._value import BATCH_MOVES
from flexgroup.graph._views import axes_of, has_batch, permute, plain_axes, reshape, settle, viewed
from flexgroup.graph._weighted import pair

Border: TypeAlias = tuple[int, int, int, int]  # top, bottom, left, right

LONGEST_WINDOW = 64  # of the largest of many: longer ones are pooled in parts, because all entries are written out


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
    divisor, counts_border = call.get("divisor_override"), bool(call["count_include_pad"])
    if divisor is not None:
        # Zeros in the border add nothing, so a mean over all of the window is the sum divided by its area.
        mean = call.emit(ir.AvgPool2d(kernel, stride, padding), value, kind="avg_pool2d")
        scale = np.full(value.shape[0], kernel[0] * kernel[1] / divisor, np.float32)
        return call.emit(ir.Affine(scale, np.zeros_like(scale)), mean, kind="divisor")
    top, bottom, left, right = padding
    more = bottom - top, right - left
    return average(call, value, kernel, stride, (top, top, left, left), more, counted=counts_border)


def average(
    call: Call, image: Value, kernel: ir.Pair, stride: ir.Pair, border: Border, more: ir.Pair, *, counted: bool
) -> Value:
    """An average pool whose border may be ``counted``; what ceil_mode adds below and beside, ``more``, never is."""
    top, bottom, left, right = border
    if counted and any(border) and any(more):
        # One of them counts, the other does not: make the border part of the image.
        image = call.emit(ir.Pad(((0, 0), (top, bottom), (left, right))), image, kind="pad")
        top = bottom = left = right = 0
    op = ir.AvgPool2d(kernel, stride, (top, bottom + more[0], left, right + more[1]), counted and not any(more))
    return call.emit(op, image, kind="avg_pool2d")


def _padding(call: Call, value: Value, extent: ir.Pair, stride: ir.Pair) -> Border:
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
    size = call.result[2:]
    if value.shape[1] % size[0] or value.shape[2] % size[1]:
        return separable(call, value, lambda x, size, _: torch.nn.functional.adaptive_avg_pool2d(x, size), "avg_pool2d")
    kernel = (value.shape[1] // size[0], value.shape[2] // size[1])
    return call.emit(ir.AvgPool2d(kernel, kernel), value, kind="avg_pool2d")


def _adaptive_max_pool2d(call: Call) -> Value:
    value = call.image("self")
    (height, width), (rows, columns) = value.shape[1:], call.result[2:]
    if height % rows or width % columns:
        raise Unsupported(
            f"its output {rows}x{columns} does not divide its input {height}x{width}, so windows differ in "
            f"size; use another output or image size"
        )
    kernel = (height // rows, width // columns)
    return call.emit(ir.MaxPool2d(kernel, kernel), value, kind="max_pool2d")


def _chosen(call: Call, axes: Axes) -> set[int]:
    """The axes ``dim``, one or several, or all; the batch must not be among them."""
    dim = call.get("dim")
    chosen = {axis % len(axes) for axis in ([dim] if isinstance(dim, int) else dim or range(len(axes)))}
    if any(has_batch(axes[axis]) for axis in chosen) or (call.batch == 1 and 0 in chosen):
        raise Unsupported(BATCH_MOVES)
    return chosen


def mean_of(call: Call) -> Value:
    """The mean over the axes ``dim``, or all, of ``self``."""
    value = call.viewed("self")
    axes = axes_of(call, value)
    reduced = _chosen(call, axes)
    image = call.stored(value)
    kept = tuple(axis for i, axis in enumerate(axes) if i not in reduced)
    # Height and width may have been flattened into one axis before.
    plain = plain_axes(call.batch, image)
    if len(image) == 3 and axes == plain and reduced == {1}:
        # A mean over channels is a convolution.
        weight = np.full((1, image[0], 1, 1), 1 / image[0], np.float32)
        average = call.emit(ir.Conv2d(weight, np.zeros(1, np.float32)), Value(value.name, image), kind="mean")
        return reshape(call, average, call.result)
    if len(image) != 3 or kept != plain[:2]:
        return _reduced(call, value, reduced)
    whole_image = Value(value.name, image)
    if not call["keepdim"]:
        return call.emit(ir.GlobalMean(), whole_image, kind="mean")
    pooled = call.emit(ir.AvgPool2d((image[1], image[2]), (image[1], image[2])), whole_image, kind="mean")
    return Value(pooled.name, call.result[1:])


def sum_of(call: Call) -> Value:
    """As many times the mean as numbers are summed."""
    axes = axes_of(call, call.viewed("self"))
    size = _sizes(axes, _chosen(call, axes))
    mean = mean_of(call)
    total = affine(call, Value(mean.name, call.stored(mean)), size, 0.0, kind="sum")
    return Value(total.name, mean.shape, mean.axes)


def largest_of(call: Call) -> Value:
    """The largest number of every channel, along rows and then along columns; or along any axes."""
    value = call.viewed("self")
    axes = axes_of(call, value)
    reduced = _chosen(call, axes)
    if len(axes) != 4 or reduced != {2, 3} or axes != plain_axes(call.batch, call.stored(value)):
        return _reduced(call, value, reduced, largest=True)
    image = call.image("self")
    _, height, width = image.shape
    rows = call.emit(ir.MaxPool2d((1, width), (1, width)), image, kind="amax")
    largest = call.emit(ir.MaxPool2d((height, 1), (height, 1)), rows, kind="amax")
    return reshape(call, largest, call.result)


def _larger(call: Call) -> Result:
    """The larger of two; or the largest along an axis, torch's first result: who reads where it is, is told so."""
    if "other" in call.arguments:
        return pointwise(call, maximum)
    return (largest_of(call),)


def _smaller(call: Call) -> Value:
    if "other" not in call.arguments:
        raise Unsupported("the smallest number along an axis is not compiled; write it as -(-x).amax(...)")
    return pointwise(call, minimum)


def _on_sequences(rule: Rule) -> Rule:
    return lambda call: of_one_row(call, rule, "self")


def _reduced(call: Call, value: Value, reduced: set[int], *, largest: bool = False) -> Value:
    """The mean, or the largest, over any axes: over an image whose channels are all the others."""
    axes = axes_of(call, value)
    kept = [axis for axis in range(len(axes)) if axis not in reduced]
    size = _sizes(axes, reduced)
    apart = permute(call, value, [*kept, *sorted(reduced)])
    sizes = [size_of(axes[axis]) for axis in kept]
    settled = settle(call, reshape(call, apart, (*sizes, size)))
    stored, around = call.stored(settled), axes_of(call, settled)[:-1]
    image = Value(settled.name, stored)
    if len(stored) != 3 or stored[1] != 1:
        image = call.emit(ir.Reshape((math.prod(stored[:-1]), 1, size)), image, kind="reshape")
    if largest:
        while size > LONGEST_WINDOW and (part := _divisor(size)) > 1:
            image, size = call.emit(ir.MaxPool2d((1, part), (1, part)), image, kind="amax"), size // part
        pool = call.emit(ir.MaxPool2d((1, size), (1, size)), image, kind="amax")
        result = call.emit(ir.Reshape(stored[:-1] or (1,)), pool, kind="reshape")
    else:
        result = call.emit(ir.GlobalMean(), image, kind="mean")
        if len(stored) > 2:
            result = call.emit(ir.Reshape(stored[:-1]), result, kind="reshape")
    return reshape(call, viewed(call, result, around), call.result)


def _divisor(size: int) -> int:
    """The largest divisor of ``size`` that a window may be long; 1 if there is none."""
    return next(part for part in range(LONGEST_WINDOW, 0, -1) if size % part == 0)


def _sizes(axes: Axes, chosen: set[int]) -> int:
    return math.prod(size_of(axes[axis]) for axis in chosen)


RULES: Mapping[str, Rule] = {
    "aten.max_pool2d": _max_pool2d,
    "aten.max_pool2d_with_indices": _max_pool2d,
    "aten.avg_pool2d": _avg_pool2d,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten._adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten.adaptive_max_pool2d": _adaptive_max_pool2d,
    "aten.max_pool1d": _on_sequences(_max_pool2d),
    "aten.avg_pool1d": _on_sequences(_avg_pool2d),
    "aten.adaptive_avg_pool1d": _on_sequences(_adaptive_avg_pool2d),
    "aten.adaptive_max_pool1d": _on_sequences(_adaptive_max_pool2d),
    "aten.mean": mean_of,
    "aten.sum": sum_of,
    "aten.amax": largest_of,
    "aten.max": _larger,
    "aten.min": _smaller,
}
