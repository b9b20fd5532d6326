"""Steps of a chain: band after band, every operation computes the rows that its readers need next."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from flexgroup.engine._bands import Schedule, Share, even_band, schedule
from flexgroup.engine._estimate import estimate
from flexgroup.engine._layout import Image
from flexgroup.engine._operations import ConvOp, CopyOp, DepthwiseOp, Operation, PoolOp
from flexgroup.engine._plan import ARENA, Step, reference
from flexgroup.engine._rows import Rows, rows_of
from flexgroup.engine._steps_conv import ConvLayer, conv_call, conv_layer
from flexgroup.engine._steps_depthwise import REASON, depthwise_call, depthwise_macs
from flexgroup.engine._steps_other import copy_call, pool_call
from flexgroup.engine._winograd import TRANSFORMED, block_calls
from flexgroup.engine._work import MoveWork
from flexgroup.kernels import CopyKernel, FillKernel, KernelSpec

if TYPE_CHECKING:
    from flexgroup.engine._steps import Place, StepBuilder


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


@dataclass(frozen=True)
class Call:
    """One call of a kernel: its arguments, and what is said of it."""

    kernel: KernelSpec
    arguments: tuple[int, ...]
    name: str  # the layer's
    macs: int = 0
    bytes: int = 0
    slots: float = 0.0


def chain_steps(builder: StepBuilder, chain: Chain) -> list[Step]:
    """The steps of a chain. Threads work on rows of their own; they wait for each other after the last step only."""
    layers = {
        i: conv_layer(builder, operation, chain.typical_rows[i])
        for i, operation in enumerate(chain.operations)
        if isinstance(operation, ConvOp)
    }
    schedules = chain.schedules(builder.threads)
    threads = [_thread_calls(builder, chain, layers, thread, each) for thread, each in enumerate(schedules)]
    steps: list[Step] = []
    totals = _totals(chain, layers)
    reasons = {name: reason for name, (_, _, reason) in totals.items()}
    shares = {conv.op.name: conv.shares for conv in layers.values()}
    for calls in zip_longest(*threads):
        by_kernel: dict[KernelSpec, list[Call | None]] = {}
        for thread, call in enumerate(calls):
            if call is not None:
                by_kernel.setdefault(call.kernel, [None] * builder.threads)[thread] = call
        for kernel, parts in by_kernel.items():
            done = [call for call in parts if call is not None]
            name, macs = done[0].name, sum(call.macs for call in done)
            # A layer's own numbers are noted at the first step that multiplies for it.
            useful, dense, _ = totals.pop(name, (0, 0, "")) if macs else (0, 0, "")
            steps.append(
                Step(
                    name,
                    kernel,
                    tuple(None if call is None else call.arguments for call in parts),
                    macs,
                    useful,
                    dense,
                    reasons.get(name, ""),
                    bytes=sum(call.bytes for call in done),
                    barrier=False,
                    slots=sum(call.slots for call in done),
                    chain=chain.number,
                    shares=shares.get(name, ()),
                )
            )
    return steps


def _totals(chain: Chain, layers: Mapping[int, ConvLayer]) -> dict[str, tuple[int, int, str]]:
    """By layer: multiply-accumulates of weights that are not zero and of all weights, and why it runs as it does."""
    totals: dict[str, tuple[int, int, str]] = {}
    for i, operation in enumerate(chain.operations):
        if isinstance(operation, ConvOp):
            pixels, conv = operation.out.height * operation.out.width, layers[i]
            reason = TRANSFORMED if operation.is_transformed else conv.choice.reason
            totals[operation.name] = (conv.useful_macs * pixels, conv.dense_macs * pixels, reason)
        elif isinstance(operation, DepthwiseOp) and operation.is_layer:
            totals[operation.name] = (*depthwise_macs(operation, operation.out.height), REASON)
    return totals


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
                out, clean = chain.rows[share.operation].out, not isinstance(operation, CopyOp)
                calls += _prepare(builder, thread, operation.name, out, share, clean=clean)
            if share.is_empty:
                continue
            conv = layers.get(share.operation)
            if isinstance(operation, ConvOp) and conv is not None:
                made = _conv_calls(builder, conv, rows, place)
            else:
                made = [_plain_call(builder, operation, rows, place)]
            found = estimate(builder, operation, rows[1] - rows[0], conv=conv)
            slots = found.slots(builder.costs) if found is not None else 0.0
            made[-1] = replace(made[-1], bytes=builder.bytes_of(operation, rows))
            calls += [replace(call, slots=slots / len(made)) for call in made]
    return calls


def _conv_calls(builder: StepBuilder, conv: ConvLayer, rows: tuple[int, int], place: Place) -> list[Call]:
    """The call of a convolution, or those of its blocks of rows."""
    op = conv.op
    made = block_calls(builder, op, rows, place) if op.is_transformed else [conv_call(builder, conv, rows, place)]
    return [Call(kernel, arguments, op.name, macs) for kernel, arguments, macs in made]


def _plain_call(builder: StepBuilder, operation: Operation, rows: tuple[int, int], place: Place) -> Call:
    """The call of an operation that treats its planes one by one: all of them."""
    kernel: KernelSpec
    macs = 0
    if isinstance(operation, DepthwiseOp):
        kernel, fields = depthwise_call(builder, operation, rows, place)
        planes, height = len(operation.out.planes), rows[1] - rows[0]
        macs = depthwise_macs(operation, height)[1]
    elif isinstance(operation, PoolOp):
        kernel, fields = pool_call(builder, operation, rows, place)
        planes = len(operation.out.planes)
    else:
        assert isinstance(operation, CopyOp), "rows_of knows no other"
        kernel, fields = copy_call(builder, operation, rows, place)
        planes = operation.planes * len(operation.starts)
    arguments = tuple(kernel.signature.pack(fields | {"first": 0, "last": planes}))
    return Call(kernel, arguments, operation.name, macs)


def _moving(builder: StepBuilder, planes: int, elements: int) -> float:
    """Slots of a call that copies or fills so many elements of every plane."""
    work = MoveWork(planes, planes * -(-elements // builder.layout.lanes))
    return work.slots(builder.costs) + builder.costs.call


def _prepare(builder: StepBuilder, thread: int, name: str, image: Image, share: Share, *, clean: bool) -> list[Call]:
    """What a window needs before its new rows are computed: the rows that it keeps, and zeros around the image.

    Kernels that are not ``clean`` write pixels only, and leave the border between rows as it is.
    """
    layout, size = builder.layout, builder.element.bytes
    scratch = reference(ARENA, layout.scratch(image.planes[0].buffer, thread))
    pitch, planes = layout.pitch(image), builder.planes(image)
    calls: list[Call] = []

    def rows_at(row: int) -> int:
        return row * pitch * size

    def fill(start: int, elements: int) -> None:
        fields = {
            "targets": builder.table([plane + start for plane in planes]),
            "target": scratch,
            "vectors": -(-elements // layout.lanes),
            "first": 0,
            "last": len(planes),
        }
        kernel = FillKernel(builder.element)
        filled, slots = elements * size * len(planes), _moving(builder, len(planes), elements)
        calls.append(Call(kernel, tuple(kernel.signature.pack(fields)), name, bytes=filled, slots=slots))

    if share.keep[0] < share.keep[1]:
        copy = CopyKernel(1, builder.element)
        fields = {
            "source": scratch,
            "target": scratch,
            "sources": builder.table([plane + rows_at(share.keep[0] - share.before) for plane in planes]),
            "targets": builder.table([plane + rows_at(share.keep[0] - share.base) for plane in planes]),
            "source_row": 0,
            "target_row": 0,
            "rows": 1,
            "columns": (share.keep[1] - share.keep[0]) * pitch,
            "first": 0,
            "last": len(planes),
        }
        kept = (share.keep[1] - share.keep[0]) * pitch
        moved, slots = 2 * kept * size * len(planes), _moving(builder, len(planes), kept)
        calls.append(Call(copy, tuple(copy.signature.pack(fields)), name, bytes=moved, slots=slots))
    lead = layout.window_lead(image)
    above = (share.top[1] - share.top[0]) * pitch
    if share.opens and not clean and layout.reads_border(image):
        above = layout.window_rows(image) * pitch
    if share.opens and lead + above:
        fill(-lead * size, lead + above)
    if share.bottom[0] < share.bottom[1]:
        fill(rows_at(share.bottom[0] - share.base), (share.bottom[1] - share.bottom[0]) * pitch)
    return calls
