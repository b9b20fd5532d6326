"""Copies that interleave rows: how blocks of pixels that channels hold become pixels side by side."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I32, I64, Kernel, Signature, halved
from flexgroup.kernels.moves import Move, move_name
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "source",  # what the source offsets count from
        "target",
        "from_planes",  # int32 a plane of the target: bytes to what its rows' parts count from
        "to_planes",
        "from_parts",  # int32 a row and part: bytes
        "to_rows",  # int32 a row: bytes
        "rows",
        "columns",  # of a part
        "first",  # planes
        "last",
    )
)


@dataclass(frozen=True)
class InterleaveKernel:
    """``target[row][parts * column + part] = source[row, part][column]``, for 2 or 4 parts."""

    parts: int
    element: Element = F32
    written: Element | None = None  # how the target holds the numbers, if not as the source does

    @property
    def name(self) -> str:
        return f"interleave_{move_name(self.element, self.written)}_{self.parts}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b, move = k.builder, Move(k, self.written)
        source, into = k.address("source"), k.address("target")
        from_planes, to_planes = k.address("from_planes"), k.address("to_planes")
        from_parts, to_rows, columns = k.address("from_parts"), k.address("to_rows"), k.arg("columns")
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            read = k.at(source, k.load_index(from_planes, planes.index))
            write = k.at(into, k.load_index(to_planes, planes.index))
            with k.loop(0, k.arg("rows")) as rows:
                first = b.mul(rows.index, ir.Constant(I64, self.parts))
                places = [k.load_index(from_parts, b.add(first, ir.Constant(I64, i))) for i in range(self.parts)]
                reads = [k.at(read, place) for place in places]
                row = k.at(write, k.load_index(to_rows, rows.index))
                start = ir.Constant(I64, 0)
                for width in halved(k.lanes):
                    start = self._run(k, move, reads, row, start, columns, width)
        b.ret_void()

    def _run(
        self, k: Kernel, move: Move, reads: list[ir.Value], row: ir.Value, start: ir.Value, stop: ir.Value, width: int
    ) -> ir.Value:
        """``width`` columns a round from ``start`` while they fit; returns where it stopped."""
        b, size = k.builder, move.written_size
        end = b.add(start, b.and_(b.sub(stop, start), ir.Constant(I64, -width)))
        with k.loop(start, end, width) as columns:
            at = b.mul(columns.index, ir.Constant(I64, move.read_size))
            vectors = [move.load(read, width, move.read_size, at) for read in reads]
            out = k.at(row, b.mul(columns.index, ir.Constant(I64, size * self.parts)))
            for i, vector in enumerate(vectors if width == 1 else interleaved(k, vectors)):
                move.store(vector, out, size, i * width * size)
        return end


def interleaved(k: Kernel, vectors: list[ir.Value]) -> list[ir.Value]:
    """The first numbers of all vectors, then their second ones, and so on, as as many vectors: a power of two."""
    if len(vectors) == 1:
        return vectors
    width = vectors[0].type.count
    halves = [[half * width // 2 + i // 2 + i % 2 * width for i in range(width)] for half in (0, 1)]
    masks = [ir.Constant(ir.VectorType(I32, width), half) for half in halves]
    evens, odds = interleaved(k, vectors[::2]), interleaved(k, vectors[1::2])
    return [k.builder.shuffle_vector(a, b, mask) for a, b in zip(evens, odds, strict=True) for mask in masks]
