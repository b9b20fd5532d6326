"""What transformers are made of, where ONNX has an operator for it: normalisations, softmax, attention."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from flexgroup.graph._call import Unsupported
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Operand, Results

aten = torch.ops.aten


def _layer_norm(call: OnnxCall) -> Results:
    shape = call.shape(call.value(0))
    axis = int(call.attribute("axis", -1)) % len(shape)
    weight, bias = (call.get(index) for index in (1, 2))
    eps = float(call.attribute("epsilon", 1e-5))
    return call.apply(aten.layer_norm.default, call.value(0), shape[axis:], weight, bias, eps, False)


def _rms_norm(call: OnnxCall) -> Results:
    shape = call.shape(call.value(0))
    axis = int(call.attribute("axis", -1)) % len(shape)
    eps = float(call.attribute("epsilon", 1e-5))
    return call.apply(aten.rms_norm.default, call.value(0), shape[axis:], call.get(1), eps)


def _instance_norm(call: OnnxCall) -> Results:
    weight, bias = call.constant(1, "scale"), call.constant(2, "bias")
    eps = float(call.attribute("epsilon", 1e-5))
    statistics = (None, None, True, 0.0)  # of what it sees
    return call.apply(aten.instance_norm.default, call.value(0), weight, bias, *statistics, eps, False)


def _group_norm(call: OnnxCall) -> Results:
    groups = int(call.attribute("num_groups"))
    channels = call.shape(call.value(0))[1]
    weight, bias = (call.constant(index, name) for index, name in ((1, "scale"), (2, "bias")))
    if call.opset < 21:  # one number a group
        weight, bias = (np.repeat(numbers, channels // groups) for numbers in (weight, bias))
    eps = float(call.attribute("epsilon", 1e-5))
    return call.apply(aten.group_norm.default, call.value(0), groups, weight, bias, eps, False)


def _lengthened(call: OnnxCall) -> Results:
    """LpNormalization: vectors along an axis divided by their length; a vector of zeros stays one."""
    axis, order = int(call.attribute("axis", -1)), int(call.attribute("p", 2))
    lengths = call.apply(aten.linalg_vector_norm.default, call.value(0), order, [axis], True)
    return call.apply(aten.div.Tensor, call.value(0), call.apply(aten.clamp_min.default, lengths, 1e-30))


def _softmax(operator: torch._ops.OpOverload) -> OnnxRule:
    return lambda call: call.apply(operator, call.value(0), _softmax_axis(call))


def _softmax_axis(call: OnnxCall) -> int:
    shape = call.shape(call.value(0))
    old = call.opset < 13
    axis = int(call.attribute("axis", 1 if old else -1)) % len(shape)
    if old and np.prod(shape[axis:]) != shape[axis]:
        raise Unsupported(
            f"before opset 13 it is over all axes from {axis} on, flattened; export with opset_version=17, or keep one"
        )
    return axis


def _attention(call: OnnxCall) -> Results:
    if any(call.get(index) is not None for index in (4, 5, 6)):
        raise Unsupported("keys and values from before (past_key, past_value) are not compiled")
    if call.attribute("softcap", 0.0):
        raise Unsupported("softcap is not compiled; export with softcap=0")
    folded = len(call.shape(call.value(0))) == 3
    names = ("q_num_heads", "kv_num_heads", "kv_num_heads")
    query, key, value = (_heads(call, i, name) if folded else call.value(i) for i, name in enumerate(names))
    arguments = (query, key, value, call.get(3), 0.0, bool(call.attribute("is_causal", 0)))
    attended = call.apply(
        aten.scaled_dot_product_attention.default, *arguments, scale=call.attribute("scale"), enable_gqa=False
    )
    if not folded:
        return attended
    batch, heads, tokens, width = call.shape(attended)
    together = call.apply(aten.permute.default, attended, [0, 2, 1, 3])
    return call.apply(aten.view.default, together, [batch, tokens, heads * width])


def _heads(call: OnnxCall, index: int, attribute: str) -> Operand:
    """Input ``index``, (batch, tokens, heads * width), as (batch, heads, tokens, width)."""
    value, heads = call.value(index), int(call.attribute(attribute, 1))
    batch, tokens, width = call.shape(value)
    apart = call.apply(aten.view.default, value, [batch, tokens, heads, width // heads])
    return call.apply(aten.permute.default, apart, [0, 2, 1, 3])


TOKENS: Mapping[str, OnnxRule] = {
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": _lengthened,
    "Softmax": _softmax(aten.softmax.int),
    "LogSoftmax": _softmax(aten.log_softmax.int),
    "Attention": _attention,
}
