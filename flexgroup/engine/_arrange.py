"""Values of any number of axes as a kernel wants them: as they are where that will do, else in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flexgroup.engine._layout import External, Image, Vector
from flexgroup.engine._operations_tokens import GatherOp
from flexgroup.engine._values import Crop
from flexgroup.engine._view import (
    COLUMN,
    PLANE,
    Indices,
    View,
    apart,
    covers,
    holds_planes,
    holds_positions,
    in_order,
    indices,
    planes_of,
    view_of,
)
from flexgroup.graph import ir
from flexgroup.graph._factors import Axes, Axis, Factor, size_of
from flexgroup.graph.ir import Array

if TYPE_CHECKING:
    from flexgroup.engine._lower import Lowering


def view(lowering: Lowering, name: str) -> View:
    """The value ``name`` along the axes that the graph knows."""
    value = lowering.values[name]
    if isinstance(value, View):
        return value
    if isinstance(value, Crop):
        value = lowering.image(name)
    return view_of(value, lowering.graph.shapes[name])


def tokens(lowering: Lowering, name: str, planes: Sequence[int], *, in_row: bool = False) -> tuple[Image, Axes]:
    """The value with the axes ``planes`` as planes, row-major, and all other axes in its positions.

    Returns the image and its axes, those of ``planes`` empty. With ``in_row`` the positions are one row in the order of
    the axes. A copy, where it takes one, is what later readers of the value get.
    """
    seen = view(lowering, name)
    around = [axis for axis in range(len(seen.axes)) if axis not in planes]
    if not _is_arranged(seen, planes, around, in_row):
        seen = copied(lowering, name, seen, planes)
        lowering.values[name] = seen
    image = seen.source
    assert isinstance(image, Image)
    axes = tuple(() if axis in planes else factors for axis, factors in enumerate(seen.axes))
    return Image(planes_of(seen, planes), image.height, image.width), axes


def _is_arranged(seen: View, planes: Sequence[int], around: Sequence[int], in_row: bool) -> bool:
    if not covers(seen) or not all(holds_planes(seen.axes[axis]) for axis in planes):
        return False
    positions = [seen.axes[axis] for axis in around]
    if not all(map(holds_positions, positions)):
        return False
    assert isinstance(seen.source, Image)
    return not in_row or (seen.source.height == 1 and in_order(positions, 1, seen.source.width))


def is_ordinary(lowering: Lowering, *names: str) -> bool:
    """Whether all values are images or vectors as they are everywhere outside of transformers."""
    return all(
        len(lowering.graph.shapes[name]) in (1, 3) and not isinstance(lowering.values[name], View) for name in names
    )


def side_by_side(
    lowering: Lowering, node: ir.Node
) -> tuple[list[Image | Vector], Image | Vector, Image | Vector | View]:
    """The operands of ``node`` alike in planes and positions, a place for its result, and the result as a value."""
    if is_ordinary(lowering, *node.inputs):
        operands = [lowering.either(name) for name in node.inputs]
        if isinstance(operands[0], Vector):
            vector = lowering.layout.new_vector(operands[0].features)
            return operands, vector, vector
        out = lowering.new_output(node)
        lowering.layout.tie(out, *(operand for operand in operands if isinstance(operand, Image)))
        return operands, out, out
    first = spread(lowering, node.inputs[0])
    assert isinstance(first.source, Image)
    images = [first.source, *(like(lowering, name, first) for name in node.inputs[1:])]
    out = lowering.layout.new_image(len(first.source.planes), first.source.height, first.source.width)
    lowering.layout.tie(out, *images)
    return [*images], out, View(out, first.axes)


def spread(lowering: Lowering, name: str, planes: Sequence[int] = ()) -> View:
    """The value as a view that has every pixel of an image; in a copy, if one is needed, ``planes`` are the planes."""
    seen = view(lowering, name)
    if not covers(seen):
        seen = lowering.values[name] = copied(lowering, name, seen, planes or [len(seen.axes) - 1])
    return seen


def by_plane(lowering: Lowering, name: str, axis: int, scale: Array, shift: Array) -> tuple[Array, Array]:
    """Numbers for every index of ``axis`` as numbers for every plane of the value."""
    if axis == 0 and is_ordinary(lowering, name):
        return scale, shift
    equal = bool((scale == scale[0]).all() and (shift == shift[0]).all())
    seen = spread(lowering, name, () if equal else [axis])
    assert isinstance(seen.source, Image)
    count = len(seen.source.planes)
    if equal:
        return np.full(count, scale[0]), np.full(count, shift[0])
    if not holds_planes(seen.axes[axis]):
        seen = lowering.values[name] = copied(lowering, name, seen, [axis])
        count = len(scale)
    at = np.zeros(count, np.int64)
    for factor in seen.axes[axis]:
        at = at * factor.size + np.arange(count) // factor.step % factor.size
    return np.ascontiguousarray(scale[at]), np.ascontiguousarray(shift[at])


def like(lowering: Lowering, name: str, wanted: View) -> Image:
    """The value as an image whose planes and positions are those of ``wanted``."""
    seen, image = view(lowering, name), wanted.source
    assert isinstance(image, Image)
    size, alike = (image.height, image.width), seen.axes == wanted.axes and seen.start == (0, 0)
    if isinstance(seen.source, Image) and alike and (seen.source.height, seen.source.width) == size:
        return seen.source
    out = copied_like(lowering, name, seen, wanted)
    lowering.values[name] = View(out, wanted.axes)
    return out


def copied_like(lowering: Lowering, name: str, seen: View, wanted: View) -> Image:
    """A copy of ``seen``, every number where ``wanted`` has it."""
    image = wanted.source
    assert isinstance(image, Image)
    rows = [axis for axis, factors in enumerate(wanted.axes) if any(factor.axis == PLANE for factor in factors)]
    columns = [axis for axis in range(len(wanted.axes)) if axis not in rows]
    out = lowering.layout.new_image(len(image.planes), image.height, image.width)
    to_rows, to_columns = (indices([wanted.axes[axis] for axis in chosen]) for chosen in (rows, columns))
    gather(lowering, name, seen, out, rows, columns, to_rows, to_columns)
    return out


def copied(lowering: Lowering, name: str, seen: View, planes: Sequence[int], shape: tuple[int, int] = (1, 0)) -> View:
    """A copy with the axes ``planes`` as planes and the others as positions, in one row or in (height, width)."""
    around = [axis for axis in range(len(seen.axes)) if axis not in planes]
    count = int(np.prod([size_of(seen.axes[axis]) for axis in around], dtype=np.int64))
    height, width = (1, count) if not shape[1] else shape
    out = lowering.layout.new_image(int(np.prod([size_of(seen.axes[a]) for a in planes])), height, width)
    rows, columns = _row_major(len(out.planes), PLANE), _positions(count, width)
    gather(lowering, name, seen, out, planes, around, rows, columns)
    axes: list[Axis] = [()] * len(seen.axes)
    for chosen, kind in ((planes, PLANE), (around, COLUMN)):
        step = 1
        for axis in reversed(chosen):
            size = size_of(seen.axes[axis])
            axes[axis] = (Factor(kind, size, step),) if size > 1 else ()
            step *= size
    return View(out, tuple(axes))


def gather(
    lowering: Lowering,
    name: str,
    seen: View,
    target: Image | Vector | External,
    rows: Sequence[int],
    columns: Sequence[int],
    to_rows: Indices,
    to_columns: Indices,
) -> None:
    """Copy ``seen`` to ``target``: index i along the axes ``rows`` and j along ``columns`` to where the tables say."""
    from_rows = indices([seen.axes[axis] for axis in rows])
    from_columns = indices([seen.axes[axis] for axis in columns])
    from_rows = from_rows + np.array([[0], [seen.start[0]], [seen.start[1]]])
    source = seen.source
    if isinstance(source, Image) and from_rows[PLANE].any() and from_columns[PLANE].any() and not _is_even(source):
        # Planes that lie anywhere have no address that is a sum: bring them together first.
        together = lowering.layout.new_image(len(source.planes), source.height, source.width)
        lowering.append(_planes_copy(name, source, together))
        source = together
    lowering.append(GatherOp(name, source, target, from_rows, from_columns, to_rows, to_columns))


def _planes_copy(name: str, source: Image, target: Image) -> GatherOp:
    rows, columns = _row_major(len(source.planes), PLANE), _positions(source.height * source.width, source.width)
    return GatherOp(name, source, target, rows, columns, rows, columns)


def _is_even(image: Image) -> bool:
    """Whether the planes are equally far apart in one buffer."""
    buffers = {ref.buffer for ref in image.planes}
    steps = {b.index - a.index for a, b in zip(image.planes, image.planes[1:], strict=False)}
    return len(buffers) == 1 and min(buffers) >= 0 and len(steps) <= 1


def _row_major(count: int, kind: int) -> Indices:
    result = np.zeros((3, count), np.int64)
    result[kind] = np.arange(count)
    return result


def _positions(count: int, width: int) -> Indices:
    result = np.zeros((3, count), np.int64)
    result[1], result[2] = np.divmod(np.arange(count), width)
    return result


def simplified(seen: View) -> View | Image:
    """The view, or the image of (channels, height, width) that it is: a list of planes, whatever their order."""
    image = seen.source
    if len(seen.axes) != 3 or not isinstance(image, Image) or not covers(seen) or not apart(seen):
        return seen
    _, height, width = seen.shape
    alike = (image.height, image.width) == (height, width) and holds_planes(seen.axes[0])
    natural = alike and in_order(seen.axes[1:], height, width)
    return Image(planes_of(seen, [0]), height, width) if natural else seen


def to_image(lowering: Lowering, name: str, seen: View) -> Image:
    """A value of three axes as channels, height and width."""
    _, height, width = seen.shape
    image = simplified(seen)
    if isinstance(image, Image):
        return image
    result = copied(lowering, name, seen, [0], (height, width)).source
    assert isinstance(result, Image)
    return result


def to_vector(lowering: Lowering, name: str, seen: View) -> Vector:
    """A value of one axis as adjacent numbers."""
    vector = seen.source
    count = size_of(seen.axes[0])
    if isinstance(vector, Vector) and seen.start == (0, 0) and in_order(seen.axes, 1, vector.features):
        return vector
    out = lowering.layout.new_vector(count)
    rows, columns = seen.axes[0][:1], seen.axes[0][1:]
    inner = size_of(columns)
    to_rows, to_columns = _row_major(count // inner, COLUMN) * inner, _row_major(inner, COLUMN)
    gather(lowering, name, View(seen.source, (rows, columns), seen.start), out, [0], [1], to_rows, to_columns)
    return out


def to_external(lowering: Lowering, name: str, seen: View, target: External) -> None:
    """Copy a value to an array of the caller's."""
    rows = [axis for axis, factors in enumerate(seen.axes) if any(factor.axis == PLANE for factor in factors)]
    columns = [axis for axis in range(len(seen.axes)) if axis not in rows]
    placed = view_of(target, target.shape)
    to_rows, to_columns = (indices([placed.axes[axis] for axis in chosen]) for chosen in (rows, columns))
    gather(lowering, name, seen, target, rows, columns, to_rows, to_columns)
