"""Steps of a chain: band after band, every operation computes the rows that its readers need next."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from flexgroup.engine._bands import Schedule, Share, even_band, schedule
from flexgroup.engine._conv_layers import ConvLayer, conv_layer
from flexgroup.engine._layout import Image
from flexgroup.engine._operations import ConvOp, Operation, is_clean
from flexgroup.engine._plan import ARENA, Step, reference
from flexgroup.engine._rows import Rows, rows_of
from flexgroup.engine._steps_calls import Call, clearing_call, copying_call, layer_calls, layer_totals, steps_of

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder


@dataclass(frozen=True, eq=False)
class Chain:
    """Operations first..last (exclusive) of a network, run in bands of ``band`` rows of the last one's output."""

    first: int
    last: int
    operations: tuple[Operation, ...]
    windowed: tuple[bool, ...]
    band: int
    number: int = 0

    @functools.cached_property
    def typical_rows(self) -> tuple[int, ...]:
        """The most rows of its output that every operation computes in one band, on one thread."""
        (whole,) = self.schedules(1)
        rows = [0] * len(self.operations)
        for band in whole.bands:
            for share in band:
                rows[share.operation] = max(rows[share.operation], share.rows[1] - share.rows[0])
        return tuple(rows)

    @functools.cached_property
    def rows(self) -> tuple[Rows, ...]:
        found = [rows_of(operation) for operation in self.operations]
        return tuple(rows for rows in found if rows is not None)

    def schedules(self, threads: int) -> tuple[Schedule, ...]:
        """One schedule a thread: the rows of the last output in equal parts, each in bands of equal height."""
        rows, height, grain = self.rows, self.rows[-1].out.height, self.rows[-1].grain
        cuts = [height // grain * thread // threads * grain for thread in range(threads + 1)]
        schedules = []
        for first, last in pairwise(cuts):
            if first < last:
                band = even_band(rows[-1], last - first, self.band)
                schedules.append(schedule(rows, self.windowed, first, last, band))
        return tuple(schedules)

    def capacities(self, threads: int) -> dict[int, int]:
        """Rows that the window of every windowed buffer holds."""
        capacities: dict[int, int] = {}
        for each in self.schedules(threads):
            for operation, capacity in each.capacity.items():
                buffer = self.rows[operation].out.planes[0].buffer
                capacities[buffer] = max(capacities.get(buffer, 0), capacity)
        return capacities


def chain_steps(builder: StepBuilder, chain: Chain) -> list[Step]:
    """The steps of a chain. Threads work on rows of their own; they wait for each other after the last step only."""
    layers = {
        i: conv_layer(builder, operation, chain.typical_rows[i])
        for i, operation in enumerate(chain.operations)
        if isinstance(operation, ConvOp)
    }
    schedules = chain.schedules(builder.threads)
    threads = [_thread_calls(builder, chain, layers, thread, each) for thread, each in enumerate(schedules)]
    return steps_of(builder, threads, layer_totals(chain.operations, layers), chain=chain.number)


def _thread_calls(
    builder: StepBuilder, chain: Chain, layers: Mapping[int, ConvLayer], thread: int, plan: Schedule
) -> list[Call]:
    from flexgroup.engine._steps import Place

    buffers = [rows.out.planes[0].buffer for rows in chain.rows]
    calls: list[Call] = []
    for band in plan.bands:
        bases = {buffers[share.operation]: share.base for share in band if chain.windowed[share.operation]}
        place = Place(builder.layout, thread, bases)
        for share in band:
            operation, rows = chain.operations[share.operation], share.rows
            if chain.windowed[share.operation]:
                out = chain.rows[share.operation].out
                calls += _prepare(builder, thread, operation.name, out, share, clean=is_clean(operation))
            if share.is_empty:
                continue
            calls += layer_calls(builder, operation, layers.get(share.operation), rows, place)
    return calls


def _prepare(builder: StepBuilder, thread: int, name: str, image: Image, share: Share, *, clean: bool) -> list[Call]:
    """What a window needs before its new rows are computed: the rows that it keeps, and zeros around the image.

    Kernels that are not ``clean`` write pixels only, and leave the border between rows as it is.
    """
    layout, size = builder.layout, builder.element.bytes
    scratch = reference(ARENA, layout.scratch(image.planes[0].buffer, thread))
    pitch, planes = layout.pitch(image), builder.planes(image)
    calls: list[Call] = []

    def rows_at(row: int) -> list[int]:
        return [plane + row * pitch * size for plane in planes]

    if share.keep[0] < share.keep[1]:
        starts = rows_at(share.keep[0] - share.before), rows_at(share.keep[0] - share.base)
        kept = (share.keep[1] - share.keep[0]) * pitch
        calls.append(copying_call(builder, (scratch, scratch), starts, kept, name))
    lead = layout.window_lead(image)
    above = (share.top[1] - share.top[0]) * pitch
    if share.opens and not clean and layout.reads_border(image):
        above = layout.window_rows(image) * pitch
    if share.opens and lead + above:
        calls.append(clearing_call(builder, scratch, [plane - lead * size for plane in planes], lead + above, name))
    if share.bottom[0] < share.bottom[1]:
        below = (share.bottom[1] - share.bottom[0]) * pitch
        calls.append(clearing_call(builder, scratch, rows_at(share.bottom[0] - share.base), below, name))
    return calls
