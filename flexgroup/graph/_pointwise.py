"""Operators that treat every number alike work on the stored numbers, however torch has arranged them by now."""

from __future__ import annotations

from typing import Any

import torch

from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._factors import Axes
from flexgroup.graph._value import BATCH_MOVES
from flexgroup.graph._views import along_factors, axes_of, has_batch, plain_axes, settle, viewed


def pointwise(call: Call, rule: Rule) -> Value:
    """Apply ``rule`` to the stored numbers of its operands, and see the result along their axes.

    Operands that torch has arranged differently are put in torch's order first.
    """
    names = [name for name, argument in call.arguments.items() if isinstance(argument, Value)]
    operands = {name: call.viewed(name) for name in names}
    constants = {name: x for name, x in call.arguments.items() if isinstance(x, torch.Tensor) and x.numel() > 1}
    if not _alike(call, list(operands.values())) or constants:
        operands = {name: settle(call, value) for name, value in operands.items()}
    if not operands:
        raise Unsupported("it works on constants alone, but not the same way every time")
    spread = None if constants else _spread(call, list(operands.values()))
    if spread is not None:
        plain = {name: Value(value.name, call.stored(value)) for name, value in operands.items()}
        sizes = tuple(map(max, zip(*(value.shape for value in plain.values()), strict=True)))
        return viewed(call, _single(rule(call.given({**call.arguments, **plain}, (call.batch, *sizes)))), spread)
    first = next(iter(operands.values()))
    axes, stored = axes_of(call, first), call.stored(first)
    if not _alike(call, list(operands.values())) or (constants and axes == plain_axes(call.batch, stored)):
        # Operands that broadcast are the rule's business, as long as the batch is where rules expect it.
        replaced = {name: call.first(value) for name, value in operands.items()}
        return _single(rule(call.given({**call.arguments, **replaced}, call.result)))
    plain = {name: Value(value.name, stored) for name, value in operands.items()}
    moved = {name: _arranged(call, x, axes, stored) for name, x in constants.items()}
    result = _single(rule(call.given({**call.arguments, **plain, **moved}, (call.batch, *stored))))
    return result if axes == plain_axes(call.batch, stored) else viewed(call, result, axes)


def _single(result: Any) -> Value:
    assert isinstance(result, Value), "an operator on every number gives one result"
    return result


def _alike(call: Call, values: list[Value]) -> bool:
    return len({(axes_of(call, value), call.stored(value)) for value in values}) == 1


def _spread(call: Call, values: list[Value]) -> Axes | None:
    """The axes of what settled ``values`` broadcast to, where the batch is not first; None where it is, or none fit."""
    if _alike(call, values) or len({(len(call.stored(x)), len(axes_of(call, x))) for x in values}) > 1:
        return None
    if all(axes_of(call, value) == plain_axes(call.batch, call.stored(value)) for value in values):
        return None
    result = []
    for axis in zip(*(axes_of(call, value) for value in values), strict=True):
        longer = set(axis) - {()}
        if len(longer) > 1 or (() in axis and any(map(has_batch, longer))):
            return None
        result.append(next(iter(longer), ()))
    return tuple(result)


def _arranged(call: Call, constant: torch.Tensor, axes: Axes, stored: tuple[int, ...]) -> torch.Tensor:
    """A constant that broadcasts to torch's shape, as (1, *stored); ``axes`` are settled."""
    rows = along_factors(constant.expand(call.result), axes)
    if not bool((rows == rows[:1]).all()):
        raise Unsupported(BATCH_MOVES)
    return rows[:1].reshape(1, *stored)
