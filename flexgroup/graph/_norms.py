"""Norms by what the network sees: group and instance norm, deviations, lengths of vectors.

They are made of means, products and curves, so that every engine has them; batch norm, whose statistics are fixed, is
an `Affine`, and layer norm an operator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._elementwise import affine, reciprocal, subtract
from flexgroup.graph._factors import size_of
from flexgroup.graph._pointwise import pointwise
from flexgroup.graph._sequences import as_image
from flexgroup.graph._tokens import affine_parts
from flexgroup.graph._views import axes_of, reshape, settle, viewed
from flexgroup.graph._windows import mean_of, sum_of


def _group_norm(call: Call) -> Value:
    """Wu and He, arXiv 1803.08494, equations 1, 2 and 7."""
    return _normalised(call, int(call["num_groups"] if "num_groups" in call.arguments else call["group"]))


def _instance_norm(call: Call) -> Value:
    """A group norm whose groups are single channels (Ulyanov et al., arXiv 1607.08022)."""
    if call["use_input_stats"] is False:
        raise Unsupported("its statistics are fixed: use nn.BatchNorm2d, which is the same")
    return _normalised(call, call.result[1])


def _normalised(call: Call, groups: int) -> Value:
    value = call.activation("input")
    channels = value.shape[0]
    if channels % groups:
        raise Unsupported(f"its {groups} groups do not divide {channels} channels")
    image = call.settled(as_image(call, value))
    means = call.emit(ir.GlobalMean(), image, kind="mean")
    centred = call.emit(ir.Add(), image, _spread(call, _of_groups(call, means, groups, -1.0, 0.0)))
    squares = call.emit(ir.Mul(), centred, centred)
    variances = _of_groups(call, call.emit(ir.GlobalMean(), squares, kind="mean"), groups, 1.0, float(call["eps"]))
    rates = reciprocal(call, call.emit(ir.Curve("sqrt"), variances))
    weight, bias = affine_parts(call, channels)
    scales = call.emit(ir.Affine(weight, np.zeros_like(weight)), rates)
    scaled = call.emit(ir.Mul(), centred, _spread(call, scales))
    result = call.emit(ir.Affine(np.ones_like(bias), bias), scaled)
    return reshape(call, result, call.result)


def _of_groups(call: Call, numbers: Value, groups: int, factor: float, shift: float) -> Value:
    """``factor * m + shift``, where m is the mean of the channel's group: a vector of as many channels."""
    (channels,) = numbers.shape
    shifts = np.full(channels, shift, np.float32)
    if groups == channels:
        return call.emit(ir.Affine(np.full(channels, factor, np.float32), shifts), numbers)
    members = np.kron(np.eye(groups, dtype=np.float32), np.ones(channels // groups, np.float32))
    means = ir.Linear(members * np.float32(groups / channels), np.zeros(groups, np.float32))
    back = ir.Linear(np.ascontiguousarray(members.T) * np.float32(factor), shifts)
    return call.emit(back, call.emit(means, numbers, kind="mean"), kind="mean")


def _spread(call: Call, numbers: Value) -> Value:
    """A vector as an image of one pixel."""
    return call.emit(ir.Reshape((*numbers.shape, 1, 1)), numbers, kind="reshape")


def _variance(call: Call) -> Value:
    return _moments(call)[0]


def _deviation(call: Call) -> Value:
    return curved(call, _variance(call), "sqrt")


def _moments(call: Call) -> tuple[Value, Value]:
    """The variance and the mean, over the same axes."""
    value = call.viewed("self")
    shape = tuple(map(size_of, axes_of(call, value)))
    reduced = {axis % len(shape) for axis in call.get("dim") or range(len(shape))}
    ones = tuple(1 if axis in reduced else size for axis, size in enumerate(shape))
    middle = mean_of(call.given({"self": value, "dim": sorted(reduced), "keepdim": True}, ones))
    apart = pointwise(call.given({"self": value, "other": middle, "alpha": 1}, shape), subtract)
    count = math.prod(shape[axis] for axis in reduced)
    correction = call.get("correction", call.get("unbiased", 1))
    left = count - (1.0 if correction is None else float(correction))
    if left <= 0:
        raise Unsupported(f"it is the variance of {count} numbers with a correction of {correction}")
    given = {"self": _squared(call, apart), "dim": sorted(reduced), "keepdim": bool(call.get("keepdim"))}
    variance = mean_of(call.given(given, call.result))
    scaled = affine(call, Value(variance.name, call.stored(variance)), count / left, 0.0, kind="variance")
    return Value(scaled.name, variance.shape, variance.axes), reshape(call, middle, call.result)


def _vector_norm(call: Call) -> Value:
    """The length of vectors along the axes ``dim``, by the sum of magnitudes or of squares."""
    value = call.viewed("self")
    order = call.get("ord", call.get("p"))
    if order not in (None, 1, 2):
        raise Unsupported(f"it is a norm of order {order}; only those of order 1 and 2 are compiled")
    powers = curved(call, value, ir.leaky_relu(-1.0)) if order == 1 else _squared(call, value)
    given = {"self": powers, "dim": call.get("dim"), "keepdim": bool(call.get("keepdim"))}
    total = sum_of(call.given(given, call.result))
    return total if order == 1 else curved(call, total, "sqrt")


def _squared(call: Call, value: Value) -> Value:
    value = settle(call, value)
    stored = Value(value.name, call.stored(value))
    return viewed(call, call.emit(ir.Mul(), stored, stored), axes_of(call, value))


def curved(call: Call, value: Value, curve: str) -> Value:
    stored = Value(value.name, call.stored(value))
    return viewed(call, call.emit(ir.Curve(curve), stored), axes_of(call, value))


RULES: Mapping[str, Rule] = {
    "aten.group_norm": _group_norm,
    "aten.native_group_norm": _group_norm,
    "aten.instance_norm": _instance_norm,
    "aten.var": _variance,
    "aten.std": _deviation,
    "aten.var_mean": _moments,
    "aten.linalg_vector_norm": _vector_norm,
    "aten.norm": _vector_norm,
}
