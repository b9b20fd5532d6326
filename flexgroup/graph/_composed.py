"""Operators that are put together from others: logarithms of sums, gated linear units, windows over channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._elementwise import RULES as ELEMENTWISE
from flexgroup.graph._elementwise import subtract
from flexgroup.graph._factors import size_of
from flexgroup.graph._norms import curved
from flexgroup.graph._pointwise import pointwise
from flexgroup.graph._value import BATCH_MOVES
from flexgroup.graph._views import axes_of, cut, has_batch, reshape
from flexgroup.graph._windows import largest_of, sum_of


def _log_softmax(call: Call) -> Value:
    """``x - m - log(sum(exp(x - m)))`` with m = max(x), which nothing overflows in."""
    centred, _, logarithm = _log_sum(call, [int(call["dim"])])
    return _by(call, subtract, call.result, self=centred, other=logarithm, alpha=1)


def _log_sum_exp(call: Call) -> Value:
    dim = call["dim"]
    _, largest, logarithm = _log_sum(call, [dim] if isinstance(dim, int) else list(dim))
    shape = tuple(map(size_of, axes_of(call, largest)))
    return reshape(call, _by(call, ELEMENTWISE["aten.add"], shape, self=largest, other=logarithm), call.result)


def _log_sum(call: Call, dim: list[int]) -> tuple[Value, Value, Value]:
    """``x - m``, m, and ``log(sum(exp(x - m)))`` with m = max(x); the axes ``dim`` are kept, with one index."""
    value = call.viewed("self")
    shape = tuple(map(size_of, axes_of(call, value)))
    chosen = [axis % len(shape) for axis in dim]
    ones = tuple(1 if axis in chosen else size for axis, size in enumerate(shape))
    kept = {"dim": chosen, "keepdim": True}
    largest = largest_of(call.given({"self": value, **kept}, ones))
    centred = _by(call, subtract, shape, self=value, other=largest, alpha=1)
    total = sum_of(call.given({"self": curved(call, centred, "exp"), **kept}, ones))
    return centred, largest, curved(call, total, "log")


def _by(call: Call, rule: Rule, result: tuple[int, ...], **arguments: object) -> Value:
    """What a rule for every number alike makes of these arguments."""
    return pointwise(call.given(arguments, result), rule)


def _glu(call: Call) -> Value:
    """``a * sigmoid(b)`` of the two halves along ``dim`` (Dauphin et al., arXiv 1612.08083)."""
    value = call.viewed("self")
    axes = axes_of(call, value)
    dim = int(call["dim"]) % len(axes)
    if has_batch(axes[dim]):
        raise Unsupported(BATCH_MOVES)
    half = size_of(axes[dim]) // 2
    first, second = cut(call, value, dim, 0, half), cut(call, value, dim, half, 2 * half)
    return _by(call, ELEMENTWISE["aten.mul"], call.result, self=first, other=curved(call, second, "sigmoid"))


def _channel_windows(call: Call) -> Value:
    """The mean over as many neighbouring channels: torch makes it of local response norm (``avg_pool3d``)."""
    window, *others = (int(size) for size in call["kernel_size"])
    value = call.viewed("self")
    batch, *images, channels, height, width = (size_of(axis) for axis in axes_of(call, value))
    moved = any(call[name] for name in ("ceil_mode", "divisor_override")) or any(call["padding"])
    strides = [int(step) for step in call["stride"] or call["kernel_size"]]
    if set(others) != {1} or set(strides) != {1} or moved or images != [1]:
        raise Unsupported("3-d pools are compiled along the channels alone, as local response norm has them")
    image = call.settled(reshape(call, value, (batch, channels, height, width)))
    return reshape(call, window_means(call, image, window, channels - window + 1), call.result)


def window_means(call: Call, image: Value, window: int, count: int, before: int = 0) -> Value:
    """``count`` means over ``window`` channels each, from ``before`` the first channel on; what lies beyond is zero."""
    first = np.arange(count)[:, None] - before
    inside = (np.arange(image.shape[0]) >= first) & (np.arange(image.shape[0]) < first + window)
    weight = (inside / np.float32(window)).astype(np.float32)[:, :, None, None]
    return call.emit(ir.Conv2d(weight, np.zeros(count, np.float32)), image, kind="mean")


RULES: Mapping[str, Rule] = {
    "aten.log_softmax": _log_softmax,
    "aten._log_softmax": _log_softmax,
    "aten.logsumexp": _log_sum_exp,
    "aten.glu": _glu,
    "aten.avg_pool3d": _channel_windows,
}
