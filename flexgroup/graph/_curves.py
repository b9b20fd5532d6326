"""Activation functions that are no clamps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value


def _curve(kind: str) -> Rule:
    return lambda call: call.emit(ir.Curve(kind), call.activation("self"))


def _gelu(call: Call) -> Value:
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    return call.emit(ir.Curve(kinds[call.get("approximate", "none")]), call.activation("self"))


def _hard_sigmoid(call: Call) -> Value:
    """A scale, a shift and a clamp, which the layer before it can take in."""
    value = call.activation("self")
    scale = np.full(value.shape[0], 1 / 6, np.float32)
    op = ir.Affine(scale, np.full_like(scale, 0.5), ir.Clamp(0.0, 1.0))
    return call.emit(op, value)


def _leaky_relu(call: Call) -> Value:
    return call.emit(ir.Curve(ir.leaky_relu(float(call["negative_slope"]))), call.activation("self"))


def _absolute(call: Call) -> Value:
    return call.emit(ir.Curve(ir.leaky_relu(-1.0)), call.activation("self"))


def _prelu(call: Call) -> Value:
    """One slope is a leaky relu; one a channel scales what is negative, and adds what is positive."""
    value, slopes = call.activation("self"), call.constant("weight")
    if slopes.numel() == 1:
        return call.emit(ir.Curve(ir.leaky_relu(float(slopes))), value)
    if slopes.numel() != value.shape[0]:
        raise Unsupported(f"its {slopes.numel()} slopes are not one for each of {value.shape[0]} channels")
    slope = call.array("weight", slopes.reshape(-1))
    positive, negative = (call.emit(ir.Clamp(*ends), value) for ends in ((0.0, ir.INF), (-ir.INF, 0.0)))
    return call.emit(ir.Add(), positive, call.emit(ir.Affine(slope, np.zeros_like(slope)), negative))


def _power(call: Call) -> Value:
    exponent = call.get("exponent", 2)
    if isinstance(exponent, Value) or not isinstance(call["self"], Value):
        raise Unsupported("powers by an activation are not compiled")
    if isinstance(exponent, torch.Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    if exponent not in (1, 2, 3):
        raise Unsupported(f"its exponent is {exponent}; only squares and cubes are compiled")
    value = result = call.activation("self")
    for _ in range(int(exponent) - 1):
        result = call.emit(ir.Mul(), result, value)
    return result


RULES: Mapping[str, Rule] = {
    "aten.sigmoid": _curve("sigmoid"),
    "aten.silu": _curve("silu"),
    "aten.hardswish": _curve("hard_swish"),
    "aten.tanh": _curve("tanh"),
    "aten.mish": _curve("mish"),
    "aten.gelu": _gelu,
    "aten.hardsigmoid": _hard_sigmoid,
    "aten.leaky_relu": _leaky_relu,
    "aten.abs": _absolute,
    "aten.prelu": _prelu,
    "aten._prelu_kernel": _prelu,
    "aten.pow": _power,
    "aten.square": _power,
}
