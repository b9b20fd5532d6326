"""Copies of any numbers to any places, where they are rows that interleave: pixel shuffles, transposed convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._plan import Step
from flexgroup.kernels.interleave import InterleaveKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

Offsets = npt.NDArray[np.int64]

SHORTEST_PART = 4  # columns


def interleaving(
    builder: StepBuilder, name: str, source: int, target: int, read: list[Offsets], written: list[Offsets]
) -> Step | None:
    """The step that copies element (i, j) from ``read[0][i] + read[1][j]`` to ``written[0][i] + written[1][j]``.

    None where the numbers j are not rows of 2 or 4 parts that alternate.
    """
    size = builder.element.bytes
    for parts in (2, 4):
        columns = _columns(read[1], written[1], parts, size)
        if columns < SHORTEST_PART or len(read[1]) % (columns * parts):
            continue
        rows = len(read[1]) // (columns * parts)
        from_rows, to_rows = read[1].reshape(rows, columns, parts), written[1].reshape(rows, columns * parts)
        from_parts, starts = from_rows[:, 0], to_rows[:, 0]
        along = (from_rows == from_parts[:, None] + np.arange(columns)[:, None] * size).all()
        if not along or not (to_rows == starts[:, None] + np.arange(columns * parts) * size).all():
            continue
        fields = {
            "source": source,
            "target": target,
            "from_planes": builder.table(read[0]),
            "to_planes": builder.table(written[0]),
            "from_parts": builder.table(from_parts.reshape(-1)),
            "to_rows": builder.table(starts),
            "rows": rows,
            "columns": columns,
        }
        return builder.by_range(name, InterleaveKernel(parts, builder.element), fields, len(read[0]))
    return None


def _columns(read: Offsets, written: Offsets, parts: int, size: int) -> int:
    """How many columns of so many parts the first row has."""
    if len(read) <= parts:
        return 0
    goes_on = (read[parts:] - read[:-parts] == size) & (written[parts:] - written[parts - 1 : -1] == size)
    first = int(np.argmin(goes_on)) if not goes_on.all() else len(goes_on)
    return (parts + first) // parts
