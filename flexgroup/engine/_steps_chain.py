"""Steps of a chain: band after band, every operation computes the rows that its readers need next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any

from flexgroup.engine._bands import Schedule, Share, schedule
from flexgroup.engine._layout import Image
from flexgroup.engine._operations import ConvOp, CopyOp, DepthwiseOp, Operation, PoolOp
from flexgroup.engine._plan import ARENA, Step, reference
from flexgroup.engine._rows import Rows, rows_of
from flexgroup.engine._steps_conv import conv_call, conv_layer
from flexgroup.engine._steps_depthwise import depthwise_call, depthwise_slots
from flexgroup.engine._steps_other import copy_call, pool_call
from flexgroup.kernels import CopyKernel, FillKernel, KernelSpec

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
        rows, height = self.rows, self.rows[-1].out.height
        cuts = [height * thread // threads for thread in range(threads + 1)]
        schedules = []
        for first, last in pairwise(cuts):
            if first < last:
                bands = -(-(last - first) // self.band)
                schedules.append(schedule(rows, self.windowed, first, last, -(-(last - first) // bands)))
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
    threads = [
        _thread_calls(builder, chain, thread, each) for thread, each in enumerate(chain.schedules(builder.threads))
    ]
    steps: list[Step] = []
    useful, dense, reasons = _totals(builder, chain)
    for calls in zip_longest(*threads):
        by_kernel: dict[KernelSpec, list[Call | None]] = {}
        for thread, call in enumerate(calls):
            if call is not None:
                by_kernel.setdefault(call.kernel, [None] * builder.threads)[thread] = call
        for kernel, parts in by_kernel.items():
            done = [call for call in parts if call is not None]
            name, macs = done[0].name, sum(call.macs for call in done)
            steps.append(
                Step(
                    name,
                    kernel,
                    tuple(None if call is None else call.arguments for call in parts),
                    macs,
                    useful.pop(name, 0) if macs else 0,
                    dense.pop(name, 0) if macs else 0,
                    reasons.get(name, ""),
                    bytes=sum(call.bytes for call in done),
                    barrier=False,
                    slots=sum(call.slots for call in done),
                    chain=chain.number,
                )
            )
    return steps


def _totals(builder: StepBuilder, chain: Chain) -> tuple[dict[str, int], dict[str, int], dict[str, str]]:
    """By layer: multiply-accumulates of non-zero weights and of all, noted at a layer's first step; and reasons."""
    useful, dense, reasons = {}, {}, {}
    for operation in chain.operations:
        if isinstance(operation, ConvOp) or (isinstance(operation, DepthwiseOp) and operation.is_layer):
            pixels = operation.out.height * operation.out.width
            matrices = operation.matrices if isinstance(operation, ConvOp) else (operation.weight,)
            useful[operation.name] = pixels * sum(int((matrix != 0).sum()) for matrix in matrices)
            dense[operation.name] = pixels * sum(matrix.size for matrix in matrices)
            if isinstance(operation, ConvOp):
                reasons[operation.name] = conv_layer(
                    builder, operation, _vectors(builder, chain, operation)
                ).choice.reason
            else:
                reasons[operation.name] = "a depthwise window: bound by memory, so zeros are not skipped"
    return useful, dense, reasons


def _vectors(builder: StepBuilder, chain: Chain, operation: ConvOp) -> int:
    """Vectors that a typical call covers: the choice of a kernel must not depend on the number of threads."""
    index = next(i for i, each in enumerate(chain.operations) if each is operation)
    return -(-chain.typical_rows[index] * builder.layout.pitch(operation.out) // builder.layout.lanes)


def _thread_calls(builder: StepBuilder, chain: Chain, thread: int, plan: Schedule) -> list[Call]:
    from flexgroup.engine._steps import Place

    layers = {
        i: conv_layer(builder, operation, _vectors(builder, chain, operation))
        for i, operation in enumerate(chain.operations)
        if isinstance(operation, ConvOp)
    }
    buffers = [rows.out.planes[0].buffer for rows in chain.rows]
    heights = chain.typical_rows
    calls: list[Call] = []
    for band in plan.bands:
        bases = {buffers[share.operation]: share.base for share in band if chain.windowed[share.operation]}
        place = Place(builder.layout, thread, bases)
        for share in band:
            operation = chain.operations[share.operation]
            if chain.windowed[share.operation]:
                out, clean = chain.rows[share.operation].out, not isinstance(operation, CopyOp)
                calls += _prepare(builder, thread, operation.name, out, share, clean=clean)
            if share.is_empty:
                continue
            if isinstance(operation, ConvOp):
                conv = layers[share.operation]
                kernel, arguments, macs = conv_call(builder, conv, share.rows, place)
                slots = conv.choice.slots * (share.rows[1] - share.rows[0]) / heights[share.operation]
                moved = builder.bytes_of(operation, share.rows)
                calls.append(Call(kernel, arguments, operation.name, macs, moved, slots))
                continue
            called, fields, planes, macs = _CALLS[type(operation)](builder, operation, share, place)
            arguments = tuple(called.signature.pack(fields | {"first": 0, "last": planes}))
            slots = 0.0
            if isinstance(operation, DepthwiseOp):
                slots = depthwise_slots(builder, operation, share.rows[1] - share.rows[0])
            calls.append(Call(called, arguments, operation.name, macs, builder.bytes_of(operation, share.rows), slots))
    return calls


def _pool(builder: StepBuilder, op: PoolOp, share: Share, place: Any) -> tuple[KernelSpec, dict[str, int], int, int]:
    kernel, fields = pool_call(builder, op, share.rows, place)
    return kernel, fields, len(op.out.planes), 0


def _depthwise(
    builder: StepBuilder, op: DepthwiseOp, share: Share, place: Any
) -> tuple[KernelSpec, dict[str, int], int, int]:
    kernel, fields = depthwise_call(builder, op, share.rows, place)
    macs = op.weight.size * (share.rows[1] - share.rows[0]) * op.out.width if op.is_layer else 0
    return kernel, fields, len(op.out.planes), macs


def _copy(builder: StepBuilder, op: CopyOp, share: Share, place: Any) -> tuple[KernelSpec, dict[str, int], int, int]:
    kernel, fields = copy_call(builder, op, share.rows, place)
    return kernel, fields, op.planes * len(op.starts), 0


_CALLS: dict[type, Callable[..., tuple[KernelSpec, dict[str, int], int, int]]] = {
    PoolOp: _pool,
    DepthwiseOp: _depthwise,
    CopyOp: _copy,
}


def _prepare(builder: StepBuilder, thread: int, name: str, image: Image, share: Share, *, clean: bool) -> list[Call]:
    """What a window needs before its new rows are computed: the rows that it keeps, and zeros around the image.

    Kernels that are not ``clean`` write pixels only, and leave the border between rows as it is.
    """
    layout, size = builder.layout, builder.element.bytes
    scratch = reference(ARENA, layout.scratch(thread))
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
        calls.append(Call(kernel, tuple(kernel.signature.pack(fields)), name, bytes=elements * size * len(planes)))

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
        moved = 2 * (share.keep[1] - share.keep[0]) * pitch * size * len(planes)
        calls.append(Call(copy, tuple(copy.signature.pack(fields)), name, bytes=moved))
    lead = layout.window_lead(image)
    above = (share.top[1] - share.top[0]) * pitch
    if share.opens and not clean and layout.reads_border(image):
        above = layout.window_rows(image) * pitch
    if share.opens and lead + above:
        fill(-lead * size, lead + above)
    if share.bottom[0] < share.bottom[1]:
        fill(rows_at(share.bottom[0] - share.base), (share.bottom[1] - share.bottom[0]) * pitch)
    return calls
