"""Copies of any numbers to any places, where they are rows that interleave: pixel shuffles, transposed convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._plan import Step
from flexgroup.kernels.interleave import InterleaveKernel
from flexgroup.kernels.target import Element

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

Offsets = npt.NDArray[np.int64]

SHORTEST_PART = 4  # columns


def interleaving(
    builder: StepBuilder,
    name: str,
    places: tuple[int, int],
    read: list[Offsets],
    written: list[Offsets],
    elements: tuple[Element, Element | None],
) -> Step | None:
    """The step that copies element (i, j) from ``read[0][i] + read[1][j]`` to ``written[0][i] + written[1][j]``.

    None where the numbers j are not rows of 2 or 4 parts that alternate.
    """
    sizes = (elements[0].bytes, (elements[1] or elements[0]).bytes)
    for parts in (2, 4):
        columns = _columns(read[1], written[1], parts, sizes)
        if columns < SHORTEST_PART or len(read[1]) % (columns * parts):
            continue
        rows = len(read[1]) // (columns * parts)
        from_rows, to_rows = read[1].reshape(rows, columns, parts), written[1].reshape(rows, columns * parts)
        from_parts, starts = from_rows[:, 0], to_rows[:, 0]
        along = (from_rows == from_parts[:, None] + np.arange(columns)[:, None] * sizes[0]).all()
        if not along or not (to_rows == starts[:, None] + np.arange(columns * parts) * sizes[1]).all():
            continue
        fields = {
            "source": places[0],
            "target": places[1],
            "from_planes": builder.table(read[0]),
            "to_planes": builder.table(written[0]),
            "from_parts": builder.table(from_parts.reshape(-1)),
            "to_rows": builder.table(starts),
            "rows": rows,
            "columns": columns,
        }
        return builder.by_range(name, InterleaveKernel(parts, *elements), fields, len(read[0]))
    return None


def _columns(read: Offsets, written: Offsets, parts: int, sizes: tuple[int, int]) -> int:
    """How many columns of so many parts the first row has."""
    if len(read) <= parts:
        return 0
    goes_on = (read[parts:] - read[:-parts] == sizes[0]) & (written[parts:] - written[parts - 1 : -1] == sizes[1])
    first = int(np.argmin(goes_on)) if not goes_on.all() else len(goes_on)
    return (parts + first) // parts
