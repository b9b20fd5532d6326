"""Operators that only move numbers: views, permutations, slices, padding, concatenation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._factors import Factor, size_of, whole
from flexgroup.graph._resize import separable
from flexgroup.graph._sequences import as_image
from flexgroup.graph._value import BATCH_MOVES
from flexgroup.graph._views import (
    along_factors,
    axes_of,
    cut,
    permute,
    plain_axes,
    reshape,
    settle,
    stored_axis,
    viewed,
)


def _view(call: Call) -> Value:
    """Any reshape; only one to a vector takes a node at once, which is then named after its layer."""
    value = reshape(call, call.viewed("self"), call.result)
    return settle(call, value) if len(call.result) == 2 else value


def _permute(call: Call) -> Value:
    value = call.viewed("self")
    count = len(call.result)
    return permute(call, value, [axis % count for axis in call["dims"]])


def _transpose(call: Call) -> Value:
    value = call.viewed("self")
    order = list(range(len(call.result)))
    a, b = (call.get(f"dim{i}", call.get(f"axis{i}", i - 2)) for i in (0, 1))
    order[a], order[b] = order[b], order[a]
    return permute(call, value, order)


def _movedim(call: Call) -> Value:
    value = call.viewed("self")
    count = len(call.result)
    source, target = ([axis % count for axis in _numbers(call[name])] for name in ("source", "destination"))
    order = [axis for axis in range(count) if axis not in source]
    for position, axis in sorted(zip(target, source, strict=True)):
        order.insert(position, axis)
    return permute(call, value, order)


def _numbers(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def expand(call: Call) -> Value:
    """``self`` with axes of size one repeated, to the shape of the result."""
    value = call.viewed("self")
    if tuple(map(size_of, axes_of(call, value))) == call.result:
        return value
    if len(call.result) != len(axes_of(call, value)):
        raise Unsupported(BATCH_MOVES)
    if call.result[0] != call.batch:
        return _expand_behind(call, settle(call, value))
    # Sums and products, which repeat axes themselves, will read what is not expanded.
    return call.emit(ir.Expand(call.result[1:]), call.settled(value))


def _expand_behind(call: Call, value: Value) -> Value:
    """``value``, which is settled, with axes behind a folded batch repeated."""
    axes, shape = list(axes_of(call, value)), list(call.stored(value))
    for dim, size in enumerate(call.result):
        if size != size_of(axes[dim]):
            stored = stored_axis(call, value, dim)
            shape[stored], axes[dim] = size, (Factor(stored, size, 1),)
    return viewed(call, call.emit(ir.Expand(tuple(shape)), Value(value.name, call.stored(value))), tuple(axes))


def _slice(call: Call) -> Value:
    value = call.viewed("self")
    dim, size = _dim(call, value)
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    return cut(call, value, dim, start, stop, step)


def _select(call: Call) -> Value:
    value = call.viewed("self")
    dim, size = _dim(call, value)
    index = call["index"] % size
    return reshape(call, cut(call, value, dim, index, index + 1), call.result)


def _unbind(call: Call) -> tuple[Value, ...]:
    value = call.viewed("self")
    dim, size = _dim(call, value)
    return tuple(reshape(call, cut(call, value, dim, i, i + 1), call.result) for i in range(size))


def _split(call: Call) -> tuple[Value, ...]:
    value = call.viewed("self")
    dim, size = _dim(call, value)
    given = next(call[name] for name in ("split_sizes", "split_size", "chunks") if name in call.arguments)
    if isinstance(given, int):
        step = -(-size // given) if "chunks" in call.arguments else given
        given = [min(step, size - start) for start in range(0, size, step)]
    starts = [sum(given[:i]) for i in range(len(given))]
    return tuple(cut(call, value, dim, start, start + count) for start, count in zip(starts, given, strict=True))


def _dim(call: Call, value: Value) -> tuple[int, int]:
    """Torch's axis ``dim`` and its size."""
    axes = axes_of(call, value)
    dim = int(call["dim"]) % len(axes)
    return dim, size_of(axes[dim])


def _roll(call: Call) -> Value:
    value, dims, shifts = call.viewed("self"), _numbers(call["dims"]), _numbers(call["shifts"])
    if not dims:
        raise Unsupported("it rolls the flattened value, the batch included; name the axes: x.roll(1, dims=1)")
    for dim, shift in zip(dims, shifts, strict=True):
        dim %= len(call.result)
        size = call.result[dim]
        at = -shift % size
        if at:
            ends = [cut(call, value, dim, start, stop) for start, stop in ((at, size), (0, at))]
            value = join(call, ends, dim)
    return value


def _pad(call: Call) -> Value:
    amounts = [int(amount) for amount in call["pad"]]
    if min(amounts, default=0) < 0:
        raise Unsupported("negative padding cuts the image; slice it instead: x[:, :, 1:-1]")
    if not any(amounts):
        return call.viewed("self")
    if call.get("mode", "constant") != "constant":
        return _pad_by_its_own(call, amounts, call["mode"])
    number, value = call["value"] or 0.0, settle(call, call.viewed("self"))
    folded = axes_of(call, value) != plain_axes(call.batch, call.stored(value))
    if folded or number != 0 or len(value.shape) != 3:
        return _pad_with_constants(call, value, amounts, float(number))
    # torch counts from the last axis: (left, right, top, bottom, channels before, after, ...)
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)][:3]
    columns, rows, channels = pairs + [(0, 0)] * (3 - len(pairs))
    return call.emit(ir.Pad((channels, rows, columns)), value, kind="pad")


def _mirrored(mode: str) -> Rule:
    return lambda call: _pad_by_its_own(call, [int(amount) for amount in call["padding"]], mode)


def _pad_by_its_own(call: Call, amounts: list[int], mode: str) -> Value:
    """Borders that repeat or mirror the image: every row and column is one of the image's, as in resizing."""
    value = call.activation("self")
    if len(amounts) not in (2, 4) or len(value.shape) != 1 + len(amounts) // 2:
        raise Unsupported(f"padding by mode={mode!r} is compiled for rows and columns of images, and for sequences")
    columns, rows = amounts[:2], amounts[2:] or [0, 0]

    def padded(image: torch.Tensor, _: ir.Pair, axis: int) -> torch.Tensor:
        return torch.nn.functional.pad(image, [*columns, 0, 0] if axis else [0, 0, *rows], mode)

    image = call.settled(as_image(call, value))
    result = (*call.result[:2], *((1, *call.result[2:])[-2:]))
    return reshape(call, separable(call.given(call.arguments, result), image, padded, "pad"), call.result)


def _pad_with_constants(call: Call, value: Value, amounts: list[int], number: float) -> Value:
    shape = list(map(size_of, axes_of(call, value)))
    for i in range(0, len(amounts), 2):
        dim = len(shape) - 1 - i // 2
        ends = [torch.full((*shape[:dim], amount, *shape[dim + 1 :]), number) for amount in amounts[i : i + 2]]
        parts = [part for part in (ends[0], value, ends[1]) if isinstance(part, Value) or part.numel()]
        value = join(call, parts, dim)
        shape[dim] += sum(amounts[i : i + 2])
    return value


def _cat(call: Call) -> Value:
    return join(call, list(call["tensors"]), int(call["dim"]) % len(call.result))


def _stack(call: Call) -> Value:
    axis = int(call["dim"]) % len(call.result)
    if axis == 0:  # the graph has the batch first
        order = [1, 0, *range(2, len(call.result))]
        behind = tuple(call.result[i] for i in order)
        return permute(call, _stack(call.given({**call.arguments, "dim": 1}, behind)), order)
    single = (*call.result[:axis], 1, *call.result[axis + 1 :])
    parts = [reshape(call, x, single) if isinstance(x, Value) else x.reshape(single) for x in call["tensors"]]
    return join(call, parts, axis)


def join(call: Call, parts: list[Any], dim: int) -> Value:
    """Concatenation along torch's axis ``dim`` of activations, and of constants that are the same for every image."""
    parts = [part for part in parts if isinstance(part, Value) or part.numel()]
    if dim == 0:
        raise Unsupported(BATCH_MOVES)
    parts = [settle(call, part) if isinstance(part, Value) else part for part in parts]
    values = [part for part in parts if isinstance(part, Value)]
    if any(axes_of(call, value) != plain_axes(call.batch, call.stored(value)) for value in values):
        return _join_behind(call, parts, values[0], dim)
    values = [call.first(value) for value in values]
    if len(values) == len(parts):
        return values[0] if len(parts) == 1 else call.emit(ir.Concat(dim - 1), *values)
    zeros = all(isinstance(part, Value) or not part.any() for part in parts)
    if len(values) == 1 and zeros and len(values[0].shape) == 3:
        here = next(index for index, part in enumerate(parts) if isinstance(part, Value))
        before, after = (sum(part.shape[dim] for part in side) for side in (parts[:here], parts[here + 1 :]))
        amounts = [(0, 0), (0, 0), (0, 0)]
        amounts[dim - 1] = (before, after)
        return call.emit(ir.Pad((amounts[0], amounts[1], amounts[2])), values[0])
    order = iter(values)
    operands = [next(order) if isinstance(part, Value) else call.constant_value("tensors", part) for part in parts]
    return call.emit(ir.Concat(dim - 1), *operands)


def _join_behind(call: Call, parts: list[Any], first: Value, dim: int) -> Value:
    """Concatenation of settled activations and constants along an axis behind those that the batch is folded into."""
    axes, at = axes_of(call, first), stored_axis(call, first, dim)
    if len(parts) == 1:
        return first
    operands, total = [], 0
    for part in parts:
        if isinstance(part, Value):
            own = axes_of(call, part)
            if (*own[:dim], *own[dim + 1 :]) != (*axes[:dim], *axes[dim + 1 :]):
                raise Unsupported(BATCH_MOVES)
            stored = call.stored(part)
            operands.append(Value(part.name, stored))
        else:
            stored = (*call.stored(first)[:at], part.shape[dim], *call.stored(first)[at + 1 :])
            rows = along_factors(part, (*axes[:dim], *whole(part.shape[dim : dim + 1]), *axes[dim + 1 :]))
            operands.append(call.constant_value("tensors", rows.reshape(-1, *stored)))
        total += stored[at]
    joined = call.emit(ir.Concat(at), *operands)
    return viewed(call, joined, (*axes[:dim], (Factor(at, total, 1),), *axes[dim + 1 :]))


_VIEWS = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as")

RULES: Mapping[str, Rule] = {
    "aten.permute": _permute,
    **{f"aten.{name}": _transpose for name in ("transpose", "t", "swapaxes", "swapdims")},
    "aten.movedim": _movedim,
    "aten.expand": expand,
    "aten.select": _select,
    "aten.unbind": _unbind,
    **{f"aten.{name}": _split for name in ("split", "split_with_sizes", "chunk")},
    "aten.stack": _stack,
    "aten.roll": _roll,
    **{f"aten.{name}": _view for name in _VIEWS},
    "aten.slice": _slice,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    **{f"aten.reflection_pad{n}d": _mirrored("reflect") for n in (1, 2)},
    **{f"aten.replication_pad{n}d": _mirrored("replicate") for n in (1, 2)},
    "aten.cat": _cat,
    "aten.concat": _cat,
}
