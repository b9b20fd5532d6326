"""Depthwise convolution: every output plane is one small window over one input plane.

Three forms. ``down`` walks down a column of vectors, or two side by side, and keeps the output rows that are not
complete yet in registers, so that every input row is loaded once for each column of the window, not once for each
entry. ``along`` walks along some output rows at once, and loads an input row once for all of them: large planes stream
through the first-level cache, and a few rows cost no more than their share of many. Both handle any stride along rows,
and strides 1 and 2 along columns (a stride of 2 splits pairs of vectors into even and odd elements). ``linear`` runs
over all positions of a plane, border included, like the other convolutions: for images narrower than a vector.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.curves import emit_curve
from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.product import overlapping
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "inputs",  # int32 an output plane: bytes from `source` to the window's first entry at the first output
        "outputs",  # int32 an output plane: bytes from `target` to its first position
        "weights",  # kernel_height x kernel_width numbers a plane
        "bias",  # a number a plane
        "mask",  # -1 inside the image, an integer of a number's size: a column, or a position (linear)
        "source",
        "target",
        "rows",  # output rows (along: at least a block's); linear: not read
        "source_row",  # bytes from an input row to the next
        "target_row",
        "starts",  # blocks of vectors: of a row (down, along), of all positions (linear)
        "last_start",  # bytes to the last block, which overlaps the one before where blocks do not divide
        "first",  # planes
        "last",
        "low",
        "high",
    )
)

MOST_ROWS = 4  # of a block
BLOCK = 16  # bytes within which every processor shuffles with one instruction
ROWS_SHARED = 1.0  # what a block costs beside its rows, in rows: loads of input rows that are shared


@dataclass(frozen=True)
class DepthwiseKernel:
    """A ``height`` x ``width`` window with these strides; ``tile`` vectors side by side, and ``rows`` rows (along)."""

    form: str  # "down", "along" or "linear"
    height: int
    width: int
    stride: tuple[int, int] = (1, 1)
    dilation: int = 1  # along columns and rows; only linear has any
    tile: int = 1
    curve: str = ""
    element: Element = F32
    reduce: str = "sum"  # or "max": the largest entry under the window, of inputs that are not negative
    tail: bool = False  # down, along: whether a row's last vector goes alone, where tiles do not divide them
    rows: int = 1  # along: of a block
    border: bool = True  # whether positions of the border are written too, as zeros: a mask says which

    @property
    def name(self) -> str:
        window = f"{self.height}x{self.width}"
        stride = f"_s{self.stride[0]}x{self.stride[1]}" if self.stride != (1, 1) else ""
        dilation = f"_d{self.dilation}" if self.dilation != 1 else ""
        curve = f"_{self.curve}" if self.curve else ""
        family = "depthwise" if self.reduce == "sum" else "maxpool"
        rows = f"_r{self.rows}" if self.form == "along" else ""
        tile = f"{self.tile}{'_1' * self.tail}"
        border = "_border" * self.border
        return f"{family}_{self.element.name}_{self.form}_{window}{stride}{dilation}{rows}_t{tile}{border}{curve}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    @property
    def row_loads(self) -> int:
        """Vectors of an input row that are loaded for a vector of outputs."""
        return self.width if self.stride[1] == 1 else 2 * -(-self.width // 2)

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        _Emitter(Kernel(module, self.name, target, self.element, SIGNATURE, apart=True), self).emit()


def block_rows(rows: int) -> int:
    """How many of ``rows`` output rows a block walks along: more load less for each, even where registers are short."""
    return min(range(1, min(rows, MOST_ROWS) + 1), key=lambda count: (-(-rows // count) * (count + ROWS_SHARED), count))


def loads(spec: DepthwiseKernel, target: Target) -> float:
    """Vectors that are loaded for a vector of outputs, on the way down or along."""
    rows: float = spec.stride[0]
    if spec.form == "along":
        rows = ((spec.rows - 1) * spec.stride[0] + spec.height) / spec.rows
    elif spec.stride[0] > 1 and not _shared_rows(spec, target):
        rows = spec.height
    return rows * spec.row_loads


def _shared_rows(spec: DepthwiseKernel, target: Target) -> int:
    """Input rows that stay in registers for the next output row, on the way down with a stride."""
    shared = max(0, spec.height - spec.stride[0])
    entries, columns = (0, 1) if spec.reduce == "max" else (spec.height * spec.width, spec.width * spec.tile)
    return shared if shared * columns + entries + 4 <= target.vector_registers else 0


def handles(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], form: str) -> bool:
    """Whether a depthwise kernel of this form exists for such a window."""
    if kernel[0] * kernel[1] > 49:
        return False
    if form == "linear":
        return stride == (1, 1) and dilation[0] == dilation[1]
    return dilation == (1, 1) and stride[1] in (1, 2)


class _Split:
    """Two vectors as their even and their odd elements, in an order that costs one instruction each.

    Where no instruction picks from two whole vectors, no element leaves its 128 bits: what is computed from such
    vectors is put in the order of memory at the end, once.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.k, lanes = kernel, kernel.lanes
        self.has_permutes = kernel.target.vector_bytes > 32  # AVX-512
        block = lanes if self.has_permutes else min(lanes, BLOCK // (2 if kernel.number == ir.HalfType() else 4))
        # Of every block of both vectors, the first one's elements first.
        places = [vector * lanes + at + i for at in range(0, lanes, block) for vector in (0, 1) for i in range(block)]
        self.even, self.odd = places[::2], places[1::2]
        self.order = sorted(range(lanes), key=self.even.__getitem__)
        self.keeps_order = self.order == list(range(lanes))

    def halves(self, pair: Sequence[ir.Value]) -> list[ir.Value]:
        return [self.k.picked(part, *pair) for part in (self.even, self.odd)]

    def in_order(self, value: ir.Value) -> ir.Value:
        return self.k.picked(self.order, value)


class _Emitter:
    def __init__(self, kernel: Kernel, spec: DepthwiseKernel) -> None:
        self.k = kernel
        self.spec = spec
        self.size = kernel.element.bytes
        self.bytes = kernel.width
        names = ("inputs", "outputs", "weights", "bias", "mask", "source", "target")
        self.inputs, self.outputs, self.weights, self.bias, self.mask, self.source, self.target = (
            kernel.address(name) for name in names
        )
        self.low, self.high = kernel.splat(kernel.scalar("low")), kernel.splat(kernel.scalar("high"))
        self.source_row, self.target_row = kernel.arg("source_row"), kernel.arg("target_row")
        self.split = _Split(kernel)

    def emit(self) -> None:
        k, spec = self.k, self.spec
        b = k.builder
        entries = spec.height * spec.width
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            source = k.at(self.source, k.load_index(self.inputs, planes.index))
            target = k.at(self.target, k.load_index(self.outputs, planes.index))
            weights = k.at(self.weights, b.mul(planes.index, ir.Constant(I64, entries * self.size)))
            self.factors = (
                [] if spec.reduce == "max" else [k.load_splat(weights, i * self.size) for i in range(entries)]
            )
            plane = b.mul(planes.index, ir.Constant(I64, self.size))
            self.start = k.load_splat(self.bias, plane)
            if spec.form == "along":
                self._along(source, target)
            else:
                with self._starts(spec.tile) as at:
                    self._column(source, target, at, spec.tile)
                if spec.tail:
                    self._column(source, target, k.arg("last_start"), 1)
        b.ret_void()

    def _column(self, source: ir.Value, target: ir.Value, at: ir.Value, vectors: int) -> None:
        """So many vectors side by side, from ``at`` bytes of an output row on."""
        k = self.k
        self.inside, self.vectors = k.at(self.mask, at), vectors
        read, write = k.at(source, k.builder.mul(at, ir.Constant(I64, self.spec.stride[1]))), k.at(target, at)
        if self.spec.form == "linear":
            self._positions(read, write)
        elif self.spec.stride[0] == 1:
            self._rolling(read, write)
        else:
            self._strided(read, write)

    @contextlib.contextmanager
    def _starts(self, step: int) -> Iterator[ir.Value]:
        """A loop over blocks of ``step`` vectors: bytes to where each begins; the last may overlap the one before."""
        k, last = self.k, self.k.arg("last_start")
        with k.loop(0, k.arg("starts")) as blocks:
            at = k.builder.mul(blocks.index, ir.Constant(I64, step * self.bytes))
            yield k.builder.select(k.builder.icmp_signed("<", at, last), at, last)

    def _columns(self, row: ir.Value, vectors: int) -> list[list[ir.Value]]:
        """The input row under every column of the window, for each of so many vectors of outputs side by side.

        Under a window of three columns and a stride of 2 the third one is the first of the next outputs: of the next
        vector, or a single number, instead of two more vectors that are loaded and split.
        """
        k, spec = self.k, self.spec
        starts = [vector * spec.stride[1] * self.bytes for vector in range(vectors)]
        if spec.stride[1] == 1:
            places = [[at + x * self.size for x in range(spec.width)] for at in starts]
            return [[self._entry(k.load_vector(row, self.size, place)) for place in each] for each in places]

        def halves(at: int) -> list[ir.Value]:
            pair = [k.load_vector(row, self.size, at + i * self.bytes) for i in (0, 1)]
            return [self._entry(part) for part in self.split.halves(pair)]

        if spec.width != 3 or not self.split.keeps_order:
            pairs = [[halves(at + x * self.size) for x in range(0, spec.width, 2)] for at in starts]
            return [[column for pair in each for column in pair][: spec.width] for each in pairs]
        split = [halves(at) for at in starts]
        after = [even for even, _ in split[1:]] + [self._entry(k.load_splat(row, vectors * 2 * self.bytes))]
        return [
            [even, odd, k.picked(range(1, k.lanes + 1), even, following)]
            for (even, odd), following in zip(split, after, strict=True)
        ]

    def _add_row(self, total: ir.Value, columns: list[ir.Value], y: int) -> ir.Value:
        for x, column in enumerate(columns):
            total = self._add_entry(total, column, y * self.spec.width + x)
        return total

    def _add_entry(self, total: ir.Value, value: ir.Value, entry: int) -> ir.Value:
        if self.spec.reduce == "sum":
            return self.k.fma(self.factors[entry], value, total)
        return self._largest([value, total])

    def _for_rows(
        self, complete: Callable[[ir.Value, list[ir.Value]], list[ir.Value]], carried: list[ir.Value]
    ) -> None:
        """``complete(row, carried)`` stores an output row, and gives what is carried on to the next, for all rows.

        Where a processor runs in order, two rows are arranged together, so that one is added to while the other waits.
        """
        k, rows = self.k, self.k.arg("rows")
        start: ir.Value | int = 0
        for count in (2, 1) if k.target.in_order else (1,):
            stop = rows if count == 1 else k.builder.and_(rows, ir.Constant(I64, -count))
            with k.loop(start, stop, count, carried) as each:
                values = list(each.values)
                for i in range(count):
                    values = complete(k.builder.add(each.index, ir.Constant(I64, i)), values)
                each.next = values
            start, carried = stop, each.results

    def _rolling(self, read: ir.Value, write: ir.Value) -> None:
        """Stride 1: input row r completes output row r - height + 1 and adds to those that follow it."""
        k, height, tile = self.k, self.spec.height, self.vectors
        b = k.builder

        def added(totals: list[ir.Value], row: ir.Value, y: int) -> list[ir.Value]:
            """An input row, under row ``y`` of the first output row's window, added to all: ``tile`` vectors a row."""
            sums = list(totals)
            for t in range(tile):
                (columns,) = self._columns(k.at(row, ir.Constant(I64, t * self.spec.stride[1] * self.bytes)), 1)
                for i in range(t, len(totals), tile):
                    sums[i] = self._add_row(totals[i], columns, y - i // tile)
            return sums

        pending: list[ir.Value] = []
        for y in range(height - 1):
            row = k.at(read, b.mul(self.source_row, ir.Constant(I64, y)))
            pending = added([*pending, *[self.start] * tile], row, y)
        below = k.at(read, b.mul(self.source_row, ir.Constant(I64, height - 1)))

        def complete(index: ir.Value, pending: list[ir.Value]) -> list[ir.Value]:
            row = k.at(below, b.mul(index, self.source_row))
            totals = added([*pending, *[self.start] * tile], row, height - 1)
            for t in range(tile):
                self._store(totals[t], k.at(write, b.mul(index, self.target_row)), t * self.bytes)
            return totals[tile:]

        self._for_rows(complete, pending)

    def _strided(self, read: ir.Value, write: ir.Value) -> None:
        """Row by row; what the windows of two output rows have in common stays in registers, if it fits."""
        k, spec = self.k, self.spec
        b, width, shared = k.builder, spec.width, _shared_rows(spec, k.target)
        if spec.reduce == "max":
            self._strided_largest(read, write, shared)
            return

        def rows(top: ir.Value, first: int, last: int) -> list[list[list[ir.Value]]]:
            places = [k.at(top, b.mul(self.source_row, ir.Constant(I64, y))) for y in range(first, last)]
            return [self._columns(place, self.vectors) for place in places]

        def flat(window: list[list[list[ir.Value]]]) -> list[ir.Value]:
            return [column for row in window for columns in row for column in columns]

        step = b.mul(self.source_row, ir.Constant(I64, spec.stride[0]))

        def complete(index: ir.Value, above: list[ir.Value]) -> list[ir.Value]:
            top = k.at(read, b.mul(index, step))
            each = [above[i : i + width] for i in range(0, len(above), width)]
            kept = [each[i : i + self.vectors] for i in range(0, len(each), self.vectors)]
            window = kept + rows(top, shared, spec.height)
            totals = []
            for t in range(self.vectors):
                total = self.start
                for y, row in enumerate(window):
                    total = self._add_row(total, row[t], y)
                totals.append(total)
            for t, total in enumerate(totals):
                self._store(total, k.at(write, b.mul(index, self.target_row)), t * self.bytes)
            return flat(window[spec.height - shared :])

        self._for_rows(complete, flat(rows(read, 0, shared)))

    def _strided_largest(self, read: ir.Value, write: ir.Value, shared: int) -> None:
        """The largest of every row of the window, and of those; what windows have in common is one vector a row."""
        k, spec = self.k, self.spec
        b = k.builder

        def row(top: ir.Value, y: int) -> ir.Value:
            (columns,) = self._columns(k.at(top, b.mul(self.source_row, ir.Constant(I64, y))), 1)
            return self._largest(columns)

        step = b.mul(self.source_row, ir.Constant(I64, spec.stride[0]))

        def complete(index: ir.Value, above: list[ir.Value]) -> list[ir.Value]:
            top = k.at(read, b.mul(index, step))
            window = [*above, *(row(top, y) for y in range(shared, spec.height))]
            self._store(self._largest(window), k.at(write, b.mul(index, self.target_row)), 0)
            return window[len(window) - shared :]

        self._for_rows(complete, [row(read, y) for y in range(shared)])

    def _entry(self, value: ir.Value) -> ir.Value:
        """What was loaded, as `_largest` takes it: without its sign, which only NaN and -0 may have."""
        return value if self.spec.reduce == "sum" or self.k.target.keeps_nan else self.k.absolute(value)

    def _largest(self, values: Sequence[ir.Value]) -> ir.Value:
        """The largest value in every lane, NaN if one is.

        Where no instruction does that, values are compared as integers: without a sign they are in the same order, and
        NaN is above them all.
        """
        k = self.k
        if k.target.keeps_nan:
            return functools.reduce(k.larger, values)
        b, kind = k.builder, values[0].type
        integers = ir.VectorType(ir.IntType(16 if k.number == ir.HalfType() else 32), kind.count)
        numbers = [b.bitcast(value, integers) for value in values]
        return b.bitcast(functools.reduce(lambda x, y: b.select(b.icmp_signed(">", x, y), x, y), numbers), kind)

    def _along(self, source: ir.Value, target: ir.Value) -> None:
        """Blocks of output rows; the last one overlaps the one before where blocks do not divide the rows."""
        k, spec, rows = self.k, self.spec, self.k.arg("rows")
        b = k.builder
        with k.loop(0, rows, spec.rows) as blocks:
            first = overlapping(k, blocks.index, rows, spec.rows)
            top = k.at(source, b.mul(first, b.mul(self.source_row, ir.Constant(I64, spec.stride[0]))))
            out = k.at(target, b.mul(first, self.target_row))
            with self._starts(spec.tile) as at:
                self._block(top, out, at, spec.tile)
            if spec.tail:
                self._block(top, out, k.arg("last_start"), 1)

    def _block(self, top: ir.Value, out: ir.Value, at: ir.Value, vectors: int) -> None:
        """So many vectors of every row of a block, stored in order: a vector may be longer than a row.

        Sums are added up in the order of the other form, so that it does not matter which one a band takes.
        """
        k, spec = self.k, self.spec
        b, height, down, all_rows = k.builder, spec.height, spec.stride[0], range(spec.rows)
        self.inside = k.at(self.mask, at)
        read, write = k.at(top, b.mul(at, ir.Constant(I64, spec.stride[1]))), k.at(out, at)
        totals = [[self.start] * spec.rows for _ in range(vectors)]
        largest: list[list[ir.Value]] = [[] for _ in range(vectors)]  # of every input row
        for y in range((spec.rows - 1) * down + height):
            every = self._columns(k.at(read, b.mul(self.source_row, ir.Constant(I64, y))), vectors)
            for t, columns in enumerate(every):
                if spec.reduce == "max":
                    largest[t].append(self._largest(columns))
                    continue
                for row in all_rows:
                    if 0 <= y - row * down < height:
                        totals[t][row] = self._add_row(totals[t][row], columns, y - row * down)
        if spec.reduce == "max":
            totals = [[self._largest(rows[row * down : row * down + height]) for row in all_rows] for rows in largest]
        for row in all_rows:
            for t in range(vectors):
                place = k.at(write, b.mul(self.target_row, ir.Constant(I64, row)))
                self._store(totals[t][row], place, t * self.bytes)

    def _positions(self, read: ir.Value, write: ir.Value) -> None:
        k, spec = self.k, self.spec
        b = k.builder
        totals = [self.start] * spec.tile
        for y in range(spec.height):
            row = k.at(read, b.mul(self.source_row, ir.Constant(I64, y * spec.dilation)))
            for x, vectors in enumerate(self._displaced(row)):
                for t, value in enumerate(vectors):
                    totals[t] = self._add_entry(totals[t], value, y * spec.width + x)
        for t, total in enumerate(totals):
            self._store(total, write, t * self.bytes)

    def _displaced(self, row: ir.Value) -> list[list[ir.Value]]:
        """The vectors of a tile under every column of the window.

        Long vectors nearly all lie across two cache lines. Where one instruction picks from two of them, those under
        the middle column are loaded, with one more on either side, and the others picked from neighbours.
        """
        k, spec = self.k, self.spec
        tiles, middle = range(spec.tile), spec.width // 2

        def loaded(column: int, t: int) -> ir.Value:
            place = column * spec.dilation * self.size + t * self.bytes
            return self._entry(k.load_vector(row, self.size, place))

        if not self.split.has_permutes or spec.dilation > 1 or spec.width == 1:
            return [[loaded(x, t) for t in tiles] for x in range(spec.width)]
        line = [loaded(middle, t) for t in range(-1, spec.tile + 1)]
        found = []
        for x in range(spec.width):
            at, first = divmod(k.lanes + x - middle, k.lanes)  # in the vector before, or in this one
            picks = range(first, first + k.lanes)
            found.append([k.picked(picks, line[t + at], line[t + at + 1]) for t in tiles])
        return found

    def _store(self, value: ir.Value, write: ir.Value, offset: int) -> None:
        k = self.k
        if self.spec.stride[1] == 2:
            value = self.split.in_order(value)
        value = k.clamp(value, self.low, self.high)
        value = emit_curve(k, self.spec.curve, value)
        inside = k.load(self.inside, k.mask, self.size, offset) if self.spec.border else None
        k.write(value, write, self.size, offset, inside)
