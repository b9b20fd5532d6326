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
        _Emitter(Kernel(module, self.name, target, self.element, SIGNATURE), self).emit()


class _Emitter:
    def __init__(self, kernel: Kernel, spec: CopyKernel) -> None:
        self.k, self.spec, self.move = kernel, spec, Move(kernel, spec.written)
        b = kernel.builder
        self.source_row, self.target_row = kernel.arg("source_row"), kernel.arg("target_row")
        self.ahead = b.mul(self.source_row, ir.Constant(I64, ROWS_AHEAD)) if spec.ahead else None
        if spec.columns:
            self.columns, self.gap = ir.Constant(I64, spec.columns), ir.Constant(I64, spec.gap)
        else:
            self.columns, self.gap = kernel.arg("columns"), kernel.arg("gap")
        is_vector = spec.step <= 2 or spec.parts > 1
        self.masks = self._masks() if is_vector and kernel.target.has_masks else None
        self.widths = [1] if not is_vector else halved(kernel.lanes) if self.masks is None else [kernel.lanes]

    def emit(self) -> None:
        k, b, parts = self.k, self.k.builder, self.spec.parts
        source, into = k.address("source"), k.address("target")
        sources, targets = k.address("sources"), k.address("targets")
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            read = k.at(source, k.load_index(sources, planes.index))
            first = b.mul(planes.index, ir.Constant(I64, parts))
            places = [k.load_index(targets, b.add(first, ir.Constant(I64, part))) for part in range(parts)]
            writes = [k.at(into, place) for place in places]
            with k.loop(0, k.arg("rows")) as rows:
                from_row, to_row = (b.mul(rows.index, row) for row in (self.source_row, self.target_row))
                copy_row = self._known_row if self.spec.columns else self._row
                copy_row(k.at(read, from_row), [k.at(write, to_row) for write in writes])
        b.ret_void()

    def _known_row(self, source: ir.Value, targets: list[ir.Value]) -> None:
        """A row whose columns are compiled in: code without a loop."""
        spec, start = self.spec, 0
        for width in self.widths:
            while spec.columns - start >= width:
                self._piece(source, targets, ir.Constant(I64, start), width)
                start += width
        if self.masks is not None and start < spec.columns + spec.gap:
            self._piece(source, targets, ir.Constant(I64, start), self.k.lanes, self.masks)
            start += self.k.lanes
        for column in range(start, spec.columns + spec.gap):
            for target in targets:
                self.move.store_zero(target, column * self.move.written_size)

    def _row(self, source: ir.Value, targets: list[ir.Value]) -> None:
        """A row of as many columns as the arguments say."""
        k, b = self.k, self.k.builder
        start, wide = ir.Constant(I64, 0), b.add(self.columns, self.gap)
        for width in self.widths:
            end = b.add(start, b.and_(b.sub(self.columns, start), ir.Constant(I64, -width)))
            with k.loop(start, end, width) as columns:
                self._piece(source, targets, columns.index, width)
            start = end
        if self.masks is not None:
            end = b.add(start, ir.Constant(I64, k.lanes))
            with k.loop(start, b.select(b.icmp_signed("<", wide, end), wide, end), k.lanes):  # at most once
                self._piece(source, targets, start, k.lanes, self.masks)
            start = end
        with k.loop(start, wide) as zeros:
            for target in targets:
                self.move.store_zero(target, b.mul(zeros.index, ir.Constant(I64, self.move.written_size)))

    def _piece(
        self,
        source: ir.Value,
        targets: list[ir.Value],
        start: ir.Value,
        width: int,
        masks: tuple[ir.Value, list[ir.Value]] | None = None,
    ) -> None:
        """Copy ``width`` columns of every part from ``start``, or as many of them as `_masks` says."""
        k, b, move = self.k, self.k.builder, self.move
        size, starts = move.read_size, self._starts(width)
        inside, inside_reads = masks or (None, [None] * len(starts))
        reads = k.at(source, b.mul(start, ir.Constant(I64, self.spec.step * size)))
        if self.ahead is not None and width == k.lanes:
            later = k.at(reads, self.ahead)
            for at in starts:
                k.prefetch(later, at * size)
        places = zip(starts, inside_reads, strict=True)
        vectors = [move.load(reads, width, size, at * size, lanes) for at, lanes in places]
        column = b.mul(start, ir.Constant(I64, move.written_size))
        for row, vector in zip(targets, self._arranged(vectors), strict=True):
            move.store(vector, row, move.written_size, column, inside)

    def _starts(self, width: int) -> list[int]:
        """Where the vectors of so many numbers begin that are read for ``width`` columns."""
        if self.spec.parts > 1:
            return [part * width for part in range(self.spec.parts)]
        # The odd last number of a second vector may lie beyond the row: it begins one earlier.
        return [0, width - 1] if self.spec.step == 2 and width > 1 else [0]

    def _arranged(self, vectors: list[ir.Value]) -> list[ir.Value]:
        """The numbers of every part, of the vectors that were read."""
        if self.spec.parts > 1 or len(vectors) == 1:
            return separated(self.k, vectors)
        width = vectors[0].type.count
        return [self.k.picked([*range(0, width, 2), *range(width + 1, 2 * width, 2)], *vectors)]

    def _masks(self) -> tuple[ir.Value, list[ir.Value]]:
        """Which lanes of a row's last vector are columns or the gap, and which of those are read for them."""
        b, spec, lanes = self.k.builder, self.spec, self.k.lanes
        rest = b.and_(self.columns, ir.Constant(I64, lanes - 1))
        numbers = b.mul(rest, ir.Constant(I64, spec.step))
        if spec.parts == 1 and spec.step == 2:
            numbers = b.sub(numbers, ir.Constant(I64, 1))  # nothing is read that is not wanted
        reads = [self.k.first_lanes(b.sub(numbers, ir.Constant(I64, start)), lanes) for start in self._starts(lanes)]
        return self.k.first_lanes(b.add(rest, self.gap), lanes), reads


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
