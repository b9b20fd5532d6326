"""Operators that only move numbers: views, slices, padding, concatenation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Unsupported, Value


def _view(call: Call) -> Value:
    """Any reshape that leaves the batch alone; only flattening to a vector takes a node."""
    value = call.viewed("self")
    shape = call.result[1:]
    stored = Value(value.name, call.stored(value))
    if len(shape) == 1 and len(stored.shape) != 1:
        return call.emit(ir.Flatten(), stored, kind="flatten")
    return Value(value.name, shape)


def _slice(call: Call) -> Value:
    value = call.activation("self")
    axis = call["dim"] % (len(value.shape) + 1) - 1
    if axis < 0:
        if (call["start"] or 0) == 0 and (call["end"] is None or call["end"] >= torch.iinfo(torch.int64).max):
            return value
        raise Unsupported("it slices the first axis, which is the batch; slice the batch outside of the model")
    start, stop, _ = slice(call["start"], call["end"]).indices(value.shape[axis])
    step = int(call["step"])
    if (start, stop, step) == (0, value.shape[axis], 1):
        return value
    return call.emit(ir.Slice(axis, start, max(start, stop), step), value)


def _pad(call: Call) -> Value:
    amounts = [int(amount) for amount in call["pad"]]
    if call.get("mode", "constant") != "constant" or call["value"] not in (None, 0):
        raise Unsupported("only padding with zeros is compiled; use padding_mode='zeros' or value=0")
    if min(amounts, default=0) < 0:
        raise Unsupported("negative padding cuts the image; slice it instead: x[:, :, 1:-1]")
    if not any(amounts):
        return call.activation("self")
    value = call.image("self")
    # torch counts from the last axis: (left, right, top, bottom, channels before, after, ...)
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)][:3]
    columns, rows, channels = pairs + [(0, 0)] * (3 - len(pairs))
    return call.emit(ir.Pad((channels, rows, columns)), value, kind="pad")


def _cat(call: Call) -> Value:
    parts: list[Any] = list(call["tensors"])
    axis = call["dim"] % len(call.result) - 1
    if axis < 0:
        raise Unsupported("it concatenates along the first axis, which is the batch")
    values = [call.settled(part) for part in parts if isinstance(part, Value)]
    if len(values) == len(parts):
        return values[0] if len(parts) == 1 else call.emit(ir.Concat(axis), *values)
    zeros = all(isinstance(part, Value) or not part.any() for part in parts)
    if len(values) != 1 or not zeros or len(values[0].shape) != 3:
        raise Unsupported("it concatenates constants; only images with zeros before or after them are compiled")
    here = next(index for index, part in enumerate(parts) if isinstance(part, Value))
    before, after = (sum(part.shape[axis + 1] for part in side) for side in (parts[:here], parts[here + 1 :]))
    amounts = [(0, 0), (0, 0), (0, 0)]
    amounts[axis] = (before, after)
    return call.emit(ir.Pad((amounts[0], amounts[1], amounts[2])), values[0])


_VIEWS = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as")

RULES: Mapping[str, Rule] = {
    **{f"aten.{name}": _view for name in _VIEWS},
    "aten.slice": _slice,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    "aten.cat": _cat,
    "aten.concat": _cat,
}
