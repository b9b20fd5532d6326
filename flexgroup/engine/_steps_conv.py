"""Steps of convolutions: which kernel, how the work is cut, and everything it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import HEIGHTS, Choice, Layer
from flexgroup.engine._layout import SINK, PlaneRef
from flexgroup.engine._operations import (
    ConvOp,
)
from flexgroup.engine._plan import ARENA, Step, number, reference
from flexgroup.kernels.conv import PackedRows, pack

Fields = dict[str, int]


if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder


def _conv(builder: StepBuilder, op: ConvOp) -> Step:
    patterns = [matrix != 0 if builder.sparse else np.ones(matrix.shape, np.bool_) for matrix in op.matrices]
    vectors = builder.layout.vectors(op.out)
    displaced = len({(tap.row, tap.column) for tap in op.taps[0]}) > 1
    choice = _choose(builder, patterns, vectors, displaced)
    kernel = choice.kernel(op.residual is not None, builder.element)
    pixels = op.out.height * op.out.width
    tiles = -(-vectors // choice.tile)
    bands = _bands(builder, patterns, choice, tiles)
    if len(bands) == 1:
        cuts = [tiles * thread // builder.threads for thread in range(builder.threads + 1)]
        shares = [(bands[0], first, last) for first, last in pairwise(cuts)]
    else:
        shares = [(band, 0, tiles) for band in bands]
    packed = {band: _conv_fields(builder, op, patterns, choice, vectors, band) for band in bands if band[0] < band[1]}
    parts = [
        tuple(kernel.signature.pack(packed[band][0] | {"first_tile": first, "last_tile": last}))
        if band in packed and first < last
        else None
        for band, first, last in shares
    ]
    executed = sum(macs for _, macs in packed.values())
    useful = sum(int((matrix != 0).sum()) for matrix in op.matrices) * pixels
    dense = sum(matrix.size for matrix in op.matrices) * pixels
    return Step(op.name, kernel, tuple(parts), executed * pixels, useful, dense, choice.reason)


def _choose(builder: StepBuilder, patterns: list[npt.NDArray[np.bool_]], vectors: int, displaced: bool) -> Choice:
    """The kernel of a layer; a grouped convolution is a block-diagonal matrix, always run as groups."""
    if len(patterns) == 1:
        return builder.chooser(
            Layer(patterns[0], vectors, displaced), builder.target, sparse=builder.sparse, heights=HEIGHTS
        )
    rows = patterns[0].shape[0]
    heights = tuple(height for height in HEIGHTS if rows % height == 0)
    stacked = Layer(np.concatenate(patterns), vectors, displaced)
    choice = builder.chooser(stacked, builder.target, sparse=True, heights=heights)
    if choice.form != "dense":
        return choice
    return replace(choice, form="strip" if choice.rows > 1 else "ring")


def _bands(
    builder: StepBuilder, patterns: list[npt.NDArray[np.bool_]], choice: Choice, tiles: int
) -> list[tuple[int, int]]:
    """Rows for every thread, with equal weights, where tiles alone would leave threads idle; else one band."""
    height = sum(len(pattern) for pattern in patterns)
    strips = -(-height // choice.rows)
    balanced_tiles = -(-tiles // builder.threads) <= 1.15 * tiles / builder.threads
    if builder.threads == 1 or len(patterns) > 1 or balanced_tiles or strips < builder.threads:
        return [(0, height)]
    (pattern,) = patterns
    work = np.ones(height) if choice.form == "dense" else pattern.sum(axis=1) + 1.0
    done = np.cumsum(np.add.reduceat(work, np.arange(0, height, choice.rows)))
    cuts = [0]
    for thread in range(1, builder.threads):
        cut = int(np.searchsorted(done, done[-1] * thread / builder.threads)) + 1
        cuts.append(max(cuts[-1], min(cut * choice.rows, height)))
    return list(zip(cuts, [*cuts[1:], height], strict=True))


def _conv_fields(
    builder: StepBuilder,
    op: ConvOp,
    patterns: list[npt.NDArray[np.bool_]],
    choice: Choice,
    vectors: int,
    band: tuple[int, int],
) -> tuple[Fields, int]:
    """The arguments for the rows ``band``, and the multiply-accumulates a position."""
    pitch = builder.layout.pitch(op.out)
    packs: list[PackedRows] = []
    offsets: list[npt.NDArray[np.int64]] = []
    for matrix, pattern, taps in zip(op.matrices, patterns, op.taps, strict=True):
        packed = pack(matrix, pattern, choice.form, choice.rows, band if len(op.matrices) == 1 else None)
        addresses = np.array([builder.tap(tap, pitch) for tap in taps], dtype=np.int64)
        packs.append(packed)
        offsets.append(addresses[packed.columns])
    ends = [packed.ends + sum(before.groups for before in packs[:i]) for i, packed in enumerate(packs)]
    height = band[1] - band[0]
    row_count = -(-height // choice.rows) * choice.rows
    bias = np.zeros(row_count + choice.rows, dtype=np.float32)
    bias[:height] = op.bias[slice(*band)]
    sink = [builder.layout.offset(PlaneRef(SINK, 0))] * (row_count - height)
    outputs = builder.planes(op.out)[slice(*band)] + sink
    residuals = builder.planes(op.residual)[slice(*band)] + sink if op.residual is not None else [0]
    weights = np.concatenate([packed.weights for packed in packs])
    fields = {
        "ends": builder.constants.add(np.concatenate(ends)),
        "offsets": builder.table(np.concatenate(offsets)),
        "weights": builder.constants.add(weights),
        "bias": builder.constants.add(bias),
        "outputs": builder.table(outputs),
        "residuals": builder.table(residuals),
        "mask": builder.mask(op.out),
        "arena": reference(ARENA, 0),
        "row_count": row_count,
        "columns": op.matrices[0].shape[1],
        "last_start": vectors - choice.tile,
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    return fields, int(weights.size)


BUILDERS: Mapping[type, Callable[..., Step]] = {ConvOp: _conv}
