"""Operators that work on every number alone: clamps, arithmetic, and those that do nothing in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value


def _identity(call: Call) -> Value:
    return call.viewed("input" if "input" in call.arguments else "self")


def _dropout(call: Call) -> Value:
    if call["train"] is not False and call["p"] != 0:
        raise Unsupported("dropout is active in eval mode; pass training=self.training, or use nn.Dropout")
    return call.viewed("input")


def _clamp(low: str | float, high: str | float) -> Rule:
    """A rule that clamps to two bounds, each a number or the name of the argument that holds it."""

    def rule(call: Call) -> Value:
        bounds = [_bound(call, low, -ir.INF), _bound(call, high, ir.INF)]
        return call.emit(ir.Clamp(*bounds), call.activation("self"))

    return rule


def _bound(call: Call, bound: str | float, otherwise: float) -> float:
    number = call[bound] if isinstance(bound, str) else bound
    if isinstance(number, torch.Tensor) and number.numel() == 1:
        number = number.item()
    if not (number is None or isinstance(number, int | float)):
        raise Unsupported("its bounds are tensors; clamp to numbers")
    return otherwise if number is None else float(number)


def _add(call: Call) -> Value:
    return _weighted_sum(call, 1.0, float(call.get("alpha", 1)))


def subtract(call: Call) -> Value:
    """``self - alpha * other``."""
    return _weighted_sum(call, 1.0, -float(call.get("alpha", 1)))


def _rsub(call: Call) -> Value:
    return _weighted_sum(call, -float(call["alpha"]), 1.0)


def maximum(call: Call) -> Value:
    """``other + relu(self - other)``, or a clamp where one of them is a number."""
    bounded = _bounded(call, lambda number: ir.Clamp(number, ir.INF))
    return _beyond(call, "self", "other", 1.0) if bounded is None else bounded


def minimum(call: Call) -> Value:
    """``other - relu(other - self)``, or a clamp where one of them is a number."""
    bounded = _bounded(call, lambda number: ir.Clamp(-ir.INF, number))
    return _beyond(call, "other", "self", -1.0) if bounded is None else bounded


def _bounded(call: Call, clamp: Callable[[float], ir.Clamp]) -> Value | None:
    """The operand that is an activation, clamped to the other; None where that is not one number."""
    for name, bound in (("self", call["other"]), ("other", call["self"])):
        if isinstance(bound, torch.Tensor) and bound.numel() == 1:
            return call.emit(clamp(float(bound)), call.activation(name))
    return None


def _beyond(call: Call, first: str, second: str, sign: float) -> Value:
    """``other`` and, with a sign, as much as argument ``first`` is above ``second``."""
    apart = subtract(call.given({"self": call[first], "other": call[second], "alpha": 1}, call.result))
    above = call.emit(ir.Clamp(0.0, ir.INF), apart)
    return _add(call.given({"self": call["other"], "other": above, "alpha": sign}, call.result))


def _weighted_sum(call: Call, first: float, second: float) -> Value:
    """``first * self + second * other``, either of which may be a constant."""
    a, b = call["self"], call["other"]
    if isinstance(a, Value) and isinstance(b, Value):
        a, b = call.activation("self"), call.activation("other")
        return call.emit(ir.Add(), _scaled(call, a, first), _scaled(call, b, second))
    name, constant, factors = ("self", b, (first, second)) if isinstance(a, Value) else ("other", a, (second, first))
    value = call.activation(name)
    along = _along_axis(constant, value)
    if along is not None:
        axis, numbers = along
        return affine(call, value, factors[0], np.multiply(factors[1], numbers), axis)
    tensor = torch.as_tensor(constant).detach().to("cpu", torch.float64) * factors[1]
    tensor = tensor.reshape((1,) * (len(value.shape) + 1 - tensor.ndim) + tuple(tensor.shape))
    return call.emit(ir.Add(), _scaled(call, value, factors[0]), call.constant_value("constant", tensor, value.shape))


def _scaled(call: Call, value: Value, factor: float) -> Value:
    return value if factor == 1 else affine(call, value, factor, 0.0)


def _mul(call: Call) -> Value:
    a, b = call["self"], call["other"]
    if isinstance(a, Value) and isinstance(b, Value):
        return call.emit(ir.Mul(), call.activation("self"), call.activation("other"))
    name, constant = ("self", b) if isinstance(a, Value) else ("other", a)
    return _scaled_by(call, call.activation(name), torch.as_tensor(constant).detach().to("cpu", torch.float64))


def _scaled_by(call: Call, value: Value, factors: torch.Tensor) -> Value:
    """``value`` times a constant that broadcasts to it."""
    along = _along_axis(factors, value)
    if along is not None:
        axis, numbers = along
        return affine(call, value, numbers, 0.0, axis)
    factors = factors.reshape((1,) * (len(value.shape) + 1 - factors.ndim) + tuple(factors.shape))
    return call.emit(ir.Mul(), value, call.constant_value("constant", factors, value.shape))


def _div(call: Call) -> Value:
    if call.get("rounding_mode") is not None:
        raise Unsupported("rounding divisions are not compiled")
    if isinstance(call["other"], Value):
        return _mul(call.given({**call.arguments, "other": reciprocal(call, call.activation("other"))}, call.result))
    return _scaled_by(call, call.activation("self"), 1 / torch.as_tensor(call["other"]).to("cpu", torch.float64))


def reciprocal(call: Call, value: Value) -> Value:
    """``1 / value``."""
    return call.emit(ir.Curve("reciprocal"), value)


def _addcmul(call: Call) -> Value:
    """``self + value * tensor1 * tensor2``, of which any may be constants, but not all."""
    a, b = call["tensor1"], call["tensor2"]
    both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    product = a * b if both else _mul(call.given({"self": a, "other": b}, call.result))
    return _add(call.given({"self": call["self"], "other": product, "alpha": call["value"]}, call.result))


def _along_axis(constant: Any, value: Value) -> tuple[int, Any] | None:
    """``constant`` as float64 numbers along the first or the last axis of ``value``, and which of them."""
    array = torch.as_tensor(constant).detach().to("cpu", torch.float64).numpy()
    shape = (1,) * (len(value.shape) + 1 - array.ndim) + array.shape
    varying = [axis for axis, size in enumerate(shape[1:]) if size != 1] or [0]
    (axis,) = varying if len(varying) == 1 else (-1,)
    if shape[0] != 1 or axis not in (0, len(value.shape) - 1):
        return None
    return axis, np.broadcast_to(array.reshape(-1), value.shape[axis : axis + 1])


def affine(call: Call, value: Value, scale: Any, shift: Any, axis: int = 0, kind: str = "") -> Value:
    """``scale * value + shift``: numbers, or arrays of one for each index of ``axis``."""
    size = value.shape[axis : axis + 1]
    scales, shifts = (torch.from_numpy(np.broadcast_to(x, size).copy()) for x in (scale, shift))
    op = ir.Affine(call.array("scale", scales), call.array("shift", shifts), axis=axis)
    return call.emit(op, value, kind=kind)


_IDENTITIES = (
    *("alias", "alias_copy", "clone", "contiguous", "detach", "detach_copy", "positive"),
    *("lift", "lift_fresh", "lift_fresh_copy", "_to_copy", "to", "type_as"),
)

RULES: Mapping[str, Rule] = {
    **{f"aten.{name}": _identity for name in _IDENTITIES},
    "aten.dropout": _dropout,
    "aten.feature_dropout": _dropout,
    "aten.native_dropout": _dropout,
    "aten.relu": _clamp(0.0, ir.INF),
    "aten.relu6": _clamp(0.0, 6.0),
    "aten.hardtanh": _clamp("min_val", "max_val"),
    "aten.clamp": _clamp("min", "max"),
    "aten.clip": _clamp("min", "max"),
    "aten.clamp_min": _clamp("min", ir.INF),
    "aten.clamp_max": _clamp(-ir.INF, "max"),
    "aten.add": _add,
    "aten.sub": subtract,
    "aten.subtract": subtract,
    "aten.addcmul": _addcmul,
    "aten.maximum": maximum,
    "aten.minimum": minimum,
    "aten.rsub": _rsub,
    "aten.neg": lambda call: affine(call, call.activation("self"), -1.0, 0.0),
    "aten.negative": lambda call: affine(call, call.activation("self"), -1.0, 0.0),
    "aten.mul": _mul,
    "aten.multiply": _mul,
    "aten.div": _div,
    "aten.divide": _div,
}
