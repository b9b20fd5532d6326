"""Steps of resizing: the taps of every output row and column, as the tables that the kernel reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._layout import PlaneRef
from flexgroup.engine._operations import ResizeOp
from flexgroup.engine._plan import ARENA, Step, reference
from flexgroup.graph.ir import Array
from flexgroup.kernels.resize import ResizeKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder


def taps_of(matrix: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """(outputs, taps): which inputs every output sums, and their weights; rows with fewer repeat one with weight 0."""
    count = max(1, int(np.count_nonzero(matrix, axis=1).max()))
    order = np.argsort(matrix == 0, axis=1, kind="stable")[:, :count]
    weights = np.take_along_axis(matrix, order, axis=1)
    inputs = np.where(weights != 0, order, order[:, :1])
    return inputs.astype(np.int64), np.ascontiguousarray(weights, np.float32)


def _resize(builder: StepBuilder, op: ResizeOp) -> Step:
    layout, lanes, size = builder.layout, builder.layout.lanes, builder.element.bytes
    rows, row_weights = taps_of(op.rows)
    starts = _starts(op.out.width, lanes)
    columns, column_weights = (_in_blocks(table, starts, lanes) for table in taps_of(op.columns))
    new_row = np.ones(len(rows), np.int32)
    same = (rows[1:] == rows[:-1]) & (row_weights[1:] == row_weights[:-1])
    new_row[1:] = ~same.all(axis=1)
    planes = len(op.out.planes)
    blocks = -(-planes // lanes)
    beyond = blocks * lanes - planes
    # The rows of narrow images overlap, and have to be written in order.
    bands = 1 if blocks >= 4 * builder.threads or op.out.width < lanes else min(builder.threads, len(rows))
    input_blocks = -(-op.image.width // lanes)
    mask = np.where(np.arange(lanes) < op.out.width, -1, 0).astype(builder.integer)
    inputs, outputs = builder.planes(op.image), builder.planes(op.out)
    fields = {
        "inputs": builder.table(inputs + inputs[-1:] * beyond),
        "outputs": builder.table(outputs + [layout.sink(op.out)] * beyond),
        "arena": reference(ARENA, 0),
        "row_offsets": builder.table(rows * layout.pitch(op.image) * size),
        "row_weights": builder.numbers(row_weights),
        "new_row": builder.constants.add(new_row),
        "row_taps": rows.shape[1],
        "column_offsets": builder.table(np.asarray(columns, np.int64) * builder.target.vector_bytes),
        "column_weights": builder.numbers(column_weights),
        "column_taps": columns.shape[1],
        "places": builder.table(starts * size),
        "mask": builder.constants.add(mask),
        "input_blocks": input_blocks,
        "output_blocks": len(starts),
        "rows": len(rows),
        "output_row": layout.pitch(op.out) * size,
        "bands": bands,
        "band_rows": -(-len(rows) // bands),
    }
    kernel = ResizeKernel(builder.element)
    start, own = layout.offset(PlaneRef(op.scratch.buffer, 0)), input_blocks * lanes * builder.target.vector_bytes
    bounds = [blocks * bands * thread // builder.threads for thread in range(builder.threads + 1)]
    parts = [
        tuple(kernel.signature.pack(fields | {"first": a, "last": b, "scratch": reference(ARENA, start + i * own)}))
        if b > a
        else None
        for i, (a, b) in enumerate(pairwise(bounds))
    ]
    moved = len(inputs) * op.image.height * op.image.width + planes * op.out.height * op.out.width
    return Step(op.name, kernel, tuple(parts), bytes=moved * size)


def _starts(count: int, lanes: int) -> npt.NDArray[np.int64]:
    """The first columns of the blocks that cover ``count`` columns: the last one ends with the row, if it can."""
    return np.minimum(np.arange(0, count, lanes), max(0, count - lanes))


def _in_blocks(table: npt.NDArray[np.generic], starts: npt.NDArray[np.int64], lanes: int) -> npt.NDArray[np.generic]:
    """(columns, taps) as (blocks of columns, taps, lanes), zeros beyond the last column."""
    padded = np.zeros((max(len(table), lanes), table.shape[1]), table.dtype)
    padded[: len(table)] = table
    return np.ascontiguousarray(padded[starts[:, None] + np.arange(lanes)].transpose(0, 2, 1))


BUILDERS: Mapping[type, Callable[..., Step]] = {ResizeOp: _resize}
