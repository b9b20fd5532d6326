"""Copies that split rows into stride phases: pixels side by side become pixels of as many planes."""

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
        "targets",  # int32 a plane and part: bytes
        "source_row",  # bytes from a row to the next
        "target_row",
        "rows",
        "columns",  # of a part
        "first",  # planes
        "last",
    )
)


@dataclass(frozen=True)
class SplitKernel:
    """``target[part][row, column] = source[row, parts * column + part]``; ``parts`` is a power of two."""

    parts: int
    element: Element = F32
    written: Element | None = None  # how the target holds the numbers, if not as the source does

    @property
    def name(self) -> str:
        return f"split_{move_name(self.element, self.written)}_{self.parts}"

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
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            read = k.at(source, k.load_index(sources, planes.index))
            first = b.mul(planes.index, ir.Constant(I64, self.parts))
            places = [k.load_index(targets, b.add(first, ir.Constant(I64, i))) for i in range(self.parts)]
            writes = [k.at(into, place) for place in places]
            with k.loop(0, k.arg("rows")) as rows:
                from_row, to_row = k.at(read, b.mul(rows.index, source_row)), b.mul(rows.index, target_row)
                start = ir.Constant(I64, 0)
                for width in halved(k.lanes):
                    start = self._run(
                        k, move, from_row, [k.at(write, to_row) for write in writes], start, columns, width
                    )
        b.ret_void()

    def _run(
        self, k: Kernel, move: Move, row: ir.Value, writes: list[ir.Value], start: ir.Value, stop: ir.Value, width: int
    ) -> ir.Value:
        """``width`` columns a round from ``start`` while they fit; returns where it stopped."""
        b, size = k.builder, move.read_size
        end = b.add(start, b.and_(b.sub(stop, start), ir.Constant(I64, -width)))
        with k.loop(start, end, width) as columns:
            reads = k.at(row, b.mul(columns.index, ir.Constant(I64, size * self.parts)))
            vectors = [move.load(reads, width, size, i * width * size) for i in range(self.parts)]
            to = b.mul(columns.index, ir.Constant(I64, move.written_size))
            for write, vector in zip(writes, vectors if width == 1 else separated(k, vectors), strict=True):
                move.store(vector, write, move.written_size, to)
        return end


def separated(k: Kernel, vectors: list[ir.Value]) -> list[ir.Value]:
    """Numbers 0, n, 2n, ... of n vectors in a row, then 1, n + 1, ..., and so on, as as many vectors."""
    if len(vectors) == 1:
        return vectors
    width = vectors[0].type.count
    evens, odds = (
        separated(k, [k.builder.shuffle_vector(a, b, mask) for a, b in zip(vectors[::2], vectors[1::2], strict=True)])
        for mask in (ir.Constant(ir.VectorType(I32, width), [*range(odd, 2 * width, 2)]) for odd in (0, 1))
    )
    return [each for pair in zip(evens, odds, strict=True) for each in pair]
