"""Steps of a region: every operation for the rows of each thread, and the exchange of halos between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flexgroup.engine._conv_layers import conv_layer
from flexgroup.engine._operations import ConvOp, is_clean
from flexgroup.engine._plan import ARENA, HALO, Step, reference
from flexgroup.engine._regions import Region, cuts
from flexgroup.engine._steps_calls import Call, clearing_call, copying_call, layer_calls, layer_totals, steps_of

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

MOST_VECTORS = 64  # of a plane that are copied by code without a loop


def region_steps(builder: StepBuilder, region: Region, clears: Callable[[int], list[Step]]) -> list[Step]:
    """The steps of a region. Threads wait for each other where one reads what another wrote, and at the end.

    ``clears`` gives those that have to come before an operation, and be done.
    """
    from flexgroup.engine._steps import Place

    layout, threads = builder.layout, range(region.threads)
    places = [
        Place(layout, thread, {b: cuts(layout.buffers[b].height, region.threads)[thread] for b in region.divided})
        for thread in threads
    ]
    begun: set[int] = set()
    steps: list[Step] = []
    for index, (operation, rows) in enumerate(zip(region.operations, region.rows, strict=True)):
        steps += clears(region.first + index)
        conv = conv_layer(builder, operation, rows.out.height) if isinstance(operation, ConvOp) else None
        fresh = sorted((rows.out.buffers & region.divided) - begun)
        begun |= set(fresh)
        calls: list[list[Call]] = []
        for thread in threads:
            mine = [call for buffer in fresh for call in _clearing(builder, region, buffer, thread, operation.name)]
            computed = region.computed(layout, rows.out, thread)
            if computed[0] < computed[1]:
                mine += layer_calls(builder, operation, conv, computed, places[thread])
            calls.append(mine)
        totals = layer_totals([operation], {} if conv is None else {0: conv})
        made = steps_of(builder, calls, totals, region=region.first)
        if index in region.waits:
            made[-1] = replace(made[-1], barrier=True)
        steps += made
        for buffer in region.exchanged(index):
            copies = [list(_exchange(builder, region, buffer, thread, operation.name)) for thread in threads]
            steps += steps_of(builder, copies, {}, region=region.first)
            steps[-1] = replace(steps[-1], barrier=True)  # what was copied may be written again
    return steps


def _clearing(builder: StepBuilder, region: Region, buffer: int, thread: int, name: str) -> Iterator[Call]:
    """Zeros around a thread's rows of a divided buffer, where somebody looks, before it is written first.

    What takes its place later finds them there.
    """
    layout, size = builder.layout, builder.element.bytes
    same_place = [each for each in region.divided if layout.first_in_place(each) == buffer]
    if not any(map(layout.looks_around, same_place)):
        return
    info = layout.buffers[buffer]
    above, below = layout.halo(buffer)
    pitch, lanes = layout.geometry(buffer).pitch, layout.lanes
    first, last = cuts(info.height, region.threads)[thread : thread + 2]
    lead = layout.lead_bytes(buffer) // size
    planes = [layout.offset(ref) for ref in layout.planes_of(buffer)]

    def fill(starts: Sequence[int], elements: int) -> Call:
        return clearing_call(builder, reference(ARENA, layout.scratch(buffer, thread)), starts, elements, name)

    begin = -above * pitch - lead
    writers = [op for op, rows in zip(region.operations, region.rows, strict=True) if buffer in rows.out.buffers]
    clean = all(map(is_clean, writers)) or info.width == pitch
    if not info.is_whole or (not clean and pitch < lanes):
        yield fill([plane + begin * size for plane in planes], (last - first + below) * pitch - begin)
        return
    before = -begin if first < above else lead
    if before:
        yield fill([plane + begin * size for plane in planes], before)
    if last + below > info.height:
        yield fill([plane + (last - first) * pitch * size for plane in planes], below * pitch)
    if not clean:
        gap = -(-(pitch - info.width) // lanes) * lanes
        more = region.halos[buffer] if buffer in region.repeated else (0, 0)
        rows = range(-min(more[0], first), min(last + more[1], info.height) - first)
        ends = [plane + ((row + 1) * pitch - gap) * size for plane in planes for row in rows]
        yield fill(ends, pitch - info.width)


def _exchange(builder: StepBuilder, region: Region, buffer: int, thread: int, name: str) -> Iterator[Call]:
    """What a thread copies of its neighbours' rows of a divided buffer."""
    layout, size = builder.layout, builder.element.bytes
    height, (above, below) = layout.buffers[buffer].height, region.halos[buffer]
    pitch, own = layout.geometry(buffer).pitch, cuts(height, region.threads)
    first, last = own[thread : thread + 2]
    planes = [layout.offset(ref) for ref in layout.planes_of(buffer)]
    for owner in range(region.threads):
        bases = (reference(ARENA, layout.scratch(buffer, owner)), reference(ARENA, layout.scratch(buffer, thread)))
        for side in ((max(0, first - above), first), (last, min(last + below, height))):
            low, high = max(side[0], own[owner]), min(side[1], own[owner + 1])
            if owner == thread or low >= high:
                continue
            elements, is_above = (high - low) * pitch, low < first
            more = -elements % layout.lanes
            # Rounded up to whole vectors, where nothing that is looked at lies beyond the rows: below them nobody
            # looks, above them is the gap of the row before, if that is there, or zeros.
            spare = (low, high) == side and (not is_above or low == 0 or low > own[owner])
            whole = (more == 0 or spare) and elements <= MOST_VECTORS * layout.lanes
            begin = low * pitch - (more if whole and is_above else 0)
            starts = [[plane + (begin - row * pitch) * size for plane in planes] for row in (own[owner], first)]
            yield copying_call(builder, bases, (starts[0], starts[1]), elements, name + HALO, whole=whole)
