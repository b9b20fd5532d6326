"""Layers with weights: convolution, linear, batch norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._factors import Factor, whole
from flexgroup.graph._sequences import of_one_row
from flexgroup.graph._transposed import transposed_conv2d
from flexgroup.graph._value import BATCH, BATCH_MOVES
from flexgroup.graph._views import axes_of, has_batch, plain_axes, settle, viewed

MOST_COPIED = 1 << 24  # weights of a convolution whose images are folded into the batch, copies included


def pair(numbers: Any) -> ir.Pair:
    """torch's ``[2]``, ``[2, 3]`` or ``2`` as (height, width)."""
    values = [numbers] if isinstance(numbers, int) else list(numbers)
    return int(values[0]), int(values[-1])


def _conv2d(call: Call) -> Value:
    if call.get("transposed"):
        return _conv_transpose2d(call)
    weight = call.constant("weight")
    if weight.ndim == 3:
        return of_one_row(call, _conv2d, "input", {"weight": weight.unsqueeze(2)})
    if weight.ndim != 4:
        raise Unsupported("only 1-d and 2-d convolutions are compiled")
    dilation = pair(call["dilation"])
    op = ir.Conv2d(
        weight=call.array("weight", weight),
        bias=_bias(call, len(weight)),
        stride=pair(call["stride"]),
        padding=_conv_padding(call["padding"], (weight.shape[2], weight.shape[3]), dilation),
        dilation=dilation,
        groups=int(call["groups"]),
    )
    if call.result[0] != call.batch and len(call.result) == 4:
        return _on_each(call, settle(call, call.viewed("input")), op)
    return call.emit(op, call.image("input"), kind="conv2d")


def _on_each(call: Call, value: Value, op: ir.Conv2d) -> Value:
    """``op`` on every one of the images that are folded into the batch: each has channels and weights of its own."""
    axes, stored = axes_of(call, value), call.stored(value)
    if not has_batch(axes[0]) or any(map(has_batch, axes[1:])):
        raise Unsupported(BATCH_MOVES)
    around, (channels, height, width) = stored[:-3], stored[-3:]
    count, filters = math.prod(around), len(op.weight)
    if count * op.weight.size > MOST_COPIED:
        raise Unsupported(
            f"it convolves {count} images of a batch with weights of their own, {op.weight.size} numbers each; "
            f"keep the batch first, and what it is split into apart"
        )
    each = replace(
        op, weight=np.tile(op.weight, (count, 1, 1, 1)), bias=np.tile(op.bias, count), groups=count * op.groups
    )
    image = call.emit(ir.Reshape((count * channels, height, width)), Value(value.name, stored), kind="reshape")
    result = call.emit(each, image, kind="conv2d")
    steps = [filters * math.prod(around[i + 1 :]) for i in range(len(around))]
    apart = (factor if factor.axis == BATCH else Factor(0, factor.size, steps[factor.axis]) for factor in axes[0])
    channel = (Factor(0, filters, 1),) if filters > 1 else ()
    return viewed(call, result, (tuple(apart), channel, *whole(call.stored(result))[1:]))


def _conv_transpose2d(call: Call) -> Value:
    weight = call.constant("weight")
    if weight.ndim == 3:
        return of_one_row(call, _conv_transpose2d, "input", {"weight": weight.unsqueeze(2)})
    if weight.ndim != 4:
        raise Unsupported("only 1-d and 2-d convolutions are compiled")
    image = call.image("input")
    if pair(call["dilation"]) != (1, 1):
        raise Unsupported("dilated transposed convolutions are not compiled; use dilation=1")
    groups = int(call["groups"])
    return transposed_conv2d(
        call,
        image,
        call.array("weight", weight),
        _bias(call, weight.shape[1] * groups),
        stride=pair(call["stride"]),
        begin=pair(call["padding"]),
        size=(call.result[2], call.result[3]),
        groups=groups,
    )


def _bias(call: Call, size: int) -> ir.Array:
    return np.zeros(size, np.float32) if call["bias"] is None else call.array("bias", call.constant("bias"))


def _conv_padding(padding: Any, kernel: ir.Pair, dilation: ir.Pair) -> tuple[int, int, int, int]:
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        # Where the total is odd, torch puts the one more at the bottom and at the right.
        vertical, horizontal = (step * (size - 1) for step, size in zip(dilation, kernel, strict=True))
        return vertical // 2, vertical - vertical // 2, horizontal // 2, horizontal - horizontal // 2
    rows, columns = pair(padding)
    return rows, rows, columns, columns


def _linear(call: Call) -> Value:
    weight = call.constant("weight")
    op = ir.Linear(call.array("weight", weight), _bias(call, len(weight)))
    return on_last_axis(call, call.viewed("input"), op, "linear")


def _addmm(call: Call) -> Value:
    weight = call.constant("mat2").T * call["alpha"]
    bias = (call.constant("self") * call["beta"]).expand(1, len(weight))[0]
    op = ir.Linear(call.array("weight", weight), call.array("bias", bias))
    return on_last_axis(call, call.viewed("mat1"), op, "linear")


def on_last_axis(call: Call, value: Value, op: ir.Linear | ir.LayerNorm, kind: str) -> Value:
    """Emit ``op``, which works along the last axis, wherever the batch may be among the others."""
    value = settle(call, value)
    axes, stored = axes_of(call, value), call.stored(value)
    if has_batch(axes[-1]):
        raise Unsupported("it works along the batch; keep the batch apart and first")
    result = call.emit(op, Value(value.name, stored), kind=kind)
    after = (*axes[:-1], whole(call.stored(result))[-1])
    return result if after == plain_axes(call.batch, call.stored(result)) else viewed(call, result, after)


def _batch_norm(call: Call) -> Value:
    value = call.viewed("input")
    if call.get("training") or call["running_mean"] is None:
        raise Unsupported("it normalises by the batch it sees; use track_running_stats=True and eval mode")
    mean, variance = (_float64(call, name) for name in ("running_mean", "running_var"))
    scale: Any = 1 / np.sqrt(variance + call["eps"])
    if call["weight"] is not None:
        scale = scale * _float64(call, "weight")
    shift = -mean * scale
    if call["bias"] is not None:
        shift = shift + _float64(call, "bias")
    place = _features(call, value)
    if place is None:
        value, place = call.activation("input"), (0, 1)
    axis, count = place
    scale, shift = (np.tile(x, count).astype(np.float32) for x in (scale, shift))
    result = call.emit(ir.Affine(scale, shift, axis=axis), Value(value.name, call.stored(value)), kind="batch_norm")
    return Value(result.name, value.shape, value.axes)


def _features(call: Call, value: Value) -> tuple[int, int] | None:
    """The stored axis, the first or the last, whose indices are torch's axis 1 so many times over; None if none is."""
    axis, stored = axes_of(call, value)[1], call.stored(value)
    if len(axis) != 1 or axis[0].step != 1 or axis[0].axis not in (0, len(stored) - 1):
        return None
    return axis[0].axis, stored[axis[0].axis] // axis[0].size


def _float64(call: Call, name: str) -> Any:
    array = call.array(name, call.constant(name)).astype(np.float64)
    # Numbers that are not finite have been noted by now, and need not spread.
    return np.nan_to_num(array, nan=1.0, posinf=1.0, neginf=1.0)


RULES: Mapping[str, Rule] = {
    "aten.conv2d": _conv2d,
    "aten.convolution": _conv2d,
    "aten.conv_transpose2d": _conv_transpose2d,
    "aten.conv1d": _conv2d,
    "aten.conv_transpose1d": _conv_transpose2d,
    "aten.linear": _linear,
    "aten.addmm": _addmm,
    "aten.batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _batch_norm,
}

BATCH_ANYWHERE = (
    "aten.conv2d",
    "aten.convolution",
    "aten.linear",
    "aten.addmm",
    "aten.batch_norm",
    "aten._native_batch_norm_legit_no_training",
)
"""Layers that work wherever the batch is, as long as it is not in the axis of their features."""
