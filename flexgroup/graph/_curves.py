"""Activation functions that are no clamps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._elementwise import affine, reciprocal

MOST_FACTORS = 8  # of a power
LEAST_THRESHOLD = 15  # of softplus: log(1 + exp(15)) is 15 to 2e-8


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
    if isinstance(exponent, torch.Tensor):
        raise Unsupported("its exponents are several; use one number")
    value = result = call.activation("self")
    if exponent < 0:
        return reciprocal(call, _power(call.given({**call.arguments, "exponent": -exponent}, call.result)))
    if exponent == 0.5:
        return call.emit(ir.Curve("sqrt"), value)
    if exponent != int(exponent):
        logarithms = affine(call, call.emit(ir.Curve("log"), value), float(exponent), 0.0)
        return call.emit(ir.Curve("exp"), logarithms)
    if not 1 <= exponent <= MOST_FACTORS:
        raise Unsupported(
            f"its exponent is {exponent}; of whole ones 1 to {MOST_FACTORS} and their negatives are compiled"
        )
    for _ in range(int(exponent) - 1):
        result = call.emit(ir.Mul(), result, value)
    return result


def _inverse_root(call: Call) -> Value:
    return reciprocal(call, call.emit(ir.Curve("sqrt"), call.activation("self")))


def _logarithm(base: float) -> Rule:
    def rule(call: Call) -> Value:
        return affine(call, call.emit(ir.Curve("log"), call.activation("self")), 1 / math.log(base), 0.0)

    return rule


def _log1p(call: Call) -> Value:
    return call.emit(ir.Curve("log"), affine(call, call.activation("self"), 1.0, 1.0))


def _softplus(call: Call) -> Value:
    """``log(1 + exp(beta x)) / beta``; beyond a threshold, where torch returns x, the two round to the same."""
    beta, threshold = float(call.get("beta", 1)), float(call.get("threshold", 20))
    if threshold < LEAST_THRESHOLD:
        raise Unsupported(f"its threshold is {threshold:g}; from {LEAST_THRESHOLD} on softplus is compiled")
    value = call.activation("self")
    if beta == 1:
        return call.emit(ir.Curve("softplus"), value)
    return affine(call, call.emit(ir.Curve("softplus"), affine(call, value, beta, 0.0)), 1 / beta, 0.0)


def _log_sigmoid(call: Call) -> Value:
    """``-softplus(-x)``."""
    return affine(call, call.emit(ir.Curve("softplus"), affine(call, call.activation("self"), -1.0, 0.0)), -1.0, 0.0)


def _elu(call: Call) -> Value:
    """``scale * x`` above zero, ``scale * alpha * (exp(input_scale * x) - 1)`` below."""
    alpha, scale, inner = (float(call.get(name, 1)) for name in ("alpha", "scale", "input_scale"))
    return _exponential(call, above=scale, below=scale * alpha, inner=inner)


def _celu(call: Call) -> Value:
    alpha = float(call["alpha"])
    return _exponential(call, above=1.0, below=alpha, inner=1 / alpha)


def _selu(call: Call) -> Value:
    return _exponential(call, above=_SELU_SCALE, below=_SELU_SCALE * _SELU_ALPHA, inner=1.0)


# Klambauer et al., arXiv 1706.02515, equation 14
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _exponential(call: Call, *, above: float, below: float, inner: float) -> Value:
    value = call.activation("self")
    positive, negative = (call.emit(ir.Clamp(*ends), value) for ends in ((0.0, ir.INF), (-ir.INF, 0.0)))
    powers = call.emit(ir.Curve("exp"), affine(call, negative, inner, 0.0))
    return call.emit(ir.Add(), affine(call, positive, above, 0.0), affine(call, powers, below, -below))


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
    "aten.exp": _curve("exp"),
    "aten.log": _curve("log"),
    "aten.log2": _logarithm(2.0),
    "aten.log10": _logarithm(10.0),
    "aten.log1p": _log1p,
    "aten.softplus": _softplus,
    "aten.log_sigmoid": _log_sigmoid,
    "aten.sqrt": _curve("sqrt"),
    "aten.reciprocal": _curve("reciprocal"),
    "aten.erf": _curve("erf"),
    "aten.rsqrt": _inverse_root,
    "aten.elu": _elu,
    "aten.celu": _celu,
    "aten.selu": _selu,
}
