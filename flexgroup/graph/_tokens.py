"""What transformers are made of: layer norm, products of activations, attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._elementwise import affine
from flexgroup.graph._factors import Axes, size_of, whole
from flexgroup.graph._moves import expand
from flexgroup.graph._value import BATCH_MOVES
from flexgroup.graph._views import along_factors, axes_of, has_batch, permute, reshape, settle, stored_axis, viewed
from flexgroup.graph._weighted import on_last_axis

ALONG_BATCH = "it multiplies along the batch; keep the batch apart and first (batch_first=True)"


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
    first, second = call["self"], call["mat2" if "mat2" in call.arguments else "other"]
    if isinstance(first, torch.Tensor) and first.ndim == 1:
        return reshape(call, multiply(call, first[None], second), call.result)
    if isinstance(second, torch.Tensor) and second.ndim == 1:
        return reshape(call, multiply(call, first, second[:, None]), call.result)
    if isinstance(first, Value) and isinstance(second, Value):
        first, second = _spread(call, first), _spread(call, second)
    return multiply(call, first, second)


def _spread(call: Call, value: Value) -> Value:
    """``value`` with its axes before the last two repeated to those of the result."""
    *around, rows, columns = map(size_of, axes_of(call, value))
    if tuple(around) == call.result[:-2]:
        return value
    if around[:1] != [call.batch]:
        raise Unsupported(ALONG_BATCH)
    ones = (1,) * (len(call.result) - 2 - len(around))
    apart = reshape(call, value, (*around[:1], *ones, *around[1:], rows, columns)) if ones else value
    return expand(call.given({"self": apart}, (*call.result[:-2], rows, columns)))


def multiply(call: Call, first: Value | torch.Tensor, second: Value | torch.Tensor) -> Value:
    """``first @ second`` along the last two axes; one of them may be a constant matrix."""
    if isinstance(first, Value) and isinstance(second, torch.Tensor) and second.ndim == 2:
        op = ir.Linear(call.array("weight", second.T), np.zeros(second.shape[1], np.float32))
        return on_last_axis(call, first, op, "linear")
    if isinstance(first, torch.Tensor) and first.ndim == 2 and isinstance(second, Value):
        return swapped(call, multiply(call, swapped(call, second), first.T))
    if isinstance(first, torch.Tensor) and isinstance(second, Value):
        second = settle(call, second)
        first = _beside(call, first, second)
    elif isinstance(second, torch.Tensor) and isinstance(first, Value):
        first = settle(call, first)
        second = _beside(call, second, first)
    assert isinstance(first, Value), "products of constants are constants"
    assert isinstance(second, Value)
    first, second = settle(call, first), settle(call, second)
    _check_around(call, first, second)
    product = call.emit(ir.MatMul(), *(Value(x.name, call.stored(x)) for x in (first, second)), kind="matmul")
    return _like_rows(call, product, first)


def _beside(call: Call, matrices: torch.Tensor, other: Value) -> Value:
    """Constant matrices as an activation with the axes of ``other``, which is settled, before the last two."""
    *outer, last, innermost = axes_of(call, other)
    if has_batch(last) or has_batch(innermost):
        raise Unsupported(ALONG_BATCH)
    around = tuple(outer)
    spread = _along(around, matrices)
    if spread is None:
        raise Unsupported("its constant matrices differ between images of a batch, or do not fit the activation's")
    shape = (*call.stored(other)[:-2], *matrices.shape[-2:])
    if math.prod(shape) != spread.numel():  # of one image, the batch may be any axis of size one
        raise Unsupported(ALONG_BATCH)
    value = call.constant_value("matrices", spread.reshape(1, *shape))
    return viewed(call, value, (*around, *whole(shape)[-2:]))


def _along(around: Axes, matrices: torch.Tensor) -> torch.Tensor | None:
    """``matrices``, which broadcast to torch's axes ``around``, along their factors without the batch; None if not."""
    sizes, last = tuple(map(size_of, around)), matrices.shape[-2:]
    if matrices.ndim > len(sizes) + 2 or any(
        given not in (1, size) for given, size in zip(reversed(matrices.shape[:-2]), reversed(sizes), strict=False)
    ):
        return None
    rows = along_factors(matrices.expand(*sizes, *last), (*around, *whole(last)))
    return rows[0] if bool((rows == rows[:1]).all()) else None


def swapped(call: Call, value: Value) -> Value:
    """``value`` with its last two axes exchanged."""
    count = len(axes_of(call, value))
    return permute(call, value, [*range(count - 2), count - 1, count - 2])


def _check_around(call: Call, first: Value, *others: Value) -> None:
    """All values must have the same axes before the last two, the batch among them."""
    axes = axes_of(call, first)
    if any(has_batch(axis) for value in (first, *others) for axis in axes_of(call, value)[-2:]):
        raise Unsupported(ALONG_BATCH)
    if any(axes_of(call, value)[:-2] != axes[:-2] for value in others):
        raise Unsupported("its operands have the batch at different places; keep it first")


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
    names = ("query", "key", "value")
    given = {name: settle(call, _spread(call, call[name])) for name in names if isinstance(call[name], Value)}
    if not given:
        raise Unsupported("it attends to constants alone, but not the same way every time")
    around = next(iter(given.values()))
    query, key, value = (given.get(name) or _beside(call, call.constant(name), around) for name in names)
    _check_around(call, query, key, value)
    shape = call.stored(query)
    scale = 1 / math.sqrt(shape[-1]) if call.get("scale") is None else float(call["scale"])
    keys, mask = call.stored(key)[-2], call.get("attn_mask")
    if isinstance(mask, Value) and not _is_by_key(call, mask, keys):
        return _written_out(call, (query, key, value), mask, scale)
    op = ir.Attention(scale=scale, mask=_mask(call, axes_of(call, query), shape, keys))
    operands = [Value(x.name, call.stored(x)) for x in (query, key, value)]
    if isinstance(mask, Value):
        operands.append(call.first(settle(call, reshape(call, mask, (call.batch, keys)))))
    attended = call.emit(op, *operands, kind="attention")
    return _like_rows(call, attended, query)


def _is_by_key(call: Call, mask: Value, keys: int) -> bool:
    """Whether a mask that depends on the input says the same of a key to every head and query."""
    *around, last = axes_of(call, mask)
    alone = all(not axis or has_batch(axis) for axis in around) and size_of(last) == keys
    return alone and size_of(around[0]) == call.batch


def _written_out(call: Call, operands: tuple[Value, Value, Value], mask: Value, scale: float) -> Value:
    """Attention whose mask is computed from the input: the scores are there, to have it added."""
    query, key, value = operands
    scores = multiply(call, query, swapped(call, key))
    mask, stored = settle(call, mask), call.stored(scores)
    if call.get("is_causal") or (axes_of(call, mask), call.stored(mask)) != (axes_of(call, scores), stored):
        raise Unsupported(
            "its mask depends on the input, and is not of the scores' shape; expand it, or add it yourself"
        )
    scaled = affine(call, Value(scores.name, stored), scale, 0.0, kind="scale")
    added = call.emit(ir.Add(), scaled, Value(mask.name, stored), kind="mask")
    weights = call.emit(ir.Softmax(len(stored) - 1), added, kind="softmax")
    return multiply(call, viewed(call, weights, axes_of(call, scores)), value)


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
    """A mask that broadcasts to torch's scores, as (queries, keys) or as the stored ``scores``."""
    if mask.isnan().any() or bool((mask == -ir.INF).all(-1).any()):
        raise Unsupported("its mask hides every key from some query, or is NaN; the result would be NaN")
    while mask.ndim > 2 and len(mask) == 1:
        mask = mask[0]
    shape = scores[-2:]
    if mask.ndim > 2:
        spread = _along(axes[:-2], mask.expand(*mask.shape[:-2], *shape))
        if spread is None:
            raise Unsupported(BATCH_MOVES)
        mask, shape = spread.reshape(scores), scores
    array: Any = mask.detach().to("cpu").numpy()
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
