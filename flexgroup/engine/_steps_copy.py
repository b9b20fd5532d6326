"""Steps of copies: rectangles between the caller's arrays, planes and vectors, and images split into stride phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flexgroup.engine._layout import External, Image, PlaneRef, Vector
from flexgroup.engine._operations import CopyOp
from flexgroup.engine._plan import ARENA, FIRST_EXTERNAL, Step, reference
from flexgroup.kernels import CopyKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import Fields, Place, StepBuilder

MOST_PARTS = 16  # vectors that are split at once: as many registers
LONGEST_ROW = 4  # vectors of a row that is copied by code without a loop


def _copy(builder: StepBuilder, op: CopyOp) -> Step:
    kernel, fields, count = copy_call(builder, op, (0, op.rows), builder.place())
    return replace(builder.by_range(op.name, kernel, fields, count), bytes=builder.bytes_of(op))


def copy_call(builder: StepBuilder, op: CopyOp, rows: tuple[int, int], place: Place) -> tuple[CopyKernel, Fields, int]:
    """The kernel, its arguments but which planes, and how many there are, for ``rows`` of the target's rectangle.

    Phases that are neighbours in a row are read once. All phases of a plane come one after another, so that it is near
    when the second is read.
    """
    sources, source_width = _planes(builder, op.source, op, op.planes)
    targets, target_width = _planes(builder, op.target, op, op.planes * len(op.starts))
    parts = op.step[1] if builder.target.triple and _are_neighbours(op) else 1
    size, written = builder.element_of(op.source).bytes, builder.element_of(op.target).bytes
    source_row, target_row = source_width * size, target_width * written
    to_corner = (op.target_start[0] * target_width + op.target_start[1]) * written
    corners = [(y * source_width + x) * size for y, x in op.starts[::parts]]
    fields = {
        "source": _reference(builder, place, op.source, rows[0] * op.step[0], source_row),
        "target": _reference(builder, place, op.target, rows[0], target_row),
        "sources": builder.table([plane + corner for plane in sources for corner in corners]),
        "targets": builder.table([plane + to_corner for i in range(op.planes) for plane in targets[i :: op.planes]]),
        "source_row": source_row * op.step[0],
        "target_row": target_row,
        "rows": rows[1] - rows[0],
        "columns": op.columns,
        "gap": target_width - op.columns if op.fills_rows else 0,
    }
    is_short = builder.target.triple and op.rows > 1 and op.columns <= LONGEST_ROW * builder.layout.lanes
    row = (fields["columns"], fields["gap"]) if is_short else (0, 0)
    ahead = bool(builder.target.triple) and op.rows > 1 and isinstance(op.source, External)
    kernel = CopyKernel(op.step[1], *builder.moving(op.source, op.target), parts, *row, ahead)
    return kernel, fields, op.planes * len(corners)


def _are_neighbours(op: CopyOp) -> bool:
    """Whether the corners are whole runs of as many columns as the step has: phases that together are whole rows."""
    parts = op.step[1]
    firsts = [start for start in op.starts[::parts] for _ in range(parts)]
    runs = [(row, column + i % parts) for i, (row, column) in enumerate(firsts)]
    return 1 < parts <= MOST_PARTS and parts.bit_count() == 1 and list(op.starts) == runs


def _reference(builder: StepBuilder, place: Place, value: Image | Vector | External, row: int, row_bytes: int) -> int:
    """What the offsets of planes are added to, if ``row`` is to be their first."""
    if isinstance(value, Image):
        return place.reference(value, row)
    if isinstance(value, Vector):
        return reference(ARENA, row * row_bytes)
    return reference(FIRST_EXTERNAL + value.port + (builder.input_count if value.output else 0), row * row_bytes)


def _planes(builder: StepBuilder, value: Image | Vector | External, op: CopyOp, count: int) -> tuple[list[int], int]:
    """Bytes to each of ``count`` planes, and elements from a row to the next."""
    if isinstance(value, Image):
        return builder.planes(value), builder.layout.pitch(value)
    size = builder.element_of(value).bytes
    if isinstance(value, External):
        height, width = value.shape[1:] if len(value.shape) == 3 else (1, value.shape[0])
        return [i * height * width * size for i in range(count)], width
    # A vector is the rectangles of a flattened image, one after another.
    first = builder.layout.offset(PlaneRef(value.buffer, 0))
    return [first + i * op.rows * op.columns * size for i in range(count)], op.columns


BUILDERS: Mapping[type, Callable[..., Step]] = {CopyOp: _copy}
