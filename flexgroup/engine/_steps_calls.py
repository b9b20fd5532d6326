"""Calls of kernels for some rows of an operation's output, and the steps that threads make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from flexgroup.engine._conv_layers import ConvLayer
from flexgroup.engine._estimate import estimate
from flexgroup.engine._operations import ConvOp, CopyOp, DepthwiseOp, Operation, PoolOp
from flexgroup.engine._plan import Step
from flexgroup.engine._steps_conv import conv_calls
from flexgroup.engine._steps_copy import copy_call
from flexgroup.engine._steps_depthwise import REASON, depthwise_call, depthwise_macs
from flexgroup.engine._steps_other import pool_call
from flexgroup.engine._winograd import TRANSFORMED, block_calls
from flexgroup.engine._work import MoveWork
from flexgroup.kernels import CopyKernel, FillKernel, HaloKernel, KernelSpec

if TYPE_CHECKING:
    from flexgroup.engine._steps import Place, StepBuilder


@dataclass(frozen=True)
class Call:
    """One call of a kernel: its arguments, and what is said of it."""

    kernel: KernelSpec
    arguments: tuple[int, ...]
    name: str  # the layer's
    macs: int = 0
    bytes: int = 0
    slots: float = 0.0


@dataclass(frozen=True)
class Total:
    """What is said of a whole layer: multiply-accumulates of weights that are not zero and of all, why it runs as it
    does, and how its weights are shared among the layers that it adds up."""

    useful: int
    dense: int
    reason: str
    shares: tuple[tuple[str, float], ...] = ()


def layer_totals(operations: Sequence[Operation], layers: Mapping[int, ConvLayer]) -> dict[str, Total]:
    """The totals of layers, by name; ``layers`` are the convolutions, by their place in ``operations``."""
    totals: dict[str, Total] = {}
    for i, operation in enumerate(operations):
        if isinstance(operation, ConvOp):
            pixels, conv = operation.out.height * operation.out.width, layers[i]
            reason = TRANSFORMED.format(operation.block) if operation.block else conv.reason
            totals[operation.name] = Total(conv.useful_macs * pixels, conv.dense_macs * pixels, reason, conv.shares)
        elif isinstance(operation, DepthwiseOp) and operation.is_layer:
            totals[operation.name] = Total(*depthwise_macs(operation, operation.out.height), REASON)
    return totals


def steps_of(
    builder: StepBuilder, threads: Sequence[Sequence[Call]], totals: Mapping[str, Total], **where: int
) -> list[Step]:
    """The steps in which every thread makes its calls, in order; no thread waits for another.

    A layer's totals are noted at the first step that multiplies for it; ``where`` is the number of its chain or region.
    """
    steps: list[Step] = []
    left = dict(totals)
    for calls in zip_longest(*threads):
        by_kernel: dict[KernelSpec, list[Call | None]] = {}
        for thread, call in enumerate(calls):
            if call is not None:
                by_kernel.setdefault(call.kernel, [None] * builder.threads)[thread] = call
        for kernel, parts in by_kernel.items():
            done = [call for call in parts if call is not None]
            name, macs = done[0].name, sum(call.macs for call in done)
            known, total = totals.get(name), left.pop(name, None) if macs else None
            steps.append(
                Step(
                    name,
                    kernel,
                    tuple(None if call is None else call.arguments for call in parts),
                    macs,
                    0 if total is None else total.useful,
                    0 if total is None else total.dense,
                    "" if known is None else known.reason,
                    bytes=sum(call.bytes for call in done),
                    barrier=False,
                    slots=sum(call.slots for call in done),
                    shares=() if known is None else known.shares,
                    **where,
                )
            )
    return steps


def layer_calls(
    builder: StepBuilder, operation: Operation, conv: ConvLayer | None, rows: tuple[int, int], place: Place
) -> list[Call]:
    """The calls that compute ``rows`` of an operation's output; ``conv`` is the choice for a convolution."""
    if isinstance(operation, ConvOp) and conv is not None:
        made = _conv_calls(builder, conv, rows, place)
    else:
        made = [_plain_call(builder, operation, rows, place)]
    found = estimate(builder, operation, rows[1] - rows[0], conv=conv)
    slots = found.slots(builder.costs) if found is not None else 0.0
    made[-1] = replace(made[-1], bytes=builder.bytes_of(operation, rows))
    return [replace(call, slots=slots / len(made)) for call in made]


def _conv_calls(builder: StepBuilder, conv: ConvLayer, rows: tuple[int, int], place: Place) -> list[Call]:
    """The calls of a convolution: its slabs, or its blocks of rows."""
    op = conv.op
    made = block_calls(builder, op, rows, place) if op.block else conv_calls(builder, conv, rows, place)
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
        kernel, fields, planes = copy_call(builder, operation, rows, place)
    arguments = tuple(kernel.signature.pack(fields | {"first": 0, "last": planes}))
    return Call(kernel, arguments, operation.name, macs)


def clearing_call(builder: StepBuilder, base: int, starts: Sequence[int], elements: int, name: str) -> Call:
    """Zeros for so many elements, in whole vectors, from each of ``starts`` on, which count from ``base``."""
    kernel = FillKernel(builder.element)
    fields = {
        "targets": builder.table(starts),
        "target": base,
        "vectors": -(-elements // builder.layout.lanes),
        "first": 0,
        "last": len(starts),
    }
    cleared = elements * builder.element.bytes * len(starts)
    slots = _moving(builder, len(starts), elements)
    return Call(kernel, tuple(kernel.signature.pack(fields)), name, bytes=cleared, slots=slots)


def copying_call(
    builder: StepBuilder,
    bases: tuple[int, int],
    starts: tuple[Sequence[int], Sequence[int]],
    elements: int,
    name: str,
    *,
    whole: bool = False,
) -> Call:
    """Copies so many adjacent elements of every plane, (from, to) ``starts`` that count from ``bases``.

    Rounded up to ``whole`` vectors, few are quicker.
    """
    kernel = (
        HaloKernel(-(-elements // builder.layout.lanes), builder.element) if whole else CopyKernel(1, builder.element)
    )
    fields = {
        "source": bases[0],
        "target": bases[1],
        "sources": builder.table(starts[0]),
        "targets": builder.table(starts[1]),
        "first": 0,
        "last": len(starts[0]),
    }
    if not whole:
        fields |= {"source_row": 0, "target_row": 0, "rows": 1, "columns": elements, "gap": 0}
    moved = 2 * elements * builder.element.bytes * len(starts[0])
    slots = _moving(builder, len(starts[0]), elements)
    return Call(kernel, tuple(kernel.signature.pack(fields)), name, bytes=moved, slots=slots)


def _moving(builder: StepBuilder, planes: int, elements: int) -> float:
    """Slots of a call that copies or fills so many elements of every plane."""
    work = MoveWork(planes, planes * -(-elements // builder.layout.lanes))
    return work.slots(builder.costs) + builder.costs.call
