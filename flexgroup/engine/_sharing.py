"""Which images may take over any memory, whoever had it before, and what has to be zero again before they are written.

Borders are zeroed once where a buffer takes over memory of its own layout only. That wastes memory: so images that
known kernels write and read lie anywhere, and before their producer runs a step clears what it leaves out and somebody
relies on: the positions after a plane's last row, which are the border before the next plane's first, and, where the
producer writes pixels only, the gaps between rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flexgroup.engine._layout import Layout
from flexgroup.engine._operations import (
    ConvOp,
    CopyOp,
    DepthwiseOp,
    ElementwiseOp,
    MeanOp,
    Operation,
    PoolOp,
    buffers_of,
    is_clean,
)
from flexgroup.engine._plan import ARENA, Step, reference
from flexgroup.engine._rows import rows_of
from flexgroup.engine._work import MoveWork
from flexgroup.kernels import FillKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder
    from flexgroup.engine._steps_chain import Chain

# They read nothing that is not there; what else than pixels and their borders they read does not matter.
_KNOWN = (ConvOp, CopyOp, DepthwiseOp, ElementwiseOp, MeanOp, PoolOp)


@dataclass(frozen=True)
class Needs:
    """What of an image has to be zero: ``borders``, and between its rows too, unless its producers see to it."""

    borders: bool
    gaps: bool


def sharing(layout: Layout, operations: Sequence[Operation], chains: Sequence[Chain]) -> dict[int, Needs]:
    """The buffers that may share memory with any other, once pitches are decided."""
    ahead = _read_ahead(layout, chains)
    found: dict[int, Needs] = {}
    unknown: set[int] = set()
    for operation in operations:
        mapped = rows_of(operation)
        written = mapped.out.buffers if mapped is not None else frozenset[int]()
        for index in buffers_of(operation):
            if index < 0 or not layout.buffers[index].height or not isinstance(operation, _KNOWN):
                unknown.add(index)
                continue
            before = found.get(index, Needs(layout.looks_around(index), False))
            careless = index in written and (index in ahead or not _writes_gaps(layout, operation))
            found[index] = replace(before, gaps=before.gaps or careless)
    return {index: needs for index, needs in found.items() if index not in unknown}


def ragged(layout: Layout, shared: Mapping[int, Needs]) -> set[int]:
    """The buffers of which nobody cares what lies beside the pixels, nor of those that have the same place."""
    return {
        index for index in shared if layout.buffers[index].is_whole and not shared[layout.first_in_place(index)].borders
    }


def _read_ahead(layout: Layout, chains: Sequence[Chain]) -> set[int]:
    """Whole images that are read before all of their rows are there: a thread that begins in the middle of one looks
    at the gap before its first row, which is another thread's."""
    if layout.threads == 1:
        return set()
    found: set[int] = set()
    for chain in chains:
        read = {buffer for rows in chain.rows for use in rows.uses for buffer in use.image.buffers}
        found |= {buffer for rows in chain.rows for buffer in rows.out.buffers} & read
    return found


def _writes_gaps(layout: Layout, operation: Operation) -> bool:
    """Whether zeros are written between the rows of the output."""
    if isinstance(operation, DepthwiseOp):
        # Rows that fill a vector are written up to the image's edge.
        return operation.out.width < layout.lanes
    return is_clean(operation)


def clearing(builder: StepBuilder, index: int, needs: Needs, name: str) -> Step | None:
    """The step that clears what has to be zero of a buffer that takes over memory; None if nothing has.

    Pixels that no step writes are zero for every reader: where there are any, all of the buffer is cleared.
    """
    layout, width = builder.layout, builder.layout.lanes * builder.element.bytes
    buffer, size = layout.buffers[index], layout.plane_bytes(index)
    whole = buffer.is_whole
    if whole and not needs.borders:
        return None
    pitch, element = layout.geometry(index).pitch, layout.element_bytes
    row, rows = pitch * element, buffer.height
    gap = (pitch - buffer.width) * element if needs.gaps else 0
    starts = [buffer.offset + plane * size for plane in range(buffer.channels)]
    after = layout.border_bytes(index)
    if not whole or (needs.gaps and (row < width or (gap and 2 * rows * -(-gap // width) * width > size))):
        runs = [(starts, size), ([buffer.offset - after], after)]
    else:
        runs = [([start + size - after for start in [buffer.offset - size, *starts]], after)]
        if gap:
            runs.append(
                ([start + (y + 1) * row - -(-gap // width) * width for start in starts for y in range(rows)], gap)
            )
    runs = [(run, length) for run, length in runs if length]
    if not runs:
        return None
    # One call clears as many vectors everywhere: longer runs are cut.
    shortest = min(-(-length // width) for _, length in runs)
    places = sorted(
        start + part * width for run, length in runs for start in run for part in _parts(-(-length // width), shortest)
    )
    kernel = FillKernel(builder.element)
    fields = {"targets": builder.table(places), "target": reference(ARENA, 0), "vectors": shortest}
    step = builder.by_range(name, kernel, fields, len(places))
    work = MoveWork(len(places), len(places) * shortest)
    moved = len(places) * shortest * width
    return replace(step, bytes=moved, slots=work.slots(builder.costs) + builder.costs.call)


def _parts(vectors: int, most: int) -> list[int]:
    """Where pieces of ``most`` vectors begin that cover ``vectors``, the last overlapping the one before."""
    return [min(start, vectors - most) for start in range(0, vectors, most)]
