"""Dense convolutions with fewer multiplications: the method of Winograd, over rows.

Four rows of the output are one block. Along a column of pixels they are a convolution of the weights' column of R taps
with the R + 3 rows that the block reads. Such a short convolution is a product of polynomials, and takes R + 3
multiplications instead of 4 R when both are known at as many points (Toom and Cook; Winograd, "Arithmetic Complexity of
Computations", 1980; Lavin and Gray, arXiv 1509.09308). Over rows alone everything stays a combination of whole rows, so
that vectors, strides and any kernel width are as they were, and each of the three stages is a sparse product, which a
kernel for groups computes:

1. the rows of each input plane to their values at the points: an 8 x (R + 3) matrix a plane;
2. for each point, the planes' values times the weights' values: a dense matrix, displaced by columns only;
3. the values of each output plane to its four rows: a 4 x (R + 3) matrix, with bias, residual and activation.

With a stride of 2 every other row of the input is another plane, with R or R - 1 taps. Planes with one tap less do
without the point at infinity, so that all are added up before the last stage.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import SHARE_OF_FIRST, best_tile, cut
from flexgroup.engine._costs import Costs
from flexgroup.engine._geometry import round_up
from flexgroup.engine._layout import Image, PlaneRef
from flexgroup.engine._operations import ConvOp, Operation, Tap
from flexgroup.engine._plan import number
from flexgroup.engine._rows import BLOCK
from flexgroup.engine._steps_conv import conv_layer, longest_run, runs
from flexgroup.engine._work import ConvWork, Tiles, Work, tiles_of
from flexgroup.graph.ir import IDENTITY
from flexgroup.kernels import LINE, ConvKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import Fields, Place, StepBuilder

ROWS = 4  # of a strip in every stage
FINITE_POINTS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0)  # whose powers stay near 1
MOST_TAPS, FEWEST_TAPS = 4, 2
FEWEST_CHANNELS = 16  # of a part: with less, most of the time is the transforms
FEWEST_BLOCKS = 6  # or threads, which share blocks, would be idle
WORTH = 0.9  # of the direct kernel's cost: more than that is not worth the rounding
TRANSFORMED = f"fewer multiplications: Winograd's method, {BLOCK} rows at a time"
SHARE = 0.4  # of the second-level cache, that a block's values may take

_Matrix = npt.NDArray[np.float64]
StageCall = tuple[ConvKernel, tuple[int, ...], int]


@functools.lru_cache(maxsize=16)
def transforms(taps: int, most: int) -> tuple[_Matrix, _Matrix, _Matrix]:
    """(A, G, B): the rows y[i] = sum over k of g[k] d[i + k] are ``A @ ((G @ g) * (B @ d))``.

    g has ``taps`` entries, ``most`` or one less, d has ``taps`` + 3. A is (4, ``most`` + 3); for fewer taps its last
    column, of the point at infinity, has no row in G and B.
    """
    size, finite = BLOCK + taps - 1, FINITE_POINTS[: BLOCK + most - 2]
    powers = np.array(finite)[None, :] ** np.arange(size)[:, None]
    at_infinity = np.zeros((size, int(taps == most)))
    at_infinity[-1:] = 1.0
    b = np.linalg.inv(np.hstack([powers, at_infinity]))
    g = np.vstack([powers[:taps].T, at_infinity[-taps:].T])
    a = np.hstack([np.array(finite)[None, :] ** np.arange(BLOCK)[:, None], np.eye(BLOCK)[:, -1:]])
    scale = np.abs(b).sum(axis=1, keepdims=True)  # values as large as what they are values of
    return a, g * scale, b / scale


@dataclass(frozen=True)
class Column:
    """A plane's taps in one column: the weights' columns in order, from ``row`` down."""

    plane: int  # number of the plane, in order of first use
    column: int
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Taps:
    """A convolution's taps by plane and column; every plane has as many rows in all its columns."""

    planes: tuple[PlaneRef, ...]
    rows: tuple[tuple[int, int], ...]  # of each plane: the first, and how many
    columns: tuple[Column, ...]
    most: int

    @property
    def reach(self) -> tuple[int, int]:
        """The first and the last column."""
        columns = [each.column for each in self.columns]
        return min(columns), max(columns)

    @property
    def points(self) -> int:
        return BLOCK + self.most - 1

    def has(self, plane: int, point: int) -> bool:
        """Whether a plane has a value at a point: those with one tap less have none at infinity, the last."""
        return point < BLOCK + self.rows[plane][1] - 1


def taps_of(taps: Sequence[Tap]) -> Taps | None:
    """The taps in columns, or None where they are not what this method is for."""
    places: dict[PlaneRef, dict[int, dict[int, int]]] = {}
    for index, tap in enumerate(taps):
        column = places.setdefault(tap.plane, {}).setdefault(tap.column, {})
        if tap.row in column:
            return None
        column[tap.row] = index
    rows: list[tuple[int, int]] = []
    columns: list[Column] = []
    for number_, across in enumerate(places.values()):
        (first, *rest) = across.values()
        wanted = list(range(min(first), min(first) + len(first)))
        if any(sorted(column) != wanted for column in (first, *rest)):
            return None
        rows.append((wanted[0], len(wanted)))
        columns += [Column(number_, at, tuple(column[row] for row in wanted)) for at, column in across.items()]
    most = max(count for _, count in rows)
    if not FEWEST_TAPS <= most <= MOST_TAPS or min(count for _, count in rows) < most - 1:
        return None
    return Taps(tuple(places), tuple(rows), tuple(columns), most)


@dataclass(frozen=True)
class Stage:
    """One of the three products: its groups, how they are cut, and what its kernel is."""

    groups: int
    height: int
    tiles: Tiles

    def work(self, builder: StepBuilder, planes: int, *, near: bool = True) -> ConvWork:
        """What a call does; ``planes`` are read by a strip."""
        held = planes * self.tiles.size * builder.layout.vector_bytes
        missed = float(held > SHARE_OF_FIRST * builder.target.first_cache_bytes)
        lines, strips = self.groups * (ROWS + 1) * builder.element.bytes / LINE, self.height // ROWS
        return ConvWork(self.groups, ROWS, self.tiles, self.height, strips, False, missed, lines, near)


@dataclass(frozen=True)
class BlockWork:
    """``blocks`` blocks, each a call of every stage."""

    blocks: int
    stages: tuple[Work, ...]

    def slots(self, costs: Costs) -> float:
        return self.blocks * sum(stage.slots(costs) + costs.call for stage in self.stages) - costs.call


@dataclass(frozen=True)
class Part:
    """Output channels first..last (exclusive), whose sums are in memory together, and their two stages."""

    first: int
    last: int
    second: Stage
    third: Stage

    @property
    def channels(self) -> int:
        """How many there are, rounded up to strips."""
        return round_up(self.last - self.first, ROWS)


@dataclass(frozen=True, eq=False)
class Blocks:
    """How a convolution is computed in blocks: sizes in elements, stages, and where their values lie in a panel."""

    op: ConvOp
    taps: Taps
    lead: int  # from a transformed row's beginning to its first pixel
    pitch: int  # of the image
    row: int  # elements of a transformed row
    sums: int  # elements of a point's row of an output plane
    first: Stage
    parts: tuple[Part, ...]

    @property
    def planes(self) -> int:
        """Rows that the first stage puts out."""
        return 2 * ROWS * len(self.taps.planes)

    @property
    def panel(self) -> int:
        """Elements of a block's values."""
        return self.planes * self.row + self.taps.points * self.parts[0].channels * self.sums

    def work(self, builder: StepBuilder, rows: int) -> BlockWork:
        """What calls for so many rows of the output do."""
        weights = sum(part.second.groups for part in self.parts) * ROWS * builder.element.bytes
        near = weights < builder.target.cache_bytes / 2
        works: list[Work] = [self.first.work(builder, 1)]
        for part in self.parts:
            works.append(part.second.work(builder, len(self.taps.planes), near=near))
            works.append(replace(part.third.work(builder, 1), missed=1.0))
        return BlockWork(rows // BLOCK, tuple(works))


def blocks_of(builder: StepBuilder, op: ConvOp) -> Blocks | None:
    """``op`` in blocks of rows, or None where that is impossible."""
    return builder.once(lambda: _blocks(builder, op), "blocks", id(op))


def _blocks(builder: StepBuilder, op: ConvOp) -> Blocks | None:
    layout, lanes = builder.layout, builder.layout.lanes
    if len(op.matrices) > 1 or op.out.height % BLOCK or builder.element.converts or builder.element.bytes < 4:
        return None
    taps, pitch = taps_of(op.taps[0]), layout.pitch(op.out)
    if op.out.height < FEWEST_BLOCKS * BLOCK:
        return None
    if taps is None or pitch < lanes or -taps.reach[0] > lanes:
        return None
    vectors = -(-op.out.width // lanes)  # on its border the mask makes zeros of whatever lies there
    lead = round_up(max(0, -taps.reach[0]), lanes)
    row = lead + round_up(vectors * lanes + max(0, taps.reach[1]), lanes)
    apart = LINE // builder.element.bytes  # rows begin an odd number of cache lines apart
    padded, sums = round_up(row, apart) | apart, round_up(max(vectors * lanes, pitch), apart) | apart
    room = SHARE * builder.target.cache_bytes / builder.element.bytes - 2 * ROWS * len(taps.planes) * padded
    most = int(room // (taps.points * sums)) // ROWS * ROWS
    if most < FEWEST_CHANNELS:
        return None
    height = len(op.matrices[0])
    columns = sum(taps.has(each.plane, point) for each in taps.columns for point in range(taps.points))
    each = round_up(-(-height // -(-height // most)), ROWS)

    def stage(groups: int, rows: int, size: int) -> Stage:
        return Stage(groups, rows, cut(best_tile(ROWS, size, builder.target), size, builder.target))

    def part(first: int, last: int) -> Part:
        channels = round_up(last - first, ROWS)
        second = stage(columns * channels // ROWS, taps.points * channels, vectors)
        tile = min(second.tiles.size, pitch // lanes)  # not a position beyond a row is written: the last one overlaps
        tiles = tiles_of(tile, -(-pitch // lanes), has_tails=False)
        third = Stage((last - first) * taps.points, BLOCK * (last - first), tiles)
        return Part(first, last, second, third)

    first = stage(sum(2 * (BLOCK + count - 1) for _, count in taps.rows), 2 * ROWS * len(taps.planes), row // lanes)
    parts = tuple(part(at, min(at + each, height)) for at in range(0, height, each))
    return Blocks(op, taps, lead, pitch, padded, sums, first, parts)


def transformed(builder: StepBuilder, operations: Sequence[Operation]) -> list[Operation]:
    """The operations, with the convolutions that cost less in blocks of rows marked so."""
    return [
        replace(op, is_transformed=True) if isinstance(op, ConvOp) and _is_worth_it(builder, op) else op
        for op in operations
    ]


def _is_worth_it(builder: StepBuilder, op: ConvOp) -> bool:
    blocks = blocks_of(builder, op) if builder.target.triple and builder.target.cache_bytes else None
    if blocks is None:
        return False
    direct = conv_layer(builder, op, op.out.height).choice
    return blocks.work(builder, op.out.height).slots(builder.costs) < WORTH * direct.slots


def block_calls(builder: StepBuilder, op: ConvOp, rows: tuple[int, int], place: Place) -> list[StageCall]:
    """The calls that compute ``rows`` of the output, whole blocks: kernels, arguments and multiply-accumulates."""
    blocks = blocks_of(builder, op)
    assert blocks is not None, "only such operations are marked"
    assert rows[0] % BLOCK == rows[1] % BLOCK == 0, "schedules keep to blocks"
    first, *others = builder.once(lambda: _calls(builder, blocks), "stages", id(op))
    panel = builder.panel(blocks.panel * builder.element.bytes, place.thread)
    sums = panel + blocks.planes * blocks.row * builder.element.bytes
    calls: list[StageCall] = []
    for row in range(*rows, BLOCK):
        source, target = place.reference(op.reads[0], row), place.reference(op.out, row)
        residual = place.reference(op.residual or op.out, row)
        calls.append(first.at(source, panel, panel))
        for second, third in zip(others[::2], others[1::2], strict=True):
            calls += [second.at(panel, sums, sums), third.at(sums, target, residual)]
    return calls


@dataclass(frozen=True)
class _Template:
    """A call of a stage, but for where it reads and writes."""

    kernel: ConvKernel
    fields: Fields
    macs: int

    def at(self, source: int, target: int, residual: int) -> StageCall:
        places = {"source": source, "target": target, "residual": residual}
        return self.kernel, tuple(self.kernel.signature.pack(self.fields | places)), self.macs


def _calls(builder: StepBuilder, blocks: Blocks) -> list[_Template]:
    """The calls of one block: of the first stage, then of the two others for every part of the channels."""
    calls = [_between(builder, blocks, blocks.first, _first(builder, blocks))]
    for part in blocks.parts:
        calls.append(_between(builder, blocks, part.second, *_second(builder, blocks, part)))
        calls.append(_last(builder, blocks, part))
    return calls


def _between(
    builder: StepBuilder, blocks: Blocks, stage: Stage, table: Fields, run: tuple[int, int] = (1, 0)
) -> _Template:
    """The call of a stage that writes values; its groups come in runs (`runs`)."""
    vector, size = builder.layout.vector_bytes, builder.element.bytes
    ahead = stage.groups * ROWS * size > builder.target.cache_bytes / 2
    everywhere = np.full(blocks.row + stage.tiles.size * builder.layout.lanes, -1, builder.integer)
    fields = table | {
        "mask": builder.constants.add(everywhere),
        "last_tile": stage.tiles.count,
        "whole_tiles": stage.tiles.whole,
        "last_start": stage.tiles.last_start * vector,
        "low": number(IDENTITY.low),
        "high": number(IDENTITY.high),
    }
    form = ("strip", ROWS, stage.tiles.size, False, builder.element)
    kernel = ConvKernel(*form, tail=stage.tiles.tail, ahead=ahead, run=run[0], step=run[1])
    return _Template(kernel, fields, stage.groups * ROWS * blocks.op.out.width)


def _last(builder: StepBuilder, blocks: Blocks, part: Part) -> _Template:
    """The call of the stage that writes the output."""
    op, stage, layout = blocks.op, part.third, builder.layout
    last_start = blocks.pitch * builder.element.bytes - stage.tiles.size * layout.vector_bytes
    overlaps = last_start != stage.tiles.last_start * layout.vector_bytes
    in_place = overlaps and op.residual is not None and layout.is_in_place(op.residual, op.out)
    fields = _third(builder, blocks, part) | {
        "mask": builder.mask(op.out, 1),
        "last_tile": stage.tiles.count,
        "whole_tiles": stage.tiles.whole,
        "last_start": last_start,
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    adds = op.residual is not None
    kernel = ConvKernel("strip", ROWS, stage.tiles.size, adds, builder.element, op.curve, in_place, ahead=False)
    return _Template(kernel, fields, stage.groups * ROWS * op.out.width)


def _table(
    builder: StepBuilder,
    strips: Sequence[Sequence[int]],
    weights: npt.NDArray[np.floating],
    outputs: Sequence[int],
    residuals: Sequence[int] = (0,),
    bias: npt.NDArray[np.float32] | None = None,
) -> Fields:
    """The tables of a stage: of every strip the offsets of its groups; (groups, 4) weights; offsets of the rows."""
    height = ROWS * len(strips)
    numbers = np.zeros(height + ROWS, np.float32)
    numbers[:height] = 0.0 if bias is None else bias
    return {
        "ends": builder.table(np.cumsum([len(strip) for strip in strips])),
        "offsets": builder.table([offset for strip in strips for offset in strip]),
        "weights": builder.numbers(np.ascontiguousarray(weights, np.float32)),
        "bias": builder.numbers(numbers),
        "outputs": builder.table(outputs),
        "residuals": builder.table(residuals),
        "row_count": height,
        "sweep": height,
        "columns": 0,
        "first_tile": 0,
    }


def _first(builder: StepBuilder, blocks: Blocks) -> Fields:
    """Rows of planes to values at the points."""
    size, taps = builder.element.bytes, blocks.taps
    strips: list[list[int]] = []
    weights: list[npt.NDArray[np.floating]] = []
    for plane, (first, count) in zip(taps.planes, taps.rows, strict=True):
        _, _, b = transforms(count, taps.most)
        padded = np.zeros((2 * ROWS, len(b)))
        padded[: len(b)] = b
        rows = [builder.tap(Tap(plane, first + row, -blocks.lead), blocks.pitch) for row in range(len(b))]
        strips += [rows, rows]
        weights += [padded[:ROWS].T, padded[ROWS:].T]
    outputs = [row * blocks.row * size for row in range(blocks.planes)]
    return _table(builder, strips, np.concatenate(weights), outputs)


def _second(builder: StepBuilder, blocks: Blocks, part: Part) -> tuple[Fields, tuple[int, int]]:
    """Values of planes times values of weights, point by point; and the runs of groups."""
    op, taps, size = blocks.op, blocks.taps, builder.element.bytes
    matrix = np.zeros((part.channels, op.matrices[0].shape[1]))
    matrix[: part.last - part.first] = op.matrices[0][part.first : part.last]
    values = [matrix[:, each.weights] @ transforms(len(each.weights), taps.most)[1].T for each in taps.columns]
    strips: list[list[int]] = []
    weights: list[npt.NDArray[np.floating]] = []
    for point in range(taps.points):
        has = [index for index, each in enumerate(taps.columns) if taps.has(each.plane, point)]
        offsets = []
        for each in (taps.columns[index] for index in has):
            offsets.append(((each.plane * 2 * ROWS + point) * blocks.row + blocks.lead + each.column) * size)
        strips += [offsets] * (part.channels // ROWS)
        at_point = np.stack([values[index][:, point] for index in has])  # (columns, channels)
        weights.append(at_point.reshape(len(has), -1, ROWS).transpose(1, 0, 2).reshape(-1, ROWS))
    outputs = [row * blocks.sums * size for row in range(taps.points * part.channels)]
    columns = [np.array(strip) for strip in strips]
    table = _table(builder, strips, np.concatenate(weights), outputs)
    longest = longest_run(ROWS, "", builder.target)
    return table, runs(columns, builder.layout.vector_bytes, part.second.tiles.size, longest)


def _third(builder: StepBuilder, blocks: Blocks, part: Part) -> Fields:
    """Values of output planes to their rows."""
    op, taps, size = blocks.op, blocks.taps, builder.element.bytes
    a, _, _ = transforms(taps.most, taps.most)
    channels = part.last - part.first
    strips = [
        [(point * part.channels + channel) * blocks.sums * size for point in range(taps.points)]
        for channel in range(channels)
    ]

    def rows_of_planes(image: Image) -> list[int]:
        planes = builder.planes(image)[part.first : part.last]
        return [plane + row * blocks.pitch * size for plane in planes for row in range(BLOCK)]

    residuals = [0] if op.residual is None else rows_of_planes(op.residual)
    weights, bias = np.tile(a.T, (channels, 1)), np.repeat(op.bias[part.first : part.last], BLOCK)
    return _table(builder, strips, weights, rows_of_planes(op.out), residuals, bias)
