"""What every operation is predicted to cost, in slots: for the choice of chains, `explain`, and predicted latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from flexgroup.engine._choose import best_tile, conv_work
from flexgroup.engine._costs import LINE
from flexgroup.engine._layout import Image
from flexgroup.engine._operations import ConvOp, CopyOp, DepthwiseOp, Operation, PoolOp
from flexgroup.engine._plan import Step
from flexgroup.engine._rows import rows_of
from flexgroup.engine._steps_conv import ConvLayer, conv_layer
from flexgroup.engine._steps_depthwise import depthwise_work
from flexgroup.engine._work import SHARE_OF_CACHE, MoveWork, Traffic, Work, traffic

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder


def estimated(
    builder: StepBuilder,
    operation: Operation,
    rows: int,
    *,
    conv: ConvLayer | None = None,
    windowed: Callable[[Image], bool] | None = None,
) -> float:
    """Slots of one call for so many rows of the output, moving its images included; 0 where the model has no formula.

    ``conv`` is the choice that was made for a convolution; ``windowed`` tells which images will be in windows.
    """
    mapped = rows_of(operation)
    if mapped is None:
        return 0.0
    moved = traffic(builder.layout, builder.target.cache_bytes, mapped, rows, windowed)
    return _work(builder, operation, rows, conv).slots(builder.costs) + moved.slots(builder.costs) + builder.costs.call


def _work(builder: StepBuilder, operation: Operation, rows: int, conv: ConvLayer | None) -> Work:
    layout = builder.layout
    if isinstance(operation, ConvOp):
        conv = conv or conv_layer(builder, operation, rows)
        choice, layer = conv.choice, conv.layer
        vectors, tile = layout.vectors(replace(operation.out, height=rows)), choice.tile
        if vectors != layer.vectors:
            layer, tile = replace(layer, vectors=vectors), best_tile(choice.rows, vectors, builder.target)
        return conv_work(layer, choice.form, choice.rows, tile, builder.target)
    if isinstance(operation, DepthwiseOp):
        return depthwise_work(builder, operation, rows)
    if isinstance(operation, PoolOp):
        planes, vectors = len(operation.out.planes), layout.vectors(replace(operation.out, height=rows))
        return MoveWork(planes, planes * vectors * len(operation.taps[0]))
    assert isinstance(operation, CopyOp), "rows_of knows no other"
    planes = operation.planes * len(operation.starts)
    vectors = -(-operation.columns // layout.lanes)
    return MoveWork(planes * rows, planes * rows * vectors, operation.step[1] != 1)


def with_estimate(builder: StepBuilder, operation: Operation, step: Step) -> Step:
    """The step of an operation with its slots; what has no formula takes as long as moving its bytes, twice."""
    costs = builder.costs
    if step.slots:  # of the multiply-adds alone; weights are read once, and then they are waited for
        return replace(step, slots=max(step.slots, costs.stream * step.bytes / LINE) + costs.call)
    mapped = rows_of(operation)
    slots = estimated(builder, operation, mapped.out.height) if mapped is not None else 0.0
    if not slots:
        lines = 2 * step.bytes / LINE
        is_near = step.bytes < SHARE_OF_CACHE * builder.target.cache_bytes
        moved = Traffic(near=lines) if is_near else Traffic(read=lines)
        slots = moved.slots(costs) + costs.call
    return replace(step, slots=slots)
