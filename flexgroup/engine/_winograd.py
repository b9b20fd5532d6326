"""Dense convolutions with fewer multiplications: the method of Winograd, over rows.

Some rows of the output are one block, of B. Along a column of pixels they are a convolution of the weights' column of R
taps with the R + B - 1 rows that the block reads, which takes R + B - 1 multiplications instead of B R where both are
known at as many points (`kernels.transform`). Over rows alone everything stays a combination of whole rows, so that
vectors, strides and any kernel width are as they were. There are three stages:

1. the rows of each input plane to their values at the points (`TransformKernel`);
2. for each point, the planes' values times the weights' values: a dense matrix, displaced by columns only, which a
   kernel for groups multiplies;
3. the values of each output plane to its rows, with bias, residual and activation (`TransformKernel`).

With a stride of 2 every other row of the input is another plane, with R or R - 1 taps. Planes with one tap less do
without the point at infinity, so that all are added up before the last stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import SHARE_OF_FIRST, best_tile, cut
from flexgroup.engine._conv_layers import conv_layer
from flexgroup.engine._costs import Costs
from flexgroup.engine._geometry import round_up
from flexgroup.engine._layout import PlaneRef
from flexgroup.engine._operations import ConvOp, Operation, Tap
from flexgroup.engine._plan import number as number_of
from flexgroup.engine._steps_conv import longest_run, runs
from flexgroup.engine._work import ConvWork, Tiles, TransformWork, Work
from flexgroup.graph.ir import IDENTITY
from flexgroup.kernels import LINE, ConvKernel, KernelSpec, TransformKernel
from flexgroup.kernels.transform import BLOCKS, MOST_TAPS, transforms

if TYPE_CHECKING:
    from flexgroup.engine._steps import Fields, Place, StepBuilder

ROWS = 4  # of a strip of the second stage
FEWEST_TAPS = 2
FEWEST_CHANNELS = 16  # of a part: with less, most of the time is the transforms
FEWEST_BLOCKS = 6  # or threads, which share blocks, would be idle
WORTH = 0.9  # of the direct kernel's cost: more than that is not worth the rounding
TRANSFORMED = "fewer multiplications: Winograd's method, {} rows at a time"
SHARE = 0.4  # of the second-level cache, that a block's values may take
SHARE_OF_IMAGES = 0.3  # of the memory of what is read and written, that they may take besides

StageCall = tuple[KernelSpec, tuple[int, ...], int]


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
    block: int

    @property
    def reach(self) -> tuple[int, int]:
        """The first and the last column."""
        columns = [each.column for each in self.columns]
        return min(columns), max(columns)

    @property
    def points(self) -> int:
        return self.block + self.most - 1

    def has(self, plane: int, point: int) -> bool:
        """Whether a plane has a value at a point: those with one tap less have none at infinity, the last."""
        return point < self.block + self.rows[plane][1] - 1


def taps_of(taps: Sequence[Tap], block: int) -> Taps | None:
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
    return Taps(tuple(places), tuple(rows), tuple(columns), most, block)


@dataclass(frozen=True)
class Products:
    """The second stage: its groups, the rows that it writes, and how those are cut."""

    groups: int
    height: int
    tiles: Tiles

    def work(self, builder: StepBuilder, planes: int) -> ConvWork:
        """What a call does; ``planes`` are read by a strip."""
        held = planes * self.tiles.size * builder.layout.vector_bytes
        missed = float(held > SHARE_OF_FIRST * builder.target.first_cache_bytes)
        lines, strips = self.groups * (ROWS + 1) * builder.element.bytes / LINE, self.height // ROWS
        near = self.bytes(builder) < builder.target.cache_bytes / 2
        return ConvWork(self.groups, ROWS, self.tiles, self.height, strips, False, missed, lines, near)

    def bytes(self, builder: StepBuilder) -> int:
        """Of the weights."""
        return self.groups * ROWS * builder.element.bytes


@dataclass(frozen=True)
class BlockWork:
    """``blocks`` blocks, each a call of every stage."""

    blocks: int
    stages: tuple[Work, ...]

    def slots(self, costs: Costs) -> float:
        return self.blocks * sum(stage.slots(costs) + costs.call for stage in self.stages) - costs.call


@dataclass(frozen=True)
class Part:
    """Output channels first..last (exclusive), whose sums are in memory together, and what their products are."""

    first: int
    last: int
    products: Products

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
    parts: tuple[Part, ...]

    @property
    def values(self) -> int:
        """Elements of the input planes' values at the points."""
        return self.taps.points * len(self.taps.planes) * self.row

    @property
    def panel(self) -> int:
        """Elements of a block's values and sums."""
        return self.values + self.taps.points * self.parts[0].channels * self.sums

    def kernel(self, form: str, taps: int) -> TransformKernel:
        """The transform of planes with so many taps."""
        return TransformKernel(form, self.taps.block, taps, self.taps.most)

    def work(self, builder: StepBuilder, rows: int) -> BlockWork:
        """What calls for so many rows of the output do."""
        taps, lanes = self.taps, builder.layout.lanes
        works: list[Work] = [
            TransformWork(sum(count == own for _, count in taps.rows), self.row // lanes, self.kernel("input", own))
            for own in self.counts
        ]
        for part in self.parts:
            output = self.kernel("output", taps.most)
            works.append(part.products.work(builder, len(taps.planes)))
            works.append(TransformWork(part.last - part.first, -(-self.pitch // lanes), output))
        return BlockWork(rows // taps.block, tuple(works))

    @property
    def counts(self) -> list[int]:
        """How many taps planes have: one number, or two."""
        return sorted({count for _, count in self.taps.rows})


def blocks_of(builder: StepBuilder, op: ConvOp, block: int) -> Blocks | None:
    """``op`` in blocks of so many rows, or None where that is impossible."""
    return builder.once(lambda: _blocks(builder, op, block), "blocks", id(op), block)


def _blocks(builder: StepBuilder, op: ConvOp, block: int) -> Blocks | None:
    layout, lanes = builder.layout, builder.layout.lanes
    if len(op.matrices) > 1 or builder.element.converts or builder.element.bytes < 4:
        return None
    if op.out.height % block or op.out.height < FEWEST_BLOCKS * block:
        return None
    taps, pitch = taps_of(op.taps[0], block), layout.pitch(op.out)
    if taps is None or pitch < lanes or -taps.reach[0] > lanes:
        return None
    vectors = -(-op.out.width // lanes)  # on its border the mask makes zeros of whatever lies there
    lead = round_up(max(0, -taps.reach[0]), lanes)
    row = lead + round_up(vectors * lanes + max(0, taps.reach[1]), lanes)
    apart = LINE // builder.element.bytes  # rows begin an odd number of cache lines apart
    padded, sums = round_up(row, apart) | apart, round_up(max(vectors * lanes, pitch), apart) | apart
    images = sum(image.distinct * image.height * layout.pitch(image) for image in (op.reads[0], op.out))
    room = min(SHARE * builder.target.cache_bytes / builder.element.bytes, SHARE_OF_IMAGES * images)
    most = int((room - taps.points * len(taps.planes) * padded) // (taps.points * sums)) // ROWS * ROWS
    if most < FEWEST_CHANNELS:
        return None
    height = len(op.matrices[0])
    columns = sum(taps.has(each.plane, point) for each in taps.columns for point in range(taps.points))
    each = round_up(-(-height // -(-height // most)), ROWS)
    tiles = cut(best_tile(ROWS, vectors, builder.target), vectors, builder.target)

    def part(first: int, last: int) -> Part:
        channels = round_up(last - first, ROWS)
        return Part(first, last, Products(columns * channels // ROWS, taps.points * channels, tiles))

    parts = tuple(part(at, min(at + each, height)) for at in range(0, height, each))
    return Blocks(op, taps, lead, pitch, padded, sums, parts)


def transformed(builder: StepBuilder, operations: Sequence[Operation]) -> list[Operation]:
    """The operations, with the convolutions that cost less in blocks of rows marked so."""
    if not builder.target.triple or not builder.target.cache_bytes:
        return list(operations)
    return [replace(op, block=_best_block(builder, op)) if isinstance(op, ConvOp) else op for op in operations]


def _best_block(builder: StepBuilder, op: ConvOp) -> int:
    """The block that costs least; 0 where none is worth it."""
    found = [blocks for blocks in (blocks_of(builder, op, block) for block in BLOCKS) if blocks is not None]
    if not found:
        return 0
    slots = {each.taps.block: each.work(builder, op.out.height).slots(builder.costs) for each in found}
    best, direct = min(slots, key=lambda block: slots[block]), conv_layer(builder, op, op.out.height).choice
    return best if slots[best] < WORTH * direct.slots else 0


def block_calls(builder: StepBuilder, op: ConvOp, rows: tuple[int, int], place: Place) -> list[StageCall]:
    """The calls that compute ``rows`` of the output, whole blocks: kernels, arguments and multiply-accumulates."""
    blocks = blocks_of(builder, op, op.block)
    assert blocks is not None, "only such operations are marked"
    assert rows[0] % op.block == rows[1] % op.block == 0, "schedules keep to blocks"
    inputs, parts = builder.once(lambda: _calls(builder, blocks), "stages", id(op))
    panel = builder.panel(blocks.panel * builder.element.bytes, place.thread)
    sums = panel + blocks.values * builder.element.bytes
    calls: list[StageCall] = []
    for row in range(*rows, op.block):
        source, target = place.reference(op.reads[0], row), place.reference(op.out, row)
        residual = place.reference(op.residual or op.out, row)
        calls += [each.at(source, panel, panel) for each in inputs]
        for products, output in parts:
            calls += [products.at(panel, sums, sums), output.at(sums, target, residual)]
    return calls


@dataclass(frozen=True)
class _Template:
    """A call of a stage, but for where it reads and writes."""

    kernel: ConvKernel | TransformKernel
    fields: Fields
    macs: int

    def at(self, source: int, target: int, residual: int) -> StageCall:
        places = {"source": source, "target": target, "residual": residual}
        return self.kernel, tuple(self.kernel.signature.pack(self.fields | places)), self.macs


def _calls(builder: StepBuilder, blocks: Blocks) -> tuple[list[_Template], list[tuple[_Template, _Template]]]:
    """The calls of one block: of the first stage, and of the two others for every part of the channels."""
    inputs = [_input(builder, blocks, count) for count in blocks.counts]
    return inputs, [(_products(builder, blocks, part), _output(builder, blocks, part)) for part in blocks.parts]


def _input(builder: StepBuilder, blocks: Blocks, count: int) -> _Template:
    """Rows of the planes with so many taps to values at the points."""
    size, taps, kernel = builder.element.bytes, blocks.taps, blocks.kernel("input", count)
    own = [number for number, (_, rows) in enumerate(taps.rows) if rows == count]
    starts = [Tap(taps.planes[number], taps.rows[number][0], -blocks.lead) for number in own]
    vectors = blocks.row // builder.layout.lanes
    fields = {
        "inputs": builder.table([builder.tap(tap, blocks.pitch) for tap in starts]),
        "outputs": builder.table([number * taps.points * blocks.row * size for number in own]),
        "residuals": 0,
        "bias": 0,
        "mask": 0,
        "read": blocks.pitch * size,
        "written": blocks.row * size,
        "planes": len(own),
        "vectors": vectors,
        "last_start": (vectors - 1) * builder.layout.vector_bytes,
        "low": number_of(IDENTITY.low),
        "high": number_of(IDENTITY.high),
    }
    return _Template(kernel, fields, kernel.terms * len(own) * blocks.op.out.width)


def _output(builder: StepBuilder, blocks: Blocks, part: Part) -> _Template:
    """Sums at the points of a part's planes to their rows: not a position beyond a row is written."""
    op, layout, size = blocks.op, builder.layout, builder.element.bytes
    vectors, points = -(-blocks.pitch // layout.lanes), blocks.sums * size
    last_start = blocks.pitch * size - layout.vector_bytes
    overlaps = last_start != (vectors - 1) * layout.vector_bytes
    in_place = overlaps and op.residual is not None and layout.is_in_place(op.residual, op.out)
    plain = blocks.kernel("output", blocks.taps.most)
    kernel = replace(plain, residual=op.residual is not None, curve=op.curve, in_place=in_place)
    own = slice(part.first, part.last)
    fields = {
        "inputs": builder.table([channel * points for channel in range(part.last - part.first)]),
        "outputs": builder.table(builder.planes(op.out)[own]),
        "residuals": builder.table([0] if op.residual is None else builder.planes(op.residual)[own]),
        "bias": builder.numbers(op.bias[own]),
        "mask": builder.mask(op.out, 1),
        "read": part.channels * points,
        "written": blocks.pitch * size,
        "planes": part.last - part.first,
        "vectors": vectors,
        "last_start": last_start,
        "low": number_of(op.clamp.low),
        "high": number_of(op.clamp.high),
    }
    return _Template(kernel, fields, kernel.terms * (part.last - part.first) * op.out.width)


def _products(builder: StepBuilder, blocks: Blocks, part: Part) -> _Template:
    """Values of planes times values of weights, point by point; groups may come in runs."""
    op, taps, size, tiles = blocks.op, blocks.taps, builder.element.bytes, part.products.tiles
    matrix = np.zeros((part.channels, op.matrices[0].shape[1]))
    matrix[: part.last - part.first] = op.matrices[0][part.first : part.last]
    at_points = [transforms(len(each.weights), taps.most, taps.block)[1].T for each in taps.columns]
    values = [matrix[:, each.weights] @ at for each, at in zip(taps.columns, at_points, strict=True)]
    strips: list[list[int]] = []
    weights: list[npt.NDArray[np.floating]] = []
    for point in range(taps.points):
        has = [index for index, each in enumerate(taps.columns) if taps.has(each.plane, point)]
        offsets = []
        for each in (taps.columns[index] for index in has):
            offsets.append(((each.plane * taps.points + point) * blocks.row + blocks.lead + each.column) * size)
        strips += [offsets] * (part.channels // ROWS)
        at_point = np.stack([values[index][:, point] for index in has])  # (columns, channels)
        weights.append(at_point.reshape(len(has), -1, ROWS).transpose(1, 0, 2).reshape(-1, ROWS))
    height = ROWS * len(strips)
    longest = longest_run(ROWS, "", builder.target)
    run, step = runs([np.array(strip) for strip in strips], builder.layout.vector_bytes, tiles.size, longest)
    ahead = part.products.bytes(builder) > builder.target.cache_bytes / 2
    form = ("strip", ROWS, tiles.size, False, builder.element)
    kernel = ConvKernel(*form, tail=tiles.tail, ahead=ahead, run=run, step=step, border=False, low=False, high=False)
    fields = {
        "ends": builder.table(np.cumsum([len(strip) for strip in strips])),
        "offsets": builder.table([offset for strip in strips for offset in strip]),
        "weights": builder.numbers(np.concatenate(weights).astype(np.float32)),
        "bias": builder.numbers(np.zeros(height + ROWS, np.float32)),
        "outputs": builder.table([row * blocks.sums * size for row in range(height)]),
        "residuals": builder.table([0]),
        "mask": 0,
        "row_count": height,
        "sweep": height,
        "columns": 0,
        "first_tile": 0,
        "last_tile": tiles.count,
        "whole_tiles": tiles.whole,
        "last_start": tiles.last_start * builder.layout.vector_bytes,
        "low": number_of(IDENTITY.low),
        "high": number_of(IDENTITY.high),
    }
    return _Template(kernel, fields, part.products.groups * ROWS * op.out.width)
