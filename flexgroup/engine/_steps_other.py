"""Steps of everything that is not a convolution: pools, means, linear layers, arithmetic, copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flexgroup.engine._layout import External, Image, PlaneRef, Vector
from flexgroup.engine._operations import (
    CopyOp,
    ElementwiseOp,
    LinearOp,
    MeanOp,
    PoolOp,
)
from flexgroup.engine._plan import ARENA, FIRST_EXTERNAL, Step, number, reference
from flexgroup.kernels import (
    CopyKernel,
    ElementwiseKernel,
    LinearKernel,
    MeanKernel,
    PoolKernel,
)
from flexgroup.kernels.linear import UNROLL, pack_linear

Fields = dict[str, int]


if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder


def _pool(builder: StepBuilder, op: PoolOp) -> Step:
    pitch = builder.layout.pitch(op.out)
    scale = (1.0 / np.maximum(op.counts, 1)).astype(np.float32)
    fields = {
        "taps": builder.table([builder.tap(tap, pitch) for channel in op.taps for tap in channel]),
        "outputs": builder.table(builder.planes(op.out)),
        "inside": builder.constants.add(builder.positions(op.out, -op.inside.astype(np.int32))),
        "scale": builder.constants.add(builder.positions(op.out, scale)),
        "mask": builder.mask(op.out),
        "arena": reference(ARENA, 0),
        "tap_count": len(op.taps[0]),
        "vectors": builder.layout.vectors(op.out),
    }
    return builder.by_range(op.name, PoolKernel(op.form, builder.element), fields, len(op.out.planes))


def _mean(builder: StepBuilder, op: MeanOp) -> Step:
    fields = {
        "inputs": builder.table(builder.planes(op.image)),
        "arena": reference(ARENA, 0),
        "output": reference(ARENA, builder.layout.offset(PlaneRef(op.out.buffer, 0))),
        "vectors": builder.layout.vectors(op.image),
        "scale": number(1.0 / (op.image.height * op.image.width)),
    }
    return builder.by_range(op.name, MeanKernel(builder.element), fields, len(op.image.planes))


def _linear(builder: StepBuilder, op: LinearOp) -> Step:
    rows, columns = op.weight.shape
    vectors = -(-rows // builder.layout.lanes)
    tile = next(tile for tile in (4, 2, 1) if vectors >= tile)
    weights, bias = pack_linear(op.weight, op.bias, tile, builder.layout.lanes)
    fields = {
        "input": reference(ARENA, builder.layout.offset(PlaneRef(op.x.buffer, 0))),
        "weights": builder.constants.add(weights),
        "bias": builder.constants.add(bias),
        "output": reference(ARENA, builder.layout.offset(PlaneRef(op.out.buffer, 0))),
        "columns": -(-columns // UNROLL) * UNROLL,
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    return builder.by_range(op.name, LinearKernel(tile, builder.element), fields, len(weights), rows * columns)


def _elementwise(builder: StepBuilder, op: ElementwiseOp) -> Step:
    tables, lanes = [], builder.layout.lanes
    for value in (op.a, op.b or op.a, op.out):
        refs = value.planes if isinstance(value, Image) else (PlaneRef(value.buffer, 0),)
        tables.append(builder.table([builder.layout.offset(ref) for ref in refs]))
    form, scale, shift = "add", np.zeros(1, np.float32), np.zeros(1, np.float32)
    if op.scale is not None and op.shift is not None:
        form, scale, shift = "affine", op.scale, op.shift
    if isinstance(op.out, Image):
        vectors, mask, planes = builder.layout.vectors(op.out), builder.mask(op.out), len(op.out.planes)
    else:
        vectors, planes = -(-op.out.features // lanes), 1
        inside = np.zeros(vectors * lanes, np.int32)
        inside[: op.out.features] = -1
        mask = builder.constants.add(inside)
        if form == "affine":
            form = "scale"
            scale, shift = (np.pad(v, (0, vectors * lanes - len(v))) for v in (scale, shift))
    fields = {
        "first_inputs": tables[0],
        "second_inputs": tables[1],
        "outputs": tables[2],
        "scale": builder.constants.add(scale),
        "shift": builder.constants.add(shift),
        "mask": mask,
        "arena": reference(ARENA, 0),
        "vectors": vectors,
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    return builder.by_range(op.name, ElementwiseKernel(form, builder.element), fields, planes)


def _copy(builder: StepBuilder, op: CopyOp) -> Step:
    region, sources, row = _rectangles(builder, op.source, op, op.starts)
    target_region, targets, target_row = _rectangles(builder, op.target, op, (op.target_start,))
    fields = {
        "source": reference(region, 0),
        "target": reference(target_region, 0),
        "sources": builder.table(sources),
        "targets": builder.table(targets),
        "source_row": row * op.step[0],
        "target_row": target_row,
        "rows": op.rows,
        "columns": op.columns,
    }
    return builder.by_range(op.name, CopyKernel(op.step[1], builder.element), fields, len(sources))


def _rectangles(
    builder: StepBuilder, value: Image | Vector | External, op: CopyOp, corners: Sequence[tuple[int, int]]
) -> tuple[int, list[int], int]:
    """Where rectangles begin: (region, bytes to ``corners`` in every plane, bytes from a row to the next)."""
    size = builder.element.bytes
    if isinstance(value, Image):
        region, width = ARENA, builder.layout.pitch(value)
        planes = builder.planes(value)
    elif isinstance(value, External):
        region = FIRST_EXTERNAL + value.port + (builder.input_count if value.output else 0)
        height, width = value.shape[1:] if len(value.shape) == 3 else (1, value.shape[0])
        planes = [i * height * width * size for i in range(op.planes)]
    else:
        # A vector is the rectangles of a flattened image, one after another.
        region, width = ARENA, op.columns
        first = builder.layout.offset(PlaneRef(value.buffer, 0))
        planes = [first + i * op.rows * op.columns * size for i in range(op.planes)]
    return region, [plane + (y * width + x) * size for y, x in corners for plane in planes], width * size


BUILDERS: Mapping[type, Callable[..., Step]] = {
    PoolOp: _pool,
    MeanOp: _mean,
    LinearOp: _linear,
    ElementwiseOp: _elementwise,
    CopyOp: _copy,
}
