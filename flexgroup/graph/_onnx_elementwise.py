"""ONNX operators that work on every number alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Unsupported, Value
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Operand, Results
from flexgroup.graph._onnx_file import Tensor

aten = torch.ops.aten


def _same(operator: torch._ops.OpOverload) -> OnnxRule:
    """A rule for an operator that torch has too."""
    return lambda call: call.apply(operator, call.value(0))


def _curve(kind: str) -> OnnxRule:
    """A rule for one of the graph's activation functions."""
    return lambda call: call.pointwise(ir.Curve(kind), call.value(0))


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
    return call.pointwise(ir.Curve(ir.leaky_relu(float(call.attribute("alpha", 0.01)))), call.value(0))


def _prelu(call: OnnxCall) -> Results:
    slope = call.constant(1, "slope")
    if slope.size == 1:
        return call.pointwise(ir.Curve(ir.leaky_relu(float(slope.reshape(-1)[0]))), call.value(0))
    return _halves(call, slope)


def _absolute(call: OnnxCall) -> Results:
    return _halves(call, np.array(-1.0, np.float32))


def _halves(call: OnnxCall, slope: Tensor) -> Operand:
    """What is positive, and ``slope`` times what is negative."""
    x = call.value(0)
    positive, negative = (call.apply(aten.clamp.default, x, *ends) for ends in ((0.0, None), (None, 0.0)))
    return call.apply(aten.add.Tensor, positive, call.apply(aten.mul.Tensor, negative, slope))


def _elu(call: OnnxCall) -> Results:
    return call.apply(aten.elu.default, call.value(0), float(call.attribute("alpha", 1.0)))


def _gelu(call: OnnxCall) -> Results:
    kind = "gelu" if call.attribute("approximate", "none") == "none" else "gelu_tanh"
    return call.pointwise(ir.Curve(kind), call.value(0))


def _swish(call: OnnxCall) -> Results:
    x, alpha = call.value(0), float(call.attribute("alpha", 1.0))
    if alpha == 1.0:
        return call.pointwise(ir.Curve("silu"), x)
    scaled = call.apply(aten.mul.Tensor, x, alpha)
    assert isinstance(scaled, Value), "a scaled activation is one"
    return call.pointwise(ir.Mul(), x, call.pointwise(ir.Curve("sigmoid"), scaled))


def _added(call: OnnxCall, first: Operand, second: Operand) -> Operand:
    if isinstance(first, Value) and isinstance(second, Value) and call.shape(first) != call.shape(second):
        return call.pointwise(ir.Add(), first, second)
    return call.apply(aten.add.Tensor, first, second)


def _add(call: OnnxCall) -> Results:
    return _added(call, call[0], call[1])


def _sub(call: OnnxCall) -> Results:
    first, second = call[0], call[1]
    if isinstance(first, Value) and isinstance(second, Value):
        return _added(call, first, call.apply(aten.mul.Tensor, second, -1.0))
    return call.apply(aten.sub.Tensor, first, second)


def _mul(call: OnnxCall) -> Results:
    first, second = call[0], call[1]
    if isinstance(first, Value) and isinstance(second, Value):
        return call.pointwise(ir.Mul(), first, second)
    return call.apply(aten.mul.Tensor, first, second)


def _div(call: OnnxCall) -> Results:
    return call.apply(aten.div.Tensor, call[0], call[1])


def _sum(call: OnnxCall) -> Operand:
    total: Operand = call[0]
    for index in range(1, len(call.inputs)):
        total = _added(call, total, call[index])
    return total


def _mean(call: OnnxCall) -> Results:
    return call.apply(aten.div.Tensor, _sum(call), float(len(call.inputs)))


def _bounded(name: str) -> OnnxRule:
    """Max and Min: a clamp, where all operands but one are single numbers."""

    def rule(call: OnnxCall) -> Results:
        values = [x for x in call.inputs if isinstance(x, Value)]
        numbers = [float(x.reshape(-1)[0]) for x in call.inputs if not isinstance(x, Value | None) and x.size == 1]
        if len(values) != 1 or len(numbers) + 1 < len(call.inputs):
            raise Unsupported("only the larger or smaller of an activation and one number is compiled")
        bounds = (max(numbers), None) if name == "Max" else (None, min(numbers))
        return call.apply(aten.clamp.default, values[0], *bounds)

    return rule


def _power(call: OnnxCall) -> Results:
    exponent = call.constant(1, "exponent")
    if exponent.size != 1:
        raise Unsupported("its exponents are several; use one number")
    number = float(exponent.reshape(-1)[0])
    x = call.value(0)
    if number == 1:
        return x
    return call.pointwise(ir.Mul(), x, x) if number == 2 else call.apply(aten.pow.Tensor_Scalar, x, number)


def _negative(call: OnnxCall) -> Results:
    return call.apply(aten.mul.Tensor, call.value(0), -1.0)


_SAME = {
    "Relu": aten.relu.default,
    "Softplus": aten.softplus.default,
    "Erf": aten.erf.default,
    "Exp": aten.exp.default,
    "Log": aten.log.default,
    "Sqrt": aten.sqrt.default,
    "Reciprocal": aten.reciprocal.default,
    "Selu": aten.selu.default,
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
    "Abs": _absolute,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSwish": _curve("hard_swish"),
    "Mish": _curve("mish"),
    "Sigmoid": _curve("sigmoid"),
    "Tanh": _curve("tanh"),
    "Swish": _swish,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Pow": _power,
    "Neg": _negative,
    "Sum": _sum,
    "Mean": _mean,
    "Max": _bounded("Max"),
    "Min": _bounded("Min"),
}
