"""Views of activations: reshapes, permutations and slices in torch's words, batch included.

Modules move the batch around: `nn.MultiheadAttention` puts it behind the tokens, and folds it into the heads. Nothing
is computed for any of this. A `Value` notes its axes in factors; only where an operator needs the numbers in torch's
order do `Reshape` and `Permute` nodes come into the graph, which knows no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flexgroup.graph import ir
from flexgroup.graph._factors import Axes, Axis, Factor, merged, regrouped, size_of, whole
from flexgroup.graph._validate import Shape
from flexgroup.graph._value import BATCH, BATCH_MOVES, Unsupported, Value

if TYPE_CHECKING:
    import torch

    from flexgroup.graph._call import Call

_UNCUT = frozenset({BATCH})


def plain_axes(batch: int, stored: Shape) -> Axes:
    """The axes of a stored value with the batch before them."""
    return (*whole((batch,), BATCH), *whole(stored))


def axes_of(call: Call, value: Value) -> Axes:
    """The axes of ``value`` as torch sees it, the batch included, in factors of the stored axes."""
    if value.axes is not None:
        return value.axes
    plain = plain_axes(call.batch, call.stored(value))
    if value.shape == call.stored(value):
        return plain
    axes = regrouped(plain, (call.batch, *value.shape), _UNCUT)
    assert axes is not None, "a value without axes is a view that cuts them evenly"
    return axes


def along_factors(constant: torch.Tensor, axes: Axes) -> torch.Tensor:
    """``constant``, of torch's shape, with an axis for each factor of ``axes``; first the batch, or one image."""
    factors = [factor for axis in axes for factor in axis]
    apart = constant.reshape([factor.size for factor in factors])
    batch = next((i for i, factor in enumerate(factors) if factor.axis == BATCH), None)
    return apart[None] if batch is None else apart.movedim(batch, 0)


def has_batch(axis: Axis) -> bool:
    return any(factor.axis == BATCH for factor in axis)


def viewed(call: Call, value: Value, axes: Axes) -> Value:
    """The numbers of ``value`` seen along ``axes``."""
    return Value(value.name, tuple(map(size_of, axes[1:])), axes)


def reshape(call: Call, value: Value, shape: Shape) -> Value:
    """``value`` as torch's ``shape``, batch included."""
    axes = regrouped(axes_of(call, value), shape, _UNCUT)
    if axes is not None:
        return viewed(call, value, axes)
    if shape[0] != call.batch:
        raise Unsupported(BATCH_MOVES)
    return call.emit(ir.Reshape(shape[1:]), call.first(settle(call, value)), kind="reshape")


def permute(call: Call, value: Value, order: Sequence[int]) -> Value:
    """``value`` with torch's axes in another order."""
    axes = axes_of(call, value)
    return viewed(call, value, tuple(axes[i] for i in order))


def cut(call: Call, value: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """``start:stop:step`` along torch's axis ``dim``."""
    axes = axes_of(call, value)
    axis = axes[dim]
    if (start, stop, step) == (0, size_of(axis), 1):
        return value
    if has_batch(axis):
        raise Unsupported("it slices the first axis, which is the batch; slice the batch outside of the model")
    if not axis or stop <= start:
        raise Unsupported("its result is empty")
    stored = call.stored(value)
    outermost = len(axis) == 1 and axis[0].size * axis[0].step == stored[axis[0].axis]
    if not outermost or (step > 1 and axis[0].step > 1):
        return cut(call, settle(call, value), dim, start, stop, step)
    factor = axis[0]
    op = ir.Slice(factor.axis, start * factor.step, stop * factor.step, step)
    part = call.emit(op, Value(value.name, stored))
    count = len(range(start, stop, step))
    left = (Factor(factor.axis, count, factor.step),) if count > 1 else ()
    return viewed(call, part, (*axes[:dim], left, *axes[dim + 1 :]))


def settle(call: Call, value: Value) -> Value:
    """``value`` with its numbers in torch's order: one stored axis for every axis of torch, the batch left out.

    An axis into which the batch was folded keeps one stored axis for what comes before the batch, one for what comes
    after.
    """
    axes, stored = axes_of(call, value), call.stored(value)
    shape, after = _settled(axes, call.batch)
    factors = [factor for axis in axes for factor in axis if factor.axis != BATCH]
    inner = sorted(factors, key=lambda factor: (factor.axis, -factor.step))
    now = Value(value.name, stored)
    if factors != inner:
        apart = tuple(factor.size for factor in inner)
        if stored != apart:
            now = call.emit(ir.Reshape(apart), now, kind="reshape")
        now = call.emit(ir.Permute(tuple(inner.index(factor) for factor in factors)), now, kind="permute")
    if call.stored(now) != shape:
        flat = len(shape) == 1
        now = call.emit(ir.Flatten() if flat else ir.Reshape(shape), now, kind="flatten" if flat else "reshape")
    return now if after == plain_axes(call.batch, shape) else viewed(call, now, after)


def stored_axis(call: Call, value: Value, dim: int) -> int:
    """The stored axis that torch's axis ``dim`` of a settled ``value`` is; the batch must not be in it."""
    axes = axes_of(call, value)
    if has_batch(axes[dim]) or (call.batch == 1 and not axes[dim] and not any(axes[:dim])):
        raise Unsupported(BATCH_MOVES)
    shape, _ = _settled(axes[:dim], call.batch)
    if len(shape) == len(call.stored(value)):  # an axis of size one before it is not the batch, which has size one too
        raise Unsupported(BATCH_MOVES)
    return len(shape)


def _settled(axes: Axes, batch: int) -> tuple[Shape, Axes]:
    """What `settle` makes of ``axes``: the stored shape, and torch's axes in factors of it."""
    alone = next((i for i, axis in enumerate(axes) if not axis), None) if batch == 1 else None
    shape: list[int] = []
    after: list[Axis] = []
    for position, axis in enumerate(axes):
        parts: list[Factor] = []
        runs = _runs(axis)
        if not runs and position != alone:
            shape.append(1)
        for run in runs:
            if run[0].axis == BATCH:
                parts += run
            else:
                parts.append(Factor(len(shape), size_of(run), 1))
                shape.append(size_of(run))
        after.append(tuple(parts))
    return tuple(shape), tuple(after)


def _runs(axis: Axis) -> list[list[Factor]]:
    """The factors of one axis, cut before and after the batch."""
    runs: list[list[Factor]] = []
    for factor in merged(axis):
        if runs and BATCH not in (factor.axis, runs[-1][-1].axis):
            runs[-1].append(factor)
        else:
            runs.append([factor])
    return runs
