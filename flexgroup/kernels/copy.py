"""Copies between dense images and planes, and the split of images into stride phases: one of them, or whole rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import BIT, I32, I64, Kernel, Signature, halved
from flexgroup.kernels.moves import Move, move_name
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "source",  # the region that the source offsets count from
        "target",
        "sources",  # int32 a plane: bytes to its first element
        "targets",  # int32 a plane and part
        "source_row",  # bytes from a row to the next
        "target_row",
        "rows",
        "columns",
        "gap",  # numbers after a row's last column that become zero
        "first",
        "last",
    )
)


ROWS_AHEAD = 2  # from the row that is copied to the one that is asked for: hardware does not foresee where it begins


@dataclass(frozen=True)
class CopyKernel:
    """``target[part][row, column] = source[row, column * step + part]`` for the planes first..last; then zeros.

    ``parts`` is 1, or the step: then it is a power of two, and a row is read once. Row steps are strides in the
    arguments; the column step is compiled in, so that steps 1 and 2, and parts, are vector code.
    """

    step: int
    element: Element = F32
    written: Element | None = None  # how the target holds the numbers, if not as the source does
    parts: int = 1
    columns: int = 0  # that are compiled in, and the gap after them: code without a loop; 0: they are arguments
    gap: int = 0
    ahead: bool = False  # whether rows come from memory, so that they have to be asked for early

    @property
    def name(self) -> str:
        parts = f"_{self.parts}parts" if self.parts > 1 else ""
        columns = f"_{self.columns}columns_{self.gap}zeros" if self.columns else ""
        ahead = "_ahead" * self.ahead
        return f"copy_{move_name(self.element, self.written)}_step{self.step}{parts}{columns}{ahead}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b, move = k.builder, Move(k, self.written)
        source, into = k.address("source"), k.address("target")
        sources, targets = k.address("sources"), k.address("targets")
        source_row, target_row = k.arg("source_row"), k.arg("target_row")
        write_row = self._fixed_row if self.columns else self._row_writer(k, move)
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            read = k.at(source, k.load_index(sources, planes.index))
            first = b.mul(planes.index, ir.Constant(I64, self.parts))
            places = [k.load_index(targets, b.add(first, ir.Constant(I64, part))) for part in range(self.parts)]
            writes = [k.at(into, place) for place in places]
            with k.loop(0, k.arg("rows")) as rows:
                from_row = k.at(read, b.mul(rows.index, source_row))
                to_row = b.mul(rows.index, target_row)
                write_row(k, move, from_row, [k.at(write, to_row) for write in writes])
        b.ret_void()

    @property
    def _is_vector(self) -> bool:
        return self.step <= 2 or self.parts > 1

    def _fixed_row(self, k: Kernel, move: Move, source: ir.Value, targets: list[ir.Value]) -> None:
        """A row whose columns are known: vectors, what is left in one with masks or in halves, and the gap's zeros."""
        masked, start = self._is_vector and k.target.has_masks, 0

        def first_lanes(count: int) -> ir.Constant:
            return ir.Constant(ir.VectorType(BIT, k.lanes), [lane < count for lane in range(k.lanes)])

        for width in [1] if not self._is_vector else [k.lanes] if masked else halved(k.lanes):
            while self.columns - start >= width:
                self._piece(k, move, source, targets, ir.Constant(I64, start), width)
                start += width
        if masked and start < self.columns + self.gap:
            reads = (self.columns - start) * self.step - self._numbers_spared
            masks = [first_lanes(reads - at) for at in self._starts(k.lanes)]
            inside = first_lanes(self.columns + self.gap - start)
            self._piece(k, move, source, targets, ir.Constant(I64, start), k.lanes, (inside, masks))
            start += k.lanes
        for column in range(start, self.columns + self.gap):
            for target in targets:
                move.store_zero(target, column * move.written_size)

    def _row_writer(self, k: Kernel, move: Move) -> Callable[[Kernel, Move, ir.Value, list[ir.Value]], None]:
        """What copies a row of as many columns as the arguments say."""
        b, columns, gap = k.builder, k.arg("columns"), k.arg("gap")
        wide = b.add(columns, gap)
        rest = b.and_(columns, ir.Constant(I64, k.lanes - 1))
        masked = self._masks(k, rest, gap) if self._is_vector and k.target.has_masks else None

        def write(k: Kernel, move: Move, source: ir.Value, targets: list[ir.Value]) -> None:
            start = ir.Constant(I64, 0)
            for width in [1] if not self._is_vector else halved(k.lanes) if masked is None else [k.lanes]:
                start = self._run(k, move, source, targets, start, columns, width)
            if masked is not None:
                end = b.add(start, ir.Constant(I64, k.lanes))
                with k.loop(start, b.select(b.icmp_signed("<", wide, end), wide, end), k.lanes):  # at most once
                    self._piece(k, move, source, targets, start, k.lanes, masked)
                start = end
            with k.loop(start, wide) as zeros:
                for to in targets:
                    move.store_zero(to, b.mul(zeros.index, ir.Constant(I64, move.written_size)))

        return write

    def _run(
        self,
        k: Kernel,
        move: Move,
        source: ir.Value,
        targets: list[ir.Value],
        start: ir.Value,
        stop: ir.Value,
        width: int,
    ) -> ir.Value:
        """Copy ``width`` elements a round and part from ``start`` while they fit; returns where it stopped."""
        b = k.builder
        end = b.add(start, b.and_(b.sub(stop, start), ir.Constant(I64, -width)))
        with k.loop(start, end, width) as columns:
            self._piece(k, move, source, targets, columns.index, width)
        return end

    def _piece(
        self,
        k: Kernel,
        move: Move,
        source: ir.Value,
        targets: list[ir.Value],
        start: ir.Value,
        width: int,
        masks: tuple[ir.Value, list[ir.Value]] | None = None,
    ) -> None:
        """Copy ``width`` columns of every part from ``start``, or as many of them as `_masks` says."""
        b, size, starts = k.builder, move.read_size, self._starts(width)
        inside, inside_reads = masks or (None, [None] * len(starts))
        reads = k.at(source, b.mul(start, ir.Constant(I64, self.step * size)))
        if self.ahead and width == k.lanes:
            later = k.at(reads, b.mul(k.arg("source_row"), ir.Constant(I64, ROWS_AHEAD)))
            for at in starts:
                k.prefetch(later, at * size)
        places = zip(starts, inside_reads, strict=True)
        vectors = [move.load(reads, width, size, at * size, lanes) for at, lanes in places]
        column = b.mul(start, ir.Constant(I64, move.written_size))
        for row, vector in zip(targets, self._arranged(k, vectors), strict=True):
            move.store(vector, row, move.written_size, column, inside)

    def _starts(self, width: int) -> list[int]:
        """Where the vectors of so many numbers begin that are read for ``width`` columns."""
        if self.parts > 1:
            return [part * width for part in range(self.parts)]
        # The odd last number of a second vector may lie beyond the row: it begins one earlier.
        return [0, width - 1] if self.step == 2 and width > 1 else [0]

    def _arranged(self, k: Kernel, vectors: list[ir.Value]) -> list[ir.Value]:
        """The numbers of every part, of the vectors that were read."""
        if self.parts > 1 or len(vectors) == 1:
            return separated(k, vectors)
        width = vectors[0].type.count
        return [k.picked([*range(0, width, 2), *range(width + 1, 2 * width, 2)], *vectors)]

    @property
    def _numbers_spared(self) -> int:
        """Numbers after the last column that is wanted, which would be read with it: nothing else is."""
        return 1 if self.parts == 1 and self.step == 2 else 0

    def _masks(self, k: Kernel, rest: ir.Value, gap: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
        """Which lanes of a vector are the last ``rest`` columns and the gap, and which of those are read for them."""
        b, lanes = k.builder, k.lanes
        numbers = b.sub(b.mul(rest, ir.Constant(I64, self.step)), ir.Constant(I64, self._numbers_spared))
        reads = [k.first_lanes(b.sub(numbers, ir.Constant(I64, start)), lanes) for start in self._starts(lanes)]
        return k.first_lanes(b.add(rest, gap), lanes), reads


def separated(k: Kernel, vectors: list[ir.Value]) -> list[ir.Value]:
    """Numbers 0, n, 2n, ... of n vectors in a row, then 1, n + 1, ..., and so on, as as many vectors.

    Single numbers are what they are.
    """
    if len(vectors) == 1 or not isinstance(vectors[0].type, ir.VectorType):
        return vectors
    width = vectors[0].type.count
    evens, odds = (
        separated(k, [k.builder.shuffle_vector(a, b, mask) for a, b in zip(vectors[::2], vectors[1::2], strict=True)])
        for mask in (ir.Constant(ir.VectorType(I32, width), [*range(odd, 2 * width, 2)]) for odd in (0, 1))
    )
    return [each for pair in zip(evens, odds, strict=True) for each in pair]
