"""ONNX operators that work on every number alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from flexgroup.graph._call import Unsupported, Value
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Operand, Results

aten = torch.ops.aten


def _same(operator: torch._ops.OpOverload) -> OnnxRule:
    """A rule for an operator that torch has too."""
    return lambda call: call.apply(operator, call.value(0))


def _identity(call: OnnxCall) -> Results:
    return call[0]


def _dropout(call: OnnxCall) -> Results:
    training = call.get(2)
    if isinstance(training, Value) or (training is not None and bool(training.any())):
        raise Unsupported("dropout is active; export the model in eval mode")
    return call[0]  # the mask, if somebody reads it, is not known


def _cast(call: OnnxCall) -> Results:
    from onnx import TensorProto

    kind = int(call.attribute("to"))
    if kind != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind).lower()
        raise Unsupported(f"it casts an activation to {name}; keep activations in float32")
    return call.value(0)


def _cast_like(call: OnnxCall) -> Results:
    like = call[1]  # all activations are float32
    if not isinstance(like, Value) and like.dtype != np.float32:
        raise Unsupported(f"it casts an activation to {like.dtype}; keep activations in float32")
    return call.value(0)


def _clip(call: OnnxCall) -> Results:
    low, high = (call.number(name, index, default) for index, (name, default) in enumerate(_BOUNDS, start=1))
    return call.apply(aten.clamp.default, call.value(0), low, high)


_BOUNDS = (("min", float("-inf")), ("max", float("inf")))


def _hard_sigmoid(call: OnnxCall) -> Results:
    alpha, beta = float(call.attribute("alpha", 0.2)), float(call.attribute("beta", 0.5))
    return _clamped_line(call, call.value(0), alpha, beta, 1.0)


def _clamped_line(call: OnnxCall, x: Value, alpha: float, beta: float, high: float) -> Operand:
    line = call.apply(aten.add.Tensor, call.apply(aten.mul.Tensor, x, alpha), beta)
    return call.apply(aten.clamp.default, line, 0.0, high)


def _leaky_relu(call: OnnxCall) -> Results:
    return call.apply(aten.leaky_relu.default, call.value(0), float(call.attribute("alpha", 0.01)))


def _prelu(call: OnnxCall) -> Results:
    slope = call.constant(1, "slope")
    if slope.size == 1:
        return call.apply(aten.leaky_relu.default, call.value(0), float(slope.reshape(-1)[0]))
    # torch takes one slope a channel, as a vector; ONNX any shape that broadcasts.
    axis = len(call.shape(call.value(0))) - slope.ndim
    if slope.size != max(slope.shape) or slope.shape.index(slope.size) + axis != 1:
        raise Unsupported(f"its slopes of shape {slope.shape} are not one a channel")
    return call.apply(aten.prelu.default, call.value(0), slope.reshape(-1))


def _elu(call: OnnxCall) -> Results:
    return call.apply(aten.elu.default, call.value(0), float(call.attribute("alpha", 1.0)))


def _celu(call: OnnxCall) -> Results:
    return call.apply(aten.celu.default, call.value(0), float(call.attribute("alpha", 1.0)))


def _selu(call: OnnxCall) -> Results:
    alpha, gamma = (
        float(call.attribute(name, number)) for name, number in (("alpha", 1.67326319), ("gamma", 1.05070102))
    )
    return call.apply(aten.elu.default, call.value(0), alpha, gamma)


def _gelu(call: OnnxCall) -> Results:
    return call.apply(aten.gelu.default, call.value(0), approximate=call.attribute("approximate", "none"))


def _swish(call: OnnxCall) -> Results:
    x, alpha = call.value(0), float(call.attribute("alpha", 1.0))
    if alpha == 1.0:
        return call.apply(aten.silu.default, x)
    return call.apply(aten.mul.Tensor, x, call.apply(aten.sigmoid.default, call.apply(aten.mul.Tensor, x, alpha)))


def _binary(operator: torch._ops.OpOverload) -> OnnxRule:
    """A rule for arithmetic on two operands, of which either may be a constant."""
    return lambda call: call.apply(operator, call[0], call[1])


def _together(operator: torch._ops.OpOverload) -> OnnxRule:
    """A rule for an operator on two operands that is given any number of them."""
    return lambda call: _folded(call, operator)


def _folded(call: OnnxCall, operator: torch._ops.OpOverload) -> Operand:
    result: Operand = call[0]
    for index in range(1, len(call.inputs)):
        result = call.apply(operator, result, call[index])
    return result


def _mean(call: OnnxCall) -> Results:
    return call.apply(aten.div.Tensor, _folded(call, aten.add.Tensor), float(len(call.inputs)))


def _softsign(call: OnnxCall) -> Results:
    x = call.value(0)
    return call.apply(aten.div.Tensor, x, call.apply(aten.add.Tensor, call.apply(aten.abs.default, x), 1.0))


def _power(call: OnnxCall) -> Results:
    exponent = call.constant(1, "exponent")
    if exponent.size != 1:
        raise Unsupported("its exponents are several; use one number")
    return call.apply(aten.pow.Tensor_Scalar, call.value(0), float(exponent.reshape(-1)[0]))


def _negative(call: OnnxCall) -> Results:
    return call.apply(aten.mul.Tensor, call.value(0), -1.0)


_SAME = {
    "Relu": aten.relu.default,
    "Sigmoid": aten.sigmoid.default,
    "Tanh": aten.tanh.default,
    "HardSwish": aten.hardswish.default,
    "Mish": aten.mish.default,
    "Abs": aten.abs.default,
    "Softplus": aten.softplus.default,
    "Erf": aten.erf.default,
    "Exp": aten.exp.default,
    "Log": aten.log.default,
    "Sqrt": aten.sqrt.default,
    "Reciprocal": aten.reciprocal.default,
    "Floor": aten.floor.default,
    "Ceil": aten.ceil.default,
    "Sign": aten.sign.default,
}

ELEMENTWISE: Mapping[str, OnnxRule] = {
    **{name: _same(operator) for name, operator in _SAME.items()},
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Gelu": _gelu,
    "Swish": _swish,
    "Softsign": _softsign,
    "Add": _binary(aten.add.Tensor),
    "Sub": _binary(aten.sub.Tensor),
    "Mul": _binary(aten.mul.Tensor),
    "Div": _binary(aten.div.Tensor),
    "Pow": _power,
    "Neg": _negative,
    "Sum": _together(aten.add.Tensor),
    "Mean": _mean,
    "Max": _together(aten.maximum.default),
    "Min": _together(aten.minimum.default),
}
