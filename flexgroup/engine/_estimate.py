"""What every operation is predicted to cost, in slots: for the choice of chains, `explain`, and predicted latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flexgroup.engine._choose import conv_work, tile_of
from flexgroup.engine._conv_layers import ConvLayer, conv_layer
from flexgroup.engine._costs import Costs
from flexgroup.engine._layout import Image
from flexgroup.engine._operations import ConvOp, CopyOp, DepthwiseOp, Operation, PoolOp
from flexgroup.engine._plan import Step
from flexgroup.engine._steps_depthwise import depthwise_work
from flexgroup.engine._winograd import blocks_of
from flexgroup.engine._work import SHARE_OF_CACHE, MoveWork, StreamWork, Traffic, Work, traffic
from flexgroup.kernels import LINE

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder


@dataclass(frozen=True)
class Estimate:
    """What one call does and moves."""

    work: Work
    moved: Traffic

    def slots(self, costs: Costs) -> float:
        return self.work.slots(costs) + self.moved.slots(costs) + costs.call


def estimate(
    builder: StepBuilder,
    operation: Operation,
    rows: int,
    *,
    conv: ConvLayer | None = None,
    windowed: Callable[[Image], bool] | None = None,
) -> Estimate | None:
    """What a call for so many rows of the output takes; None where the model has no formula.

    ``conv`` is the choice that was made for a convolution; ``windowed`` tells which images will be in windows.
    """
    mapped = builder.rows_of(operation)
    if mapped is None:
        return None
    cache = builder.target.cache_bytes
    if isinstance(operation, ConvOp) and not operation.block:
        conv = conv or conv_layer(builder, operation, rows)
        images = (mapped.out, *(use.image for use in mapped.uses))
        is_windowed = windowed or builder.layout.is_windowed
        if conv.choice.sweep and conv.layer.rows == rows and not any(is_windowed(image) for image in images):
            sweep = conv.choice.sweep
            return Estimate(_work(builder, operation, rows, conv, sweep), conv.layer.moved(cache, sweep))
    planewise = not isinstance(operation, ConvOp)
    moved = traffic(builder.layout, cache, mapped, rows, windowed, planewise=planewise)
    return Estimate(_work(builder, operation, rows, conv), moved)


def _work(builder: StepBuilder, operation: Operation, rows: int, conv: ConvLayer | None, sweep: int = 0) -> Work:
    layout = builder.layout
    if isinstance(operation, ConvOp) and operation.block:
        blocks = blocks_of(builder, operation, operation.block)
        assert blocks is not None, "only such operations are marked"
        return blocks.work(builder, rows)
    if isinstance(operation, ConvOp):
        conv = conv or conv_layer(builder, operation, rows)
        choice, layer = conv.choice, conv.layer
        tile = choice.tile
        if rows != layer.rows:
            layer = replace(layer, rows=rows)
            tile = tile_of(layer, choice.form, choice.rows, builder.target)
        return conv_work(layer, choice.form, choice.rows, tile, builder.target, choice.panel, sweep, choice.slabs)
    if isinstance(operation, DepthwiseOp):
        return depthwise_work(builder, operation, rows)
    if isinstance(operation, PoolOp):
        planes, vectors = len(operation.out.planes), layout.vectors(replace(operation.out, height=rows))
        return MoveWork(planes, planes * vectors * len(operation.taps[0]))
    assert isinstance(operation, CopyOp), "rows_of knows no other"
    planes = operation.planes * len(operation.starts)
    # What is left of a row after whole vectors is moved by halves.
    vectors = operation.columns // layout.lanes + (operation.columns % layout.lanes).bit_count()
    return MoveWork(planes * rows, planes * rows * vectors, operation.step[1] != 1)


def estimate_step(builder: StepBuilder, operation: Operation, step: Step) -> Estimate:
    """What the step of an operation takes on whole images."""
    if step.slots:  # of the multiply-adds alone
        return Estimate(StreamWork(step.slots, step.bytes / LINE), Traffic())
    mapped = builder.rows_of(operation)
    found = estimate(builder, operation, mapped.out.height) if mapped is not None else None
    if found is not None:
        return found
    lines = 2 * step.bytes / LINE
    is_near = step.bytes < SHARE_OF_CACHE * builder.target.cache_bytes
    return Estimate(MoveWork(0, 0.0), Traffic(near=lines) if is_near else Traffic(read=lines))
