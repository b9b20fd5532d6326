"""Convolution as a sparse-times-dense product over linear planes: the ring, strip and dense kernels.

A tile of `tile` vectors of output positions stays in registers for a strip of `rows` output rows. For every kept group
the kernel loads the tile once from one input plane, displaced by the group's tap, and multiplies it into `rows` rows.

- ``ring`` takes groups that start at any row. The accumulators are a ring of `rows` slots: all groups that start at row
  r are consumed, then row r is complete, is stored, and its slot becomes row r + rows. The loop body is written out
  for each of the `rows` rotations, so nothing moves between registers.
- ``strip`` takes groups on the grid: all groups of a strip, then its rows are stored together.
- ``dense`` is a strip whose groups are all there: the table of offsets is shared by all strips.

Groups of a strip whose inputs are equally far apart, as the segments of a panel or the taps of a row, may be taken in
runs: one offset is read for each run, and one branch taken.

Groups of strips and rings skip from plane to plane, which no hardware foresees. What is not in the first-level cache is
asked for `EARLY` groups before it is read: what a processor looks ahead for itself does not hide that wait.

Where tiles do not divide an image, the last ones are smaller (`tail`), or the last one overlaps the one before.

A tile of short vectors is less than a cache line or two of every plane, and planes lie apart: the first-level cache
holds few of them. So a tile may be copied first (`panel`): from every row of a plane that its groups read, one
*segment*, as long as the tile and what its taps reach beyond it, one after another.

Where an image is as wide as a vector, or half as wide, a vector may hold one or two of its rows (`held`): no lane is
wasted on the border between them.

Where an image ends within the first half or quarter of a vector, the last tile may have a vector more that holds these
positions for two or four output rows, one after another (`stacked`): as many multiply-adds fewer.

Positions between an image's rows are computed like all others. They become zeros where a reader needs those (`border`):
with masks that, where the target has registers for them, are loaded once for all rows of a tile.

Rows beyond the last one are stored to a scratch plane, so that any number of rows works.

The residual may lie where the output goes: a position is read just before it is written. Only the last tile, where it
overlaps the one before, would add to positions that are done: kernels `in_place` leave those as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.curves import emit_curve
from flexgroup.kernels.emit import AHEAD, BIT, I64, Kernel, Signature
from flexgroup.kernels.target import F32, LINE, Element, Target

SIGNATURE = Signature(
    (
        "ends",  # int32 a row (ring) or a strip (strip): index after its last group; dense: not read
        "offsets",  # int32 a group: bytes from `source` to the tap's first position
        "weights",  # `rows` numbers a group
        "bias",  # a number a row
        "outputs",  # int32 a row: bytes from `target` to the row's output plane
        "residuals",  # int32 a row: bytes from `residual`, for kernels with a residual
        "mask",  # an integer a position, of a number's size: -1 inside the image, 0 on its border; if that is written
        "source",
        "target",
        "residual",
        "row_count",  # a multiple of `rows`
        "sweep",  # rows that go through all tiles before the next ones do, a multiple of `rows`
        "columns",  # dense: groups a strip
        "first_tile",
        "last_tile",
        "whole_tiles",  # of `tile` vectors; those after them have `tail`
        "last_start",  # bytes to the last tile, which may overlap the one before
        "low",
        "high",
    )
)
PANEL_SIGNATURE = Signature(
    (
        *SIGNATURE.fields,
        "segments",  # int32 a segment: bytes from `source` to the first tile's
        "segment_count",
        "panel",  # where segments are copied to; `offsets` count from there
    )
)


@dataclass(frozen=True)
class ConvKernel:
    """Which convolution kernel: everything that is compiled in; all else is data."""

    form: str  # "ring", "strip" or "dense"
    rows: int
    tile: int  # vectors; 0 where there are tails only
    residual: bool
    element: Element = F32
    curve: str = ""  # a name of `curves`, applied after the clamp
    in_place: bool = False  # whether the residual lies where the output goes, and the last tile overlaps
    tail: int = 0  # vectors of the last tiles, if they have fewer than the others
    panel: int = 0  # vectors from a segment to the next, if a tile's inputs are copied first
    span: int = 0  # panel: numbers that taps reach beyond a tile, a vector at most
    ahead: bool = True  # whether weights come from memory, so that they have to be asked for early
    run: int = 1  # strip, dense: groups that are taken at a time, whose inputs lie `step` bytes apart
    step: int = 0
    held: int = 0  # rows of the image that a vector holds, 1 or 2, whose pixels are all of its lanes; 0: any positions
    pitch: int = 0  # held: bytes from a row to the next
    stacked: int = 0  # output rows that the vector after the last tile's, whose loop is that of the tails, holds; or 0
    early: bool = False  # ring, strip: whether inputs are asked for `EARLY` groups ahead, whose offsets are there
    border: bool = True  # whether zeros are written beside the image's pixels, or whatever it comes to
    low: bool = True  # whether sums have a least value
    high: bool = True  # and a largest one

    @property
    def name(self) -> str:
        residual = "_add" * self.residual + "_in_place" * self.in_place
        ending = residual + (f"_{self.curve}" if self.curve else "")
        ending += f"_panel{self.panel}x{self.span}" * (self.panel > 0) + "_near" * (not self.ahead)
        ending += f"_run{self.run}x{self.step}" * (self.run > 1) + f"_rows{self.held}x{self.pitch}" * (self.held > 0)
        ending += f"_stack{self.stacked}" * (self.stacked > 0) + "_early" * self.early
        ending += "_ragged" * (not self.border) + "_any" * (not self.low) + "_unlimited" * (not self.high)
        tile = f"{self.tile}_{self.tail}" if self.tail else f"{self.tile}"
        return f"conv_{self.element.name}_{self.form}_{self.rows}x1_t{tile}{ending}"

    @property
    def longest(self) -> int:
        """Vectors of the longest tile."""
        return max(self.tile, self.tail)

    @property
    def signature(self) -> Signature:
        return PANEL_SIGNATURE if self.panel else SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        _Emitter(Kernel(module, self.name, target, self.element, self.signature), self).emit()


EARLY = 8  # groups from the one that is computed to the one whose inputs are asked for
LONGEST_TILE = 24  # vectors: beyond that a tile gains nothing
_IN_ORDER = {1: 20, 2: 11, 4: 6, 8: 3}  # tiles by rows: the largest with which LLVM needs no stack, for any element


def largest_tile(rows: int, target: Target) -> int:
    """The most vectors a tile can have.

    Beside the accumulators, the registers hold either a group's weights and one activation, or its activations and one
    weight (`_multiply`). Code for cores that run in order needs some for what is loaded ahead.
    """
    if target.in_order and rows in _IN_ORDER:
        return _IN_ORDER[rows]
    registers = target.vector_registers - 1
    return max(1, min(LONGEST_TILE, max((registers - rows) // rows, registers // (rows + 1))))


def fits_stack(rows: int, tile: int, stacked: int, target: Target) -> bool:
    """Whether a tile has registers left for a vector that holds the last positions of ``stacked`` rows.

    Each such vector takes one, and one for the order of its weights; besides them its weights and its activations.
    """
    sums = rows // stacked
    return rows % stacked == 0 and rows * tile + min(rows, tile) + 2 * sums + 3 <= target.vector_registers


class _Emitter:
    def __init__(self, kernel: Kernel, spec: ConvKernel) -> None:
        self.k = kernel
        self.spec = spec
        self.piece = kernel.lanes // spec.stacked if spec.stacked else 0  # positions of a row in a stack
        self.bytes = spec.held * spec.pitch or kernel.width  # from a vector's first position to that of the next
        self.ends, self.offsets, self.weights = (kernel.address(name) for name in ("ends", "offsets", "weights"))
        self.bias, self.outputs = kernel.address("bias"), kernel.address("outputs")
        self.mask, self.source, self.target = (kernel.address(name) for name in ("mask", "source", "target"))
        self.residuals = kernel.address("residuals") if spec.residual else None
        self.residual = kernel.address("residual") if spec.residual else None
        self.low = kernel.splat(kernel.scalar("low")) if spec.low else None
        self.high = kernel.splat(kernel.scalar("high")) if spec.high else None
        self.columns = kernel.arg("columns")

    def emit(self) -> None:
        k, b = self.k, self.k.builder
        row_count, sweep = k.arg("row_count"), k.arg("sweep")
        with k.loop(0, row_count, sweep, [ir.Constant(I64, 0)]) as sweeps:
            due = b.add(sweeps.index, sweep)
            self.first_row, self.first_group = sweeps.index, sweeps.values[0]
            self.last_row = b.select(b.icmp_signed("<", due, row_count), due, row_count)
            self._tiles()
            sweeps.next = [self._groups_before(self.last_row)]
        b.ret_void()

    def _groups_before(self, row: ir.Value) -> ir.Value:
        """The first group of ``row``, which is not the first one."""
        k, b = self.k, self.k.builder
        loops = row if self.spec.form == "ring" else b.udiv(row, ir.Constant(I64, self.spec.rows))
        if self.spec.form == "dense":
            return b.mul(loops, self.columns)
        return k.load_index(self.ends, b.sub(loops, ir.Constant(I64, 1)))

    def _tiles(self) -> None:
        """All tiles of the rows of a sweep."""
        k, spec = self.k, self.spec
        b = k.builder
        first, last, last_start = k.arg("first_tile"), k.arg("last_tile"), k.arg("last_start")

        def overlapping(due: ir.Value, vectors: int, stacks: int = 0) -> None:
            self._tile(due, b.select(b.icmp_signed("<", due, last_start), due, last_start), vectors, stacks)

        if spec.tail:
            whole = k.arg("whole_tiles")
            if spec.tile:
                with k.loop(first, b.select(b.icmp_signed("<", last, whole), last, whole)) as tiles:
                    start = self._scaled(tiles.index, spec.tile * self.bytes)
                    self._tile(start, start, spec.tile)
            with k.loop(b.select(b.icmp_signed("<", first, whole), whole, first), last) as tails:
                beyond = self._scaled(b.sub(tails.index, whole), spec.tail * self.bytes)
                stacks = spec.rows // spec.stacked if spec.stacked else 0
                overlapping(b.add(self._scaled(whole, spec.tile * self.bytes), beyond), spec.tail, stacks)
        else:
            with k.loop(first, last) as tiles:
                overlapping(self._scaled(tiles.index, spec.tile * self.bytes), spec.tile)

    def _tile(self, due: ir.Value, start: ir.Value, vectors: int, stacks: int = 0) -> None:
        """The tile at ``start`` bytes, which overlaps the one before if it was ``due`` later.

        After its ``vectors`` for each row come ``stacks`` that hold a piece of several rows each.
        """
        self.tile, self.vectors, self.stacks = start, vectors, stacks
        self.inputs = self.k.at(self.source, start)
        if self.spec.panel:
            self.inputs = self._copied(self.inputs)
        self.done = self._within(self.k.builder.sub(due, start)) if self.spec.in_place and start is not due else []
        has_masks = self.spec.border and not self.spec.held and self.k.target.has_masks
        self.masks = self._masks() if has_masks else []
        if self.spec.form == "ring":
            self._ring()
        else:
            self._strips()

    def _masks(self) -> list[ir.Value]:
        """Which positions of the tile's vectors are the image's, and of its stacks: known once, for all rows."""
        b, truths = self.k.builder, ir.VectorType(BIT, self.k.lanes)
        numbers = range(self.vectors + (self.stacks > 0))
        # Their last bits: a comparison LLVM would do again for every row.
        return [b.trunc(self._loaded_mask(number), truths) for number in numbers]

    def _loaded_mask(self, number: int) -> ir.Value:
        """-1 where positions of a vector of the tile are the image's; those after its ``vectors`` are the stacks'."""
        k, is_stack = self.k, number == self.vectors
        kind = ir.VectorType(k.mask.element, self.piece if is_stack else k.lanes)
        mask = k.load(k.at(self.mask, self.tile), kind, k.size, number * self.bytes)
        return self._repeated(mask) if is_stack else mask

    def _copied(self, inputs: ir.Value) -> ir.Value:
        """Copy the tile's segments to the panel; returns its address."""
        k, spec, segments, panel = self.k, self.spec, self.k.address("segments"), self.k.address("panel")
        starts = [t * self.bytes for t in range(self.vectors)]
        if spec.span:  # the last numbers that a tap reads, and not one more: there may be none
            starts.append((self.vectors - 1) * self.bytes + spec.span * k.size)
        with k.loop(0, k.arg("segment_count")) as each:
            segment = k.at(inputs, k.load_index(segments, each.index))
            copy = k.at(panel, self._scaled(each.index, spec.panel * self.bytes))
            kind = ir.VectorType(k.element.ir, k.lanes)
            for start, vector in [(start, k.load(segment, kind, k.size, start)) for start in starts]:
                k.store(vector, copy, k.size, start)
            each.next = []
        return panel

    def _ring(self) -> None:
        k, rows, tile = self.k, self.spec.rows, self.vectors
        b = k.builder
        ring = [vector for row in range(rows) for vector in self._biases(b.add(self.first_row, ir.Constant(I64, row)))]
        stacks = self._stacked_biases(self.first_row)
        with k.loop(self.first_row, self.last_row, rows, [self.first_group, *ring, *stacks]) as strips:
            group, accumulators = strips.values[0], strips.values[1:]
            for phase in range(rows):
                row = b.add(strips.index, ir.Constant(I64, phase))
                end = k.load_index(self.ends, row)
                order = [(phase + i) % rows for i in range(rows)]
                turned = [accumulators[slot * tile + t] for slot in order for t in range(tile)]
                with k.loop(group, end, 1, turned + accumulators[rows * tile :]) as groups:
                    places = self._places(groups.index, groups.index)
                    groups.next = self._multiply(*places, groups.values, phase=phase)
                    self._ask(groups.index)
                group, stacks = end, groups.results[rows * tile :]
                self._store(row, groups.results[:tile], self._unstacked(stacks, phase))
                following = b.add(row, ir.Constant(I64, rows))
                refilled = self._biases(following)
                for i, slot in enumerate(order):
                    fresh = refilled if i == 0 else groups.results[i * tile : (i + 1) * tile]
                    accumulators[slot * tile : (slot + 1) * tile] = fresh
                accumulators[rows * tile :] = self._restacked(stacks, phase, following)
            strips.next = [group, *accumulators]

    def _strips(self) -> None:
        k, rows, tile = self.k, self.spec.rows, self.vectors
        b = k.builder
        first_strip = b.udiv(self.first_row, ir.Constant(I64, rows))
        with k.loop(self.first_row, self.last_row, rows, [self.first_group, first_strip]) as strips:
            group, strip = strips.values
            dense, run, step = self.spec.form == "dense", self.spec.run, self.spec.step
            end = b.add(group, self.columns) if dense else k.load_index(self.ends, strip)
            biases = [self._biases(b.add(strips.index, ir.Constant(I64, row))) for row in range(rows)]
            sums = [vector for row in biases for vector in row] + self._stacked_biases(strips.index)
            with k.loop(group, end, run, sums) as groups:
                column = b.sub(groups.index, group) if dense else groups.index
                plane, weights = self._places(groups.index, column)
                for i in range(run):
                    groups.next = self._multiply(plane, weights, groups.next, i * step, i * rows * k.size)
                self._ask(column)
            for row in range(rows):
                results = groups.results[row * tile : (row + 1) * tile]
                piece = self._unstacked(groups.results[rows * tile :], row)
                self._store(b.add(strips.index, ir.Constant(I64, row)), results, piece)
            strips.next = [end, b.add(strip, ir.Constant(I64, 1))]

    def _biases(self, row: ir.Value) -> list[ir.Value]:
        k = self.k
        return [k.load_splat(self.bias, self._scaled(row, k.size))] * self.vectors

    def _stacked_biases(self, row: ir.Value) -> list[ir.Value]:
        """The stacks for the rows from ``row`` on."""
        k, rows = self.k, self.spec.stacked
        first = k.at(self.bias, self._scaled(row, k.size))
        biases = (k.load_vector(first, k.size, i * rows * k.size, rows) for i in range(self.stacks))
        return [k.picked([lane // self.piece for lane in range(k.lanes)], each) for each in biases]

    def _unstacked(self, stacks: Sequence[ir.Value], slot: int) -> ir.Value | None:
        """The piece of the row in a slot, again and again in all lanes; None where the tile has no stacks."""
        if not stacks:
            return None
        number, first = divmod(slot * self.piece, self.k.lanes)
        return self.k.picked([first + lane % self.piece for lane in range(self.k.lanes)], stacks[number])

    def _restacked(self, stacks: Sequence[ir.Value], slot: int, row: ir.Value) -> list[ir.Value]:
        """The stacks with row ``row`` in a slot, whose sums begin."""
        if not stacks:
            return []
        k, (number, first) = self.k, divmod(slot * self.piece, self.k.lanes)
        lanes = [lane + k.lanes * (first <= lane < first + self.piece) for lane in range(k.lanes)]
        bias = k.load_splat(self.bias, self._scaled(row, k.size))
        return [k.picked(lanes, each, bias) if i == number else each for i, each in enumerate(stacks)]

    def _places(self, group: ir.Value, column: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where the inputs of a group lie, and its weights."""
        k, size = self.k, self.spec.rows * self.k.size
        plane = k.at(self.inputs, k.load_index(self.offsets, column))
        weights = k.at(self.weights, self._scaled(group, size))
        if self.spec.ahead:
            for line in range(0, self.spec.run * size, LINE):
                k.prefetch(weights, AHEAD + line)  # every page is a stranger to the processor's own prefetching
        return plane, weights

    def _ask(self, column: ir.Value) -> None:
        """Ask for the inputs of a group that follows, if the kernel does so."""
        if not self.spec.early:
            return
        k = self.k
        following = k.load_index(self.offsets, k.builder.add(column, ir.Constant(I64, EARLY)))
        plane = k.at(self.inputs, following)
        for vector in range(0, self.vectors + (self.stacks > 0), max(1, LINE // self.bytes)):
            k.prefetch(plane, vector * self.bytes)

    def _multiply(
        self,
        plane: ir.Value,
        weights: ir.Value,
        accumulators: list[ir.Value],
        input_at: int = 0,
        weight_at: int = 0,
        phase: int = 0,
    ) -> list[ir.Value]:
        """One group: ``accumulators[i][t] += weight[i] * plane[t]``, these bytes from both addresses.

        In stacks, which follow, row i has slot ``phase + i``, counted around.
        """
        k, rows, tile = self.k, self.spec.rows, self.vectors
        size = k.size
        sums = list(accumulators)
        factors: list[ir.Value] = []
        # Whichever is fewer stays in registers for the whole group: its weights or its activations.
        if rows <= tile:
            factors = [k.load_splat(weights, weight_at + i * size) for i in range(rows)]
            for t in range(tile):
                x = self._load(plane, input_at + t * self.bytes)
                for i in range(rows):
                    sums[i * tile + t] = k.fma(factors[i], x, sums[i * tile + t])
        else:
            xs = [self._load(plane, input_at + t * self.bytes) for t in range(tile)]
            for i in range(rows):
                factors.append(k.load_splat(weights, weight_at + i * size))
                for t in range(tile):
                    sums[i * tile + t] = k.fma(factors[i], xs[t], sums[i * tile + t])
        if self.stacks:
            pieces = self._repeated(k.load_vector(plane, size, input_at + tile * self.bytes, self.piece))
            for at in range(rows * tile, len(sums)):
                slots = [((at - rows * tile) * k.lanes + lane) // self.piece for lane in range(k.lanes)]
                mixed = self._mixed(factors, weights, weight_at, [(slot - phase) % rows for slot in slots])
                sums[at] = k.fma(mixed, pieces, sums[at])
        return sums

    def _mixed(self, factors: list[ir.Value], weights: ir.Value, weight_at: int, rows: list[int]) -> ir.Value:
        """The weights of these rows, one in every lane."""
        k = self.k
        if len(set(rows)) == 2:  # picked from what is there by one instruction, without another load
            first, other = sorted(set(rows))
            lanes = [lane + k.lanes * (row == other) for lane, row in enumerate(rows)]
            return k.picked(lanes, factors[first], factors[other])
        return k.picked(rows, k.load_vector(weights, k.size, weight_at, self.spec.rows))

    def _repeated(self, piece: ir.Value) -> ir.Value:
        """A row's piece in all lanes, again and again."""
        return self.k.picked([lane % self.piece for lane in range(self.k.lanes)], piece)

    def _store(self, row: ir.Value, values: list[ir.Value], piece: ir.Value | None) -> None:
        """Residual, clamp and border, then the row's tile goes to its output plane; so does its ``piece``."""
        k = self.k
        b = k.builder
        output = k.at(k.at(self.target, k.load_index(self.outputs, row)), self.tile)
        if self.residuals is not None:
            residual = k.at(k.at(self.residual, k.load_index(self.residuals, row)), self.tile)
        for t, value in enumerate(values):
            if self.residuals is not None:
                added = self._load(residual, t * self.bytes)
                value = b.fadd(value, added)
            value = self._finished(value)
            if self.done:
                value = b.select(self.done[t], added, value)
            if self.spec.held:
                self._store_rows(value, output, t * self.bytes)
                continue
            k.write(value, output, k.size, t * self.bytes, self._inside(t))
        if piece is None:
            return
        at = self.vectors * self.bytes
        if self.residuals is not None:
            piece = b.fadd(piece, self._repeated(k.load_vector(residual, k.size, at, self.piece)))
        stored = k.stored(self._finished(piece), self._inside(self.vectors))
        k.store(k.picked(range(self.piece), stored), output, k.size, at)

    def _inside(self, number: int) -> ir.Value | None:
        """Which positions of a vector of the tile are the image's; None where it does not matter."""
        if not self.spec.border:
            return None
        return self.masks[number] if self.masks else self._loaded_mask(number)

    def _finished(self, value: ir.Value) -> ir.Value:
        k = self.k
        return emit_curve(k, self.spec.curve, k.clamp(value, self.low, self.high))

    def _store_rows(self, value: ir.Value, output: ir.Value, at: int) -> None:
        """The rows that a vector holds, and zeros from the end of each to the next, if somebody needs them."""
        k, pitch = self.k, self.spec.pitch
        row = k.width // self.spec.held
        border = ir.Constant(ir.VectorType(k.element.ir, (pitch - row) // k.size), None)
        for number, pixels in enumerate([value] if self.spec.held == 1 else k.halves(value)):
            k.write(pixels, output, k.size, at + number * pitch)
            if self.spec.border:
                k.store(border, output, k.size, at + number * pitch + row)

    def _load(self, plane: ir.Value, at: int) -> ir.Value:
        """The vector ``at`` bytes from ``plane``."""
        k = self.k
        if self.spec.held < 2:
            return k.load_vector(plane, k.size, at)
        rows = (k.load_vector(plane, k.size, at + row, k.lanes // 2) for row in (0, self.spec.pitch))
        return k.picked(range(k.lanes), *rows)

    def _within(self, done: ir.Value) -> list[ir.Value]:
        """For every vector of a tile which of its positions lie within the first ``done`` bytes."""
        k, b = self.k, self.k.builder
        count = b.udiv(done, ir.Constant(I64, k.size))
        return [k.first_lanes(b.sub(count, ir.Constant(I64, t * k.lanes)), k.lanes) for t in range(self.vectors)]

    def _scaled(self, index: ir.Value, size: int) -> ir.Value:
        return self.k.builder.mul(index, ir.Constant(I64, size))
