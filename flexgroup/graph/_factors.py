"""Axes in factors: what permuting, reshaping and slicing make of an array that nobody has touched yet.

A stored array has axes. A view of it has axes too, and each of those counts through *factors* of stored axes: a factor
``(axis, size, step)`` adds ``step * i`` to the index along stored axis ``axis``, for i in 0..size-1. Query, key and
value that one linear layer computes, ``(tokens, 3 * heads * d)`` seen as ``(3, heads, tokens, d)``, are the factors
``(1, 3, heads * d)``, ``(1, heads, d)``, ``(0, tokens, 1)``, ``(1, d, 1)``: the numbers stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Factor:
    """``size`` indices along stored axis ``axis``, ``step`` apart; ``size`` is never 1."""

    axis: int
    size: int
    step: int


Axis: TypeAlias = tuple[Factor, ...]  # outermost first; () is an axis of size 1
Axes: TypeAlias = tuple[Axis, ...]


def size_of(axis: Iterable[Factor]) -> int:
    """How many indices an axis has."""
    return math.prod(factor.size for factor in axis)


def whole(shape: Sequence[int], first: int = 0) -> Axes:
    """The axes of a stored array as they are; stored axes are numbered from ``first``."""
    return tuple((Factor(first + i, size, 1),) if size != 1 else () for i, size in enumerate(shape))


def merged(factors: Iterable[Factor]) -> Axis:
    """Neighbours that count on in one another become one factor."""
    result: list[Factor] = []
    for factor in factors:
        last = result[-1] if result else None
        if last is not None and last.axis == factor.axis and last.step == factor.size * factor.step:
            result[-1] = Factor(factor.axis, last.size * factor.size, factor.step)
        else:
            result.append(factor)
    return tuple(result)


def regrouped(axes: Axes, shape: Sequence[int], whole_axes: frozenset[int] = frozenset()) -> Axes | None:
    """The axes after a reshape to ``shape``; None where it does not cut the factors evenly.

    Factors of the stored axes ``whole_axes`` are never cut.
    """
    left = list(reversed(merged(factor for axis in axes for factor in axis)))
    result: list[Axis] = []
    for size in shape:
        need, axis = size, []
        while need > 1:
            if not left:
                return None
            factor = left.pop()
            if need % factor.size == 0:
                axis.append(factor)
                need //= factor.size
            elif factor.size % need == 0 and factor.axis not in whole_axes:
                inner = factor.size // need
                axis.append(Factor(factor.axis, need, factor.step * inner))
                left.append(Factor(factor.axis, inner, factor.step))
                need = 1
            else:
                return None
        result.append(merged(axis))
    return None if left else tuple(result)
