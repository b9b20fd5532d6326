"""Steps of depthwise convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flexgroup.engine._operations import DepthwiseOp
from flexgroup.engine._plan import Step, number
from flexgroup.engine._work import WindowWork
from flexgroup.kernels.depthwise import DepthwiseKernel, block_rows, loads

if TYPE_CHECKING:
    from flexgroup.engine._steps import Fields, Place, StepBuilder

LARGEST_TILE = 8
PLANE_OF_FIRST = 0.45  # of the first-level cache, in which what a plane reads and writes stays
WAITING = 2.2  # entries of a window that every vector waits down the columns of larger planes
BLOCK_ROW = 0.2  # vectors that a row of a block costs beside its own
LARGEST_ABREAST = {"down": 25, "along": 9}  # entries of a window
REASON = "a depthwise window: bound by memory, so zeros are not skipped"


def _depthwise(builder: StepBuilder, op: DepthwiseOp) -> Step:
    kernel, fields = depthwise_call(builder, op, (0, op.out.height), builder.place())
    useful, dense = depthwise_macs(op, op.out.height)
    step = builder.by_range(op.name, kernel, fields, len(op.out.planes), dense)
    return replace(
        step,
        useful_macs=useful,
        reason=REASON if op.is_layer else "",
        bytes=builder.bytes_of(op),
    )


def depthwise_macs(op: DepthwiseOp, rows: int) -> tuple[int, int]:
    """Multiply-accumulates of so many rows of the output: of weights that are not zero, and of all. Pools have none."""
    positions = rows * op.out.width if op.is_layer else 0
    return int((op.weight != 0).sum()) * positions, op.weight.size * positions


def depthwise_work(builder: StepBuilder, op: DepthwiseOp, rows: int) -> WindowWork:
    """What so many rows of the output take."""
    vectors = _walk(builder, op, rows).vectors
    entries = op.weight.shape[1] * op.weight.shape[2]
    return WindowWork(len(op.out.planes), vectors, entries, op.stride != (1, 1), op.reduce == "max")


@dataclass(frozen=True)
class Walk:
    """A kernel's form, how many output rows a block has if it walks along them, and how many vectors it is worth."""

    form: str
    block: int
    vectors: float


def _walk(builder: StepBuilder, op: DepthwiseOp, rows: int) -> Walk:
    """The cheaper way for so many rows of the output.

    Down a column, the first output row costs as much as several, and what a plane does not leave in the first-level
    cache is waited for; along rows, every block costs something beside its vectors, and more is loaded. Fitted to
    measured kernels. Where the rows of the output are shorter than a vector, and not strided, all positions are one
    row.
    """
    layout, window = builder.layout, (int(op.weight.shape[1]), int(op.weight.shape[2]))
    if op.stride == (1, 1) and (layout.pitch(op.out) < layout.lanes or op.dilation != (1, 1)):
        return Walk("linear", 1, -(-rows * layout.pitch(op.out) // layout.lanes))
    across, entries = -(-op.out.width // layout.lanes), window[0] * window[1]

    def effort(kernel: DepthwiseKernel) -> float:
        """Of a vector; 1 where every input row is loaded once."""
        return (entries + loads(kernel, builder.target)) / (entries + kernel.stride[0] * kernel.row_loads)

    kernel = DepthwiseKernel("down", *window, op.stride, reduce=op.reduce)
    down = (rows + (0.6 * (window[0] - 1) if op.stride == (1, 1) else 0.0)) * across * effort(kernel)
    moved = rows * (layout.pitch(op.inputs) * op.stride[0] + layout.pitch(op.out)) * builder.element.bytes
    if moved > PLANE_OF_FIRST * builder.target.first_cache_bytes:
        down *= 1 + WAITING / entries
    block = block_rows(rows)
    along = -(-rows // block) * block * (across + BLOCK_ROW) * effort(replace(kernel, form="along", rows=block))
    return Walk("down", block, down) if down <= along else Walk("along", block, along)


def _vectors_abreast(builder: StepBuilder, op: DepthwiseOp, columns: int, form: str) -> int:
    """How many vectors of a row of so many numbers are computed side by side.

    Two short ones share the work of a row beside its multiplications, and while one waits for its sum the other is
    added to. Weights of larger windows leave no registers for that.
    """
    target, is_pool = builder.target, op.reduce == "max" and (op.stride[0] > 1 or form == "along")
    is_short = target.vector_bytes <= 16 and target.vector_registers >= 32
    is_large = op.weight.shape[1] * op.weight.shape[2] > LARGEST_ABREAST[form]
    return 2 if is_short and columns >= 2 * builder.layout.lanes and not is_large and not is_pool else 1


def depthwise_call(
    builder: StepBuilder, op: DepthwiseOp, rows: tuple[int, int], place: Place
) -> tuple[DepthwiseKernel, Fields]:
    """The kernel and its arguments, but the planes, for ``rows`` of the output."""
    layout, size = builder.layout, builder.element.bytes
    lanes, pitch, source_pitch = layout.lanes, layout.pitch(op.out), layout.pitch(op.inputs)
    walk = _walk(builder, op, rows[1] - rows[0])
    border = layout.needs_border(op.out)
    if walk.form != "linear":
        # Columns up to the image's edge, or all of the pitch where somebody relies on the border to be zero. Where a
        # vector is longer than a row, it is written over by the next row.
        border &= (layout.is_windowed(op.out) and layout.reads_border(op.out)) or op.out.width < lanes
        columns = pitch if border else op.out.width
        tile = _vectors_abreast(builder, op, columns, walk.form)
        starts, alone = divmod(-(-columns // lanes), tile)
        last_start = max(0, columns - (1 if alone else tile) * lanes) * size
        inside = np.zeros(max(pitch, lanes), builder.integer)
        inside[: op.out.width] = -1
        mask = builder.constants.add(inside)
    else:
        vectors, covered = builder.cover(op.out, rows)
        alone = 0
        largest = min(LARGEST_TILE, covered // lanes)
        tile = min(range(1, largest + 1), key=lambda t: (-(-vectors // t) * (t + 1), -t))
        starts, mask = -(-vectors // tile), builder.mask(op.out, rows[1] - rows[0])
        last_start = (covered - tile * lanes) * size
    fields = builder.once(lambda: _tables(builder, op), "depthwise", id(op)) | {
        "mask": mask,
        "source": place.reference(op.inputs, rows[0] * op.stride[0]),
        "target": place.reference(op.out, rows[0]),
        "rows": rows[1] - rows[0],
        "source_row": source_pitch * size,
        "target_row": pitch * size,
        "starts": starts,
        "last_start": last_start,
    }
    height, width = op.weight.shape[1:]
    dilation = op.dilation[0] if walk.form == "linear" else 1
    form = (walk.form, height, width, op.stride, dilation, tile, op.curve, builder.element, op.reduce, bool(alone))
    kernel = DepthwiseKernel(*form, rows=walk.block if walk.form == "along" else 1, border=border)
    return kernel, fields


def _tables(builder: StepBuilder, op: DepthwiseOp) -> Fields:
    """What all calls of a layer have in common."""
    layout = builder.layout
    corner = (op.corner[0] * layout.pitch(op.inputs) + op.corner[1]) * builder.element.bytes
    return {
        "inputs": builder.table([layout.offset(ref) + corner for ref in op.inputs.planes]),
        "outputs": builder.table(builder.planes(op.out)),
        "weights": builder.numbers(op.weight),
        "bias": builder.numbers(op.bias),
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }


BUILDERS: Mapping[type, Callable[..., Step]] = {DepthwiseOp: _depthwise}
