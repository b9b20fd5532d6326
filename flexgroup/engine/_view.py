"""Values of any number of axes, on planes: what every axis counts, and the copy where that will not do.

A value (tokens, features) lives in an `Image` whose planes are the features and whose positions are the tokens. Query,
key and value of one linear layer, cut into heads, are lists of planes; so are permutations that keep the positions
whole. A `View` notes which factors of planes, rows and columns an axis counts through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup.engine._layout import External, Image, PlaneRef, Vector
from flexgroup.graph._factors import Axes, Axis, Factor, merged, size_of, whole
from flexgroup.graph.ir import Array

PLANE, ROW, COLUMN = 0, 1, 2

Indices: TypeAlias = npt.NDArray[np.int64]  # (3, n): plane, row and column of n elements


@dataclass(frozen=True, eq=False)
class Held:
    """Numbers that the plan itself holds, as one row."""

    array: Array


Source: TypeAlias = Image | Vector | External | Held


@dataclass(frozen=True)
class View:
    """Numbers of ``source`` along ``axes``, from its row and column ``start`` on.

    What is not an image is one plane of one row.
    """

    source: Source
    axes: Axes
    start: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(size_of, self.axes))


def view_of(source: Source, shape: Sequence[int]) -> View:
    """The view of a whole value: an image (channels, height, width), or anything else in row-major order."""
    if isinstance(source, Image):
        return View(source, whole(shape))
    axes, step = [], int(np.prod(shape))
    for size in shape:
        step //= size
        axes.append((Factor(COLUMN, size, step),) if size != 1 else ())
    return View(source, tuple(axes))


def indices(axes: Sequence[Axis]) -> Indices:
    """Plane, row and column of every index of ``axes``, row-major, before the view's start is added."""
    factors = [factor for axis in axes for factor in axis]
    result = np.zeros((3, 1), np.int64)
    for factor in factors:
        steps = np.zeros((3, factor.size), np.int64)
        steps[factor.axis] = np.arange(factor.size) * factor.step
        result = (result[:, :, None] + steps[:, None, :]).reshape(3, -1)
    return result


def holds_planes(axis: Axis) -> bool:
    """Whether the axis counts planes, and nothing else."""
    return all(factor.axis == PLANE for factor in axis)


def holds_positions(axis: Axis) -> bool:
    """Whether the axis counts rows and columns only."""
    return all(factor.axis != PLANE for factor in axis)


def covers(view: View) -> bool:
    """Whether the view has every pixel of an image, and so may be computed with position by position."""
    image = view.source
    if not isinstance(image, Image) or view.start != (0, 0):
        return False
    sizes = [1, 1, 1]
    for factor in (factor for axis in view.axes for factor in axis):
        sizes[factor.axis] *= factor.size
    return sizes == [len(image.planes), image.height, image.width]


def apart(view: View) -> bool:
    """Whether every axis counts either planes or positions."""
    return all(holds_planes(axis) or holds_positions(axis) for axis in view.axes)


def planes_of(view: View, axes: Sequence[int]) -> tuple[PlaneRef, ...]:
    """The planes that ``axes``, which hold nothing else, count through, row-major."""
    assert isinstance(view.source, Image)
    return tuple(view.source.planes[i] for i in indices([view.axes[axis] for axis in axes])[PLANE])


def in_order(axes: Sequence[Axis], height: int, width: int) -> bool:
    """Whether ``axes`` count all positions of a ``height x width`` image row by row."""
    wanted = [factor for axis in whole((height, width), ROW) for factor in axis]
    return list(merged(factor for axis in axes for factor in axis)) == wanted


def sliced(view: View, axis: int, start: int, stop: int, step: int) -> View | None:
    """``start:stop:step`` along one axis of a view; None where that is no view of the same planes."""
    factors = view.axes[axis]
    count = len(range(start, stop, step))
    if len(factors) == 1 and factors[0].axis != PLANE:
        (factor,) = factors
        left = (Factor(factor.axis, count, factor.step * step),) if count > 1 else ()
        row, column = view.start
        begin = start * factor.step
        moved = (row + begin, column) if factor.axis == ROW else (row, column + begin)
        return View(view.source, (*view.axes[:axis], left, *view.axes[axis + 1 :]), moved)
    if not (isinstance(view.source, Image) and holds_planes(factors)):
        return None
    # All planes in the order of the axes, of which some are left out.
    counted = [tuple(factor for factor in each if factor.axis == PLANE) for each in view.axes]
    numbers = indices(counted)[PLANE].reshape([size_of(each) for each in counted])
    index: list[Any] = [slice(None)] * len(counted)
    index[axis] = slice(start, stop, step)
    chosen = numbers[tuple(index)]
    planes = tuple(view.source.planes[i] for i in chosen.reshape(-1))
    steps = np.cumprod([1, *reversed(chosen.shape)])[-2::-1]
    axes: list[Axis] = []
    for i, each in enumerate(view.axes):
        if i == axis:
            axes.append((Factor(PLANE, count, int(steps[i])),) if count > 1 else ())
        else:
            axes.append(_renumbered(each, int(steps[i])))
    return View(Image(planes, view.source.height, view.source.width), tuple(axes), view.start)


def _renumbered(axis: Axis, step: int) -> Axis:
    """The axis with its planes numbered from the innermost out, ``step`` apart."""
    result: list[Factor] = []
    for factor in reversed(axis):
        if factor.axis == PLANE:
            result.append(Factor(PLANE, factor.size, step))
            step *= factor.size
        else:
            result.append(factor)
    return merged(reversed(result))
