"""Copies between dense images and planes, and the split of images into stride phases: one of them, or whole rows."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I32, I64, Kernel, Signature, halved
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

    @property
    def name(self) -> str:
        parts = f"_{self.parts}parts" if self.parts > 1 else ""
        return f"copy_{move_name(self.element, self.written)}_step{self.step}{parts}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b, move = k.builder, Move(k, self.written)
        source, into = k.address("source"), k.address("target")
        sources, targets = k.address("sources"), k.address("targets")
        source_row, target_row, columns = k.arg("source_row"), k.arg("target_row"), k.arg("columns")
        is_vector = self.step <= 2 or self.parts > 1
        wide = b.add(columns, k.arg("gap"))
        rest = b.and_(columns, ir.Constant(I64, k.lanes - 1))
        masked = self._masks(k, rest, k.arg("gap")) if is_vector and target.has_masks else None
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            read = k.at(source, k.load_index(sources, planes.index))
            first = b.mul(planes.index, ir.Constant(I64, self.parts))
            places = [k.load_index(targets, b.add(first, ir.Constant(I64, part))) for part in range(self.parts)]
            writes = [k.at(into, place) for place in places]
            with k.loop(0, k.arg("rows")) as rows:
                from_row = k.at(read, b.mul(rows.index, source_row))
                to_row = b.mul(rows.index, target_row)
                to_rows = [k.at(write, to_row) for write in writes]
                start = ir.Constant(I64, 0)
                for width in [1] if not is_vector else halved(k.lanes) if masked is None else [k.lanes]:
                    start = self._run(k, move, from_row, to_rows, start, columns, width)
                if masked is not None:
                    end = b.add(start, ir.Constant(I64, k.lanes))
                    with k.loop(start, b.select(b.icmp_signed("<", wide, end), wide, end), k.lanes):  # at most once
                        self._piece(k, move, from_row, to_rows, start, k.lanes, masked)
                    start = end
                with k.loop(start, wide) as zeros:
                    for to in to_rows:
                        move.store_zero(to, b.mul(zeros.index, ir.Constant(I64, move.written_size)))
        b.ret_void()

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

    def _masks(self, k: Kernel, rest: ir.Value, gap: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
        """Which lanes of a vector are the last ``rest`` columns and the gap, and which of those are read for them."""
        b, lanes = k.builder, k.lanes
        numbers = b.mul(rest, ir.Constant(I64, self.step))
        if self.parts == 1 and self.step == 2:
            numbers = b.sub(numbers, ir.Constant(I64, 1))  # nothing is read that is not wanted
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
