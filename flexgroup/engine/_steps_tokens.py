"""Steps of operations on tokens: copies that rearrange, layer norm, products of activations, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexgroup.engine._layout import External, Image, PlaneRef, Vector
from flexgroup.engine._operations_tokens import (
    AttentionOp,
    GatherOp,
    LayerNormOp,
    ProductOp,
    SoftmaxOp,
    TokenOperation,
    token_values,
)
from flexgroup.engine._plan import ARENA, FIRST_EXTERNAL, Step, number, reference
from flexgroup.engine._steps_interleave import interleaving
from flexgroup.engine._view import Held, Indices, Source
from flexgroup.kernels import CopyKernel, Element
from flexgroup.kernels.attention import LARGEST_TILE, SCORE_BYTES, AttentionKernel
from flexgroup.kernels.gather import GatherKernel
from flexgroup.kernels.norm import LayerNormKernel
from flexgroup.kernels.product import ProductKernel
from flexgroup.kernels.softmax import SoftmaxKernel
from flexgroup.kernels.transpose import TransposeKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

Offsets = npt.NDArray[np.int64]

SHORTEST_RUN = 4  # elements side by side from which on a copy is one of rectangles
LARGEST_TRANSPOSE = 16
NORM_TILE = 4
EXP_SLOTS = 20  # of the softmax: multiply-adds that an exponential takes as long as
SUMS_IN_FLIGHT = 10  # that hide the latency of a multiply-add


def _gather(builder: StepBuilder, op: GatherOp) -> Step:
    source, *read = _places(builder, op.source, op.from_rows, op.from_columns)
    target, *written = _places(builder, op.target, op.to_rows, op.to_columns)
    elements = builder.moving(op.source, op.target)
    sizes = (elements[0].bytes, (elements[1] or elements[0]).bytes)
    runs = _rectangle(read[1], written[1], sizes)
    if runs is None:
        for turn in (1, -1):
            ours, theirs = read[::turn], written[::turn]
            if _is_adjacent(builder, ours[0], sizes[0]) and _is_adjacent(builder, theirs[1], sizes[1]):
                return _transpose(builder, op.name, (source, target), ours, theirs, elements)
        step = interleaving(builder, op.name, (source, target), read, written, elements)
        if step is not None:
            return step
        fields = {
            "source": source,
            "target": target,
            "from_rows": builder.table(read[0]),
            "from_columns": builder.table(read[1]),
            "to_rows": builder.table(written[0]),
            "to_columns": builder.table(written[1]),
            "columns": len(read[1]),
        }
        return builder.by_range(op.name, GatherKernel(*elements), fields, len(read[0]))
    rows, columns, source_row, target_row = runs
    fields = {
        "source": source,
        "target": target,
        "sources": builder.table(read[0] + read[1][0]),
        "targets": builder.table(written[0] + written[1][0]),
        "source_row": source_row,
        "target_row": target_row,
        "rows": rows,
        "columns": columns,
        "gap": 0,
    }
    return builder.by_range(op.name, CopyKernel(1, *elements), fields, len(read[0]))


def _transpose(
    builder: StepBuilder,
    name: str,
    places: tuple[int, int],
    read: list[Offsets],
    written: list[Offsets],
    elements: tuple[Element, Element | None],
) -> Step:
    """A copy whose rows are adjacent in the source, and whose columns are in the target."""
    size = min(builder.layout.lanes, LARGEST_TRANSPOSE)
    rows, columns = len(read[0]), len(written[1])
    fields = {
        "source": places[0] + int(read[0][0]),
        "target": places[1] + int(written[1][0]),
        "from_columns": builder.table(read[1]),
        "to_rows": builder.table(written[0]),
        "rows": rows,
        "columns": columns,
    }
    return builder.by_range(name, TransposeKernel(size, *elements), fields, -(-rows // size))


def _is_adjacent(builder: StepBuilder, offsets: Offsets, element: int) -> bool:
    """Whether the offsets are those of adjacent elements of so many bytes, enough of them for a block."""
    size = min(builder.layout.lanes, LARGEST_TRANSPOSE)
    return len(offsets) >= size and bool((np.diff(offsets) == element).all())


def _places(builder: StepBuilder, value: Source, rows: Indices, columns: Indices) -> tuple[int, Offsets, Offsets]:
    """The reference that a value's bytes are counted from, and the bytes of rows and of columns."""
    layout, size = builder.layout, builder.element_of(value).bytes
    base, planes, pitch = reference(ARENA, 0), np.zeros(1, np.int64), 0
    if isinstance(value, Image):
        planes, pitch = np.array(builder.planes(value), np.int64), layout.pitch(value)
    elif isinstance(value, Vector):
        base = reference(ARENA, layout.offset(PlaneRef(value.buffer, 0)))
    elif isinstance(value, External):
        base = reference(FIRST_EXTERNAL + value.port + (builder.input_count if value.output else 0), 0)
    else:
        assert isinstance(value, Held)
        base = builder.numbers(value.array)
    if columns[0].any() and len(planes) > 1:
        if not rows[0].any():
            return base, _bytes(rows, 0, pitch, size), planes[columns[0]] + _bytes(columns, 0, pitch, size)
        # Planes that are equally far apart: an address is the sum of its row's and its column's.
        step = planes[1] - planes[0]
        return base, _bytes(rows, step, pitch, size) + planes[0], _bytes(columns, step, pitch, size)
    zero = np.zeros_like(columns)
    zero[1:] = columns[1:]
    return base, planes[rows[0]] + _bytes(rows, 0, pitch, size), _bytes(zero, 0, pitch, size)


def _bytes(at: Indices, plane: int, pitch: int, size: int) -> Offsets:
    return np.asarray(at[0] * plane + (at[1] * pitch + at[2]) * size, np.int64)


def _rectangle(read: Offsets, written: Offsets, sizes: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(rows, columns, bytes from a row to the next on both sides) if the columns are a rectangle with long rows.

    ``sizes`` are the bytes of an element on both sides.
    """
    steps = np.stack([np.diff(read), np.diff(written)])
    breaks = np.flatnonzero((steps != np.array(sizes)[:, None]).any(axis=0)) + 1
    columns = int(breaks[0]) if len(breaks) else len(read)
    if columns < SHORTEST_RUN or len(read) % columns:
        return None
    rows = len(read) // columns
    jumps = [0, 0] if rows == 1 else [int(side[columns] - side[0]) for side in (read, written)]
    within, across = np.arange(columns), np.arange(rows)[:, None]
    for side, jump, size in zip((read, written), jumps, sizes, strict=True):
        if not np.array_equal(side.reshape(rows, columns) - side[0], across * jump + within * size):
            return None
    return rows, columns, jumps[0], jumps[1]


def _layer_norm(builder: StepBuilder, op: LayerNormOp) -> Step:
    vectors, planes = builder.layout.vectors(op.out), len(op.out.planes)
    tile = min(NORM_TILE, vectors)
    fields = {
        "inputs": builder.table(builder.planes(op.x)),
        "outputs": builder.table(builder.planes(op.out)),
        "weight": builder.numbers(op.weight),
        "bias": builder.numbers(op.bias),
        "mask": builder.mask(op.out),
        "arena": reference(ARENA, 0),
        "planes": planes,
        "last_start": vectors - tile,
        "scale": number(1 / planes),
        "eps": number(op.eps),
    }
    return builder.by_range(op.name, LayerNormKernel(tile, op.centred, builder.element), fields, -(-vectors // tile))


def _softmax(builder: StepBuilder, op: SoftmaxOp) -> Step:
    vectors = builder.layout.vectors(op.out)
    tile = min(NORM_TILE, vectors)
    tiles = -(-vectors // tile)
    fields = {
        "inputs": builder.table(builder.planes(op.x)),
        "outputs": builder.table(builder.planes(op.out)),
        "mask": builder.mask(op.out),
        "arena": reference(ARENA, 0),
        "planes": len(op.out.planes) // op.blocks,
        "tiles": tiles,
        "last_start": vectors - tile,
    }
    # The output holds exponentials for a while: no thread may write what another one works on.
    tied = tiles if vectors % tile else 0
    return builder.by_range(op.name, SoftmaxKernel(tile, builder.element), fields, op.blocks * tiles, tied=tied)


def _product(builder: StepBuilder, op: ProductOp) -> Step:
    vectors = builder.layout.vectors(op.out)
    sums, rows = len(op.x.planes) // op.blocks, len(op.out.planes) // op.blocks
    height, tile = _shape(builder, rows, vectors)
    tiles = -(-vectors // tile)
    fields = {
        "entries": builder.table(builder.planes(op.entries)),
        "inputs": builder.table(builder.planes(op.x)),
        "outputs": builder.table(builder.planes(op.out)),
        "mask": builder.mask(op.out),
        "arena": reference(ARENA, 0),
        "rows": rows,
        "sums": sums,
        "tiles": tiles,
        "last_start": vectors - tile,
        "scale": number(op.scale),
    }
    macs = op.blocks * rows * sums * op.out.height * op.out.width
    kernel = ProductKernel(op.transposed, height, tile, builder.element)
    step = builder.by_range(op.name, kernel, fields, op.blocks * tiles, macs)
    return replace(step, slots=float(op.blocks * rows * sums * tiles * tile))


def _attention(builder: StepBuilder, op: AttentionOp) -> Step:
    layout, vectors = builder.layout, builder.layout.vectors(op.out)
    keys, width = op.key.width, len(op.value.planes) // op.heads
    rows, tile = _shape(builder, min(keys, width), vectors)
    tiles = -(-vectors // tile)
    added = np.zeros(1, np.float32) if op.mask is None else _scores_mask(builder, op)
    fields = {
        "queries": builder.table(builder.planes(op.query)),
        "keys": builder.table(builder.planes(op.key)),
        "values": builder.table(builder.planes(op.value)),
        "outputs": builder.table(builder.planes(op.out)),
        "mask": builder.mask(op.out),
        "scores_mask": builder.constants.add(added),
        "head_mask": added[0].nbytes if len(added) > 1 else 0,
        "key_mask": vectors * layout.lanes * SCORE_BYTES,
        "by_key": reference(ARENA, layout.offset(PlaneRef(op.by_key.buffer, 0)) if op.by_key is not None else 0),
        "arena": reference(ARENA, 0),
        "key_count": keys,
        "query_planes": len(op.query.planes) // op.heads,
        "value_planes": width,
        "tiles": tiles,
        "last_start": vectors - tile,
        "scale": number(op.scale),
    }
    macs = keys * (len(op.query.planes) + len(op.value.planes)) * op.out.height * op.out.width
    kernel = AttentionKernel(rows, tile, op.mask is not None, op.by_key is not None, builder.element)
    start = layout.offset(PlaneRef(op.scratch.buffer, 0))
    own = keys * LARGEST_TILE * layout.lanes * SCORE_BYTES
    bounds = [op.heads * tiles * thread // builder.threads for thread in range(builder.threads + 1)]
    parts = [
        tuple(
            kernel.signature.pack(
                fields | {"first": first, "last": last, "scratch": reference(ARENA, start + thread * own)}
            )
        )
        if last > first
        else None
        for thread, (first, last) in enumerate(pairwise(bounds))
    ]
    slots = op.heads * tiles * tile * keys * (fields["query_planes"] + width + EXP_SLOTS)
    return Step(op.name, kernel, tuple(parts), macs, macs, macs, slots=float(slots))


def _scores_mask(builder: StepBuilder, op: AttentionOp) -> npt.NDArray[np.float32]:
    """The mask as (heads or 1, keys, positions of queries)."""
    assert op.mask is not None
    by_key = op.mask.transpose(0, 2, 1).reshape(*op.mask.shape[:1], op.mask.shape[2], op.out.height, op.out.width)
    return np.ascontiguousarray(builder.positions(op.out, by_key), np.float32)


def _shape(builder: StepBuilder, rows: int, vectors: int) -> tuple[int, int]:
    """The strip and tile of a product: the fewest cycles, of those whose sums, of 32 bits, fit the registers."""
    registers = builder.target.vector_registers * builder.element.register_bytes // SCORE_BYTES
    shapes = []
    for height in (height for height in (8, 4, 2, 1) if height <= rows):
        for tile in range(1, min(LARGEST_TILE, vectors) + 1):
            sums = height * tile
            if sums + tile + 1 <= registers or sums == 1:
                # As many loads a cycle as multiply-adds; too few sums wait for one another.
                cycles = max(sums, height + tile + 2, SUMS_IN_FLIGHT) / sums
                covered = -(-vectors // tile) * tile / vectors
                shapes.append((cycles * covered, -tile, height))
    _, tile, height = min(shapes)
    return height, -tile


def _moved(builder: StepBuilder, op: TokenOperation) -> int:
    """Bytes of activations that an operation reads and writes."""
    if isinstance(op, GatherOp):
        return int(2 * op.from_rows.shape[1] * op.from_columns.shape[1] * builder.element.bytes)
    images = [value for value in token_values(op) if isinstance(value, Image)]
    return sum(len(image.planes) * image.height * image.width for image in images) * builder.element.bytes


def _counted(build: Callable[[StepBuilder, Any], Step]) -> Callable[[StepBuilder, Any], Step]:
    """``build``, with what the step moves noted."""
    return lambda builder, op: replace(build(builder, op), bytes=_moved(builder, op))


BUILDERS: Mapping[type, Callable[..., Step]] = {
    GatherOp: _counted(_gather),
    LayerNormOp: _counted(_layer_norm),
    SoftmaxOp: _counted(_softmax),
    ProductOp: _counted(_product),
    AttentionOp: _counted(_attention),
}
