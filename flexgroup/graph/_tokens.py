"""What transformers are made of: layer norm, products of activations, attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._factors import Axes, size_of, whole
from flexgroup.graph._value import BATCH_MOVES
from flexgroup.graph._views import axes_of, has_batch, permute, reshape, settle, stored_axis, viewed
from flexgroup.graph._weighted import on_last_axis


def _layer_norm(call: Call) -> Value:
    value = call.viewed("input")
    axes = len(call["normalized_shape"])
    size = math.prod(call["normalized_shape"])
    folded = reshape(call, value, (*call.result[:-axes], size))
    weight, bias = affine_parts(call, size)
    centred = "bias" in call.arguments
    eps = torch.finfo(torch.float32).eps if call["eps"] is None else float(call["eps"])
    op = ir.LayerNorm(weight, bias, eps, centred)
    return reshape(call, on_last_axis(call, folded, op, "layer_norm" if centred else "rms_norm"), call.result)


def affine_parts(call: Call, size: int) -> tuple[ir.Array, ir.Array]:
    """The weight and the bias of a norm, ``size`` numbers each; ones and zeros where it has none."""
    return _affine_part(call, "weight", 1.0, size), _affine_part(call, "bias", 0.0, size)


def _affine_part(call: Call, name: str, otherwise: float, size: int) -> ir.Array:
    given = call.get(name)
    return np.full(size, otherwise, np.float32) if given is None else call.array(name, call.constant(name).reshape(-1))


def _softmax(call: Call) -> Value:
    value = settle(call, call.viewed("self"))
    axes = axes_of(call, value)
    op = ir.Softmax(stored_axis(call, value, int(call["dim"]) % len(axes)))
    return viewed(call, call.emit(op, Value(value.name, call.stored(value)), kind="softmax"), axes)


def _matmul(call: Call) -> Value:
    return multiply(call, call["self"], call["mat2" if "mat2" in call.arguments else "other"])


def multiply(call: Call, first: Value | torch.Tensor, second: Value | torch.Tensor) -> Value:
    """``first @ second`` along the last two axes; one of them may be a constant matrix."""
    if isinstance(first, Value) and isinstance(second, torch.Tensor) and second.ndim == 2:
        op = ir.Linear(call.array("weight", second.T), np.zeros(second.shape[1], np.float32))
        return on_last_axis(call, first, op, "linear")
    if isinstance(first, torch.Tensor) and first.ndim == 2 and isinstance(second, Value):
        return swapped(call, multiply(call, swapped(call, second), first.T))
    if not (isinstance(first, Value) and isinstance(second, Value)):
        raise Unsupported("it multiplies an activation by a constant that is not one matrix; use nn.Linear")
    first, second = settle(call, first), settle(call, second)
    _check_around(call, first, second)
    product = call.emit(ir.MatMul(), *(Value(x.name, call.stored(x)) for x in (first, second)), kind="matmul")
    return _like_rows(call, product, first)


def swapped(call: Call, value: Value) -> Value:
    """``value`` with its last two axes exchanged."""
    count = len(axes_of(call, value))
    return permute(call, value, [*range(count - 2), count - 1, count - 2])


def _check_around(call: Call, first: Value, *others: Value) -> None:
    """All values must have the same axes before the last two, the batch among them."""
    axes = axes_of(call, first)
    if any(has_batch(axis) for value in (first, *others) for axis in axes_of(call, value)[-2:]):
        raise Unsupported("it multiplies along the batch; keep the batch apart and first (batch_first=True)")
    if any(axes_of(call, value)[:-2] != axes[:-2] for value in others):
        raise Unsupported("its operands differ in the axes before the last two; expand them to the same shape")


def _like_rows(call: Call, product: Value, first: Value) -> Value:
    """``product``, with its axes before the last two as those of ``first``."""
    stored = call.stored(product)
    last = whole(stored)[-2:]
    return viewed(call, product, (*axes_of(call, first)[:-2], *last))


def _attention(call: Call) -> Value:
    if call.get("dropout_p"):
        raise Unsupported("dropout is active in eval mode; pass dropout_p=0.0 unless self.training")
    if call.get("enable_gqa"):
        raise Unsupported("enable_gqa=True is not compiled; give every head a key and a value of its own")
    query, key, value = (settle(call, call.viewed(name)) for name in ("query", "key", "value"))
    _check_around(call, query, key, value)
    shape = call.stored(query)
    scale = call.get("scale")
    op = ir.Attention(
        scale=1 / math.sqrt(shape[-1]) if scale is None else float(scale),
        mask=_mask(call, axes_of(call, query), shape, call.stored(key)[-2]),
    )
    operands = [Value(x.name, call.stored(x)) for x in (query, key, value)]
    if isinstance(call.get("attn_mask"), Value):
        operands.append(_by_key(call, call.viewed("attn_mask"), call.stored(key)[-2]))
    attended = call.emit(op, *operands, kind="attention")
    return _like_rows(call, attended, query)


def _by_key(call: Call, mask: Value, keys: int) -> Value:
    """A mask that depends on the input, if it says the same of a key to every head and query."""
    *around, last = axes_of(call, mask)
    alone = all(not axis or has_batch(axis) for axis in around) and size_of(last) == keys
    if not alone or size_of(around[0]) != call.batch:
        raise Unsupported("its mask depends on the input in more than the key; give a mask (batch, 1, 1, keys)")
    return call.first(settle(call, reshape(call, mask, (call.batch, keys))))


def _mask(call: Call, axes: Axes, query: tuple[int, ...], keys: int) -> ir.Array | None:
    """The mask of an attention as numbers to add to its scores: (queries, keys) or (..., queries, keys)."""
    scores = (*query[:-1], keys)
    given = call.get("attn_mask")
    mask = torch.zeros(()) if given is None or isinstance(given, Value) else call.constant("attn_mask")
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -ir.INF)
    if call.get("is_causal"):
        mask = mask + torch.full(scores[-2:], -ir.INF).triu(1)
    if not mask.any():
        return None
    return _spread_mask(call, mask.to(torch.float32), axes, scores)


def _spread_mask(call: Call, mask: torch.Tensor, axes: Axes, scores: tuple[int, ...]) -> ir.Array:
    if mask.ndim == len(axes) and len(mask) > 1 and has_batch(axes[0]):
        if not bool((mask == mask[:1]).all()):
            raise Unsupported(BATCH_MOVES)
        mask = mask[:1]
    if mask.isnan().any() or bool((mask == -ir.INF).all(-1).any()):
        raise Unsupported("its mask hides every key from some query, or is NaN; the result would be NaN")
    array: Any = mask.detach().to("cpu").numpy()
    while array.ndim > 2 and len(array) == 1:
        array = array[0]
    shape = scores[-2:] if array.ndim <= 2 else scores
    return np.ascontiguousarray(np.broadcast_to(array, shape), np.float32)


RULES: Mapping[str, Rule] = {
    "aten.layer_norm": _layer_norm,
    "aten.native_layer_norm": _layer_norm,
    "aten.rms_norm": _layer_norm,
    "aten.softmax": _softmax,
    "aten._softmax": _softmax,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.matmul": _matmul,
    "aten.scaled_dot_product_attention": _attention,
    **{
        f"aten._scaled_dot_product_{kind}": _attention
        for kind in ("attention_math", "flash_attention", "flash_attention_for_cpu", "efficient_attention")
    },
}
