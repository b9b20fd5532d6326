"""Copies that exchange rows and columns: square blocks are transposed in registers."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I32, I64, Kernel, Signature
from flexgroup.kernels.moves import Move, move_name
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "source",  # the region, and the bytes into it that the source offsets count from
        "target",
        "from_columns",  # int32 a column: bytes; the rows of a column are adjacent
        "to_rows",  # int32 a row: bytes; the columns of a row are adjacent
        "rows",  # at least as many as a block has
        "columns",  # likewise
        "first",  # blocks of rows
        "last",
    )
)


@dataclass(frozen=True)
class TransposeKernel:
    """``target[to_rows[i]][j] = source[from_columns[j]][i]`` in blocks of ``size x size``; the last ones overlap."""

    size: int
    element: Element = F32
    written: Element | None = None  # how the target holds the numbers, if not as the source does

    @property
    def name(self) -> str:
        return f"transpose_{move_name(self.element, self.written)}_{self.size}x{self.size}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b, move = k.builder, Move(k, self.written)
        source, into = k.address("source"), k.address("target")
        from_columns, to_rows = k.address("from_columns"), k.address("to_rows")
        last_row, last_column = (b.sub(k.arg(name), ir.Constant(I64, self.size)) for name in ("rows", "columns"))

        def nearest(index: ir.Value, last: ir.Value) -> ir.Value:
            return b.select(b.icmp_signed("<", index, last), index, last)

        with k.loop(k.arg("first"), k.arg("last")) as blocks:
            row = nearest(b.mul(blocks.index, ir.Constant(I64, self.size)), last_row)
            read = k.at(source, b.mul(row, ir.Constant(I64, move.read_size)))
            with k.loop(0, k.arg("columns"), self.size) as across:
                column = nearest(across.index, last_column)
                vectors = []
                for i in range(self.size):
                    at = k.load_index(from_columns, b.add(column, ir.Constant(I64, i)))
                    vectors.append(move.load(read, self.size, move.read_size, at))
                write = k.at(into, b.mul(column, ir.Constant(I64, move.written_size)))
                for i, vector in enumerate(transposed(k, vectors)):
                    at = k.load_index(to_rows, b.add(row, ir.Constant(I64, i)))
                    move.store(vector, write, move.written_size, at)
        b.ret_void()


def transposed(k: Kernel, vectors: list[ir.Value]) -> list[ir.Value]:
    """The columns of a square of as many vectors as one has lanes, a power of two.

    Each round interleaves the first half of the vectors with the second, which moves one bit of the index.
    """
    size = len(vectors)
    halves = [[half + i // 2 + i % 2 * size for i in range(size)] for half in (0, size // 2)]
    masks = [ir.Constant(ir.VectorType(I32, size), half) for half in halves]
    for _ in range(size.bit_length() - 1):
        pairs = zip(vectors[: size // 2], vectors[size // 2 :], strict=True)
        vectors = [k.builder.shuffle_vector(*pair, mask) for pair in pairs for mask in masks]
    return vectors
