"""Steps of everything that is not a convolution: pools, means, arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flexgroup.engine._layout import Image, PlaneRef, Vector
from flexgroup.engine._operations import ElementwiseOp, MeanOp, PoolOp
from flexgroup.engine._plan import ARENA, Step, number, reference
from flexgroup.kernels import ElementwiseKernel, MeanKernel, PoolKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import Fields, Place, StepBuilder


def _pool(builder: StepBuilder, op: PoolOp) -> Step:
    kernel, fields = pool_call(builder, op, (0, op.out.height), builder.place())
    step = builder.by_range(op.name, kernel, fields, len(op.out.planes))
    return replace(step, bytes=builder.bytes_of(op))


def pool_call(builder: StepBuilder, op: PoolOp, rows: tuple[int, int], place: Place) -> tuple[PoolKernel, Fields]:
    """The kernel and its arguments, but the planes, for ``rows`` of the output."""
    layout, size = builder.layout, builder.element.bytes
    vectors, covered = builder.cover(op.out, rows)
    shared = builder.once(lambda: _pool_tables(builder, op), "pool", id(op))
    above = rows[0] * layout.pitch(op.out)
    fields = shared | {
        "inside": shared["inside"] + above * size,
        "scale": shared["scale"] + above * size,
        "mask": builder.mask(op.out, rows[1] - rows[0]),
        "source": place.reference(op.reads[0] if op.reads else op.out, rows[0]),
        "target": place.reference(op.out, rows[0]),
        "vectors": vectors,
        "last_start": (covered - layout.lanes) * size,
    }
    return PoolKernel(op.form, builder.element), fields


def _pool_tables(builder: StepBuilder, op: PoolOp) -> Fields:
    """What all calls of a pool have in common; ``inside`` and ``scale`` begin at the image's first row."""
    pitch = builder.layout.pitch(op.out)
    scale = (1.0 / np.maximum(op.counts, 1)).astype(np.float32)
    return {
        "taps": builder.table([builder.tap(tap, pitch) for channel in op.taps for tap in channel]),
        "outputs": builder.table(builder.planes(op.out)),
        "inside": builder.constants.add(builder.positions(op.out, -op.inside.astype(builder.integer))),
        "inside_tap": builder.layout.vectors(op.out) * builder.layout.vector_bytes,
        "scale": builder.numbers(builder.positions(op.out, scale)),
        "tap_count": len(op.taps[0]),
    }


def _mean(builder: StepBuilder, op: MeanOp) -> Step:
    fields = {
        "inputs": builder.table(builder.planes(op.image)),
        "mask": builder.mask(op.image),
        "arena": reference(ARENA, 0),
        "output": reference(ARENA, builder.layout.offset(PlaneRef(op.out.buffer, 0))),
        "vectors": builder.layout.vectors(op.image),
        "scale": number(1.0 / (op.image.height * op.image.width)),
    }
    step = builder.by_range(op.name, MeanKernel(builder.element), fields, len(op.image.planes))
    return replace(step, bytes=_numbers(op.image) * builder.element.bytes)


def _elementwise(builder: StepBuilder, op: ElementwiseOp) -> Step:
    tables, lanes = [], builder.layout.lanes
    for value in (op.a, op.b or op.a, op.out):
        refs = value.planes if isinstance(value, Image) else (PlaneRef(value.buffer, 0),)
        tables.append(builder.table([builder.layout.offset(ref) for ref in refs]))
    if op.form.endswith("_each") and isinstance(op.b, Vector):
        first = builder.layout.offset(PlaneRef(op.b.buffer, 0))
        tables[1] = builder.table(first + np.arange(op.b.features) * builder.element.bytes)
    form, scale, shift = op.form, np.zeros(1, np.float32), np.zeros(1, np.float32)
    if op.scale is not None and op.shift is not None:
        scale, shift = op.scale, op.shift
    if isinstance(op.out, Image):
        vectors, mask, planes = builder.layout.vectors(op.out), builder.mask(op.out), len(op.out.planes)
    else:
        vectors, planes = -(-op.out.features // lanes), 1
        inside = np.zeros(vectors * lanes, builder.integer)
        inside[: op.out.features] = -1
        mask = builder.constants.add(inside)
        if form == "affine":
            form = "scale"
            scale, shift = (np.pad(v, (0, vectors * lanes - len(v))) for v in (scale, shift))
    fields = {
        "first_inputs": tables[0],
        "second_inputs": tables[1],
        "outputs": tables[2],
        "scale": builder.numbers(scale),
        "shift": builder.numbers(shift),
        "mask": mask,
        "arena": reference(ARENA, 0),
        "vectors": vectors,
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    step = builder.by_range(op.name, ElementwiseKernel(form, builder.element, op.curve), fields, planes)
    moved = sum(_numbers(value) for value in (op.a, op.b, op.out) if value is not None)
    return replace(step, bytes=moved * builder.element.bytes)


def _numbers(value: Image | Vector) -> int:
    if isinstance(value, Vector):
        return value.features
    return len(set(value.planes)) * value.height * value.width


BUILDERS: Mapping[type, Callable[..., Step]] = {
    PoolOp: _pool,
    MeanOp: _mean,
    ElementwiseOp: _elementwise,
}
