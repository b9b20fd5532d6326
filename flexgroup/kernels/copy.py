"""Copies between dense images and planes, and the split of planes into stride phases."""

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
        "targets",
        "source_row",  # bytes from a row to the next
        "target_row",
        "rows",
        "columns",
        "first",
        "last",
    )
)


@dataclass(frozen=True)
class CopyKernel:
    """``target[row, column] = source[row, column * step]`` for the planes first..last.

    Row steps are strides in the arguments; the column step is compiled in, so that steps 1 and 2 are vector code.
    """

    step: int
    element: Element = F32
    written: Element | None = None  # how the target holds the numbers, if not as the source does

    @property
    def name(self) -> str:
        return f"copy_{move_name(self.element, self.written)}_step{self.step}"

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
            write = k.at(into, k.load_index(targets, planes.index))
            with k.loop(0, k.arg("rows")) as rows:
                from_row = k.at(read, b.mul(rows.index, source_row))
                to_row = k.at(write, b.mul(rows.index, target_row))
                start = ir.Constant(I64, 0)
                for width in halved(k.lanes) if self.step <= 2 else [1]:
                    start = self._run(k, move, from_row, to_row, start, columns, width)
        b.ret_void()

    def _run(
        self, k: Kernel, move: Move, source: ir.Value, target: ir.Value, start: ir.Value, stop: ir.Value, width: int
    ) -> ir.Value:
        """Copy ``width`` elements a round from ``start`` while they fit; returns where it stopped."""
        b, size = k.builder, move.read_size
        whole = b.and_(b.sub(stop, start), ir.Constant(I64, -width))
        end = b.add(start, whole)
        with k.loop(start, end, width) as columns:
            reads = k.at(source, b.mul(columns.index, ir.Constant(I64, self.step * size)))
            value = move.load(reads, width, size)
            if self.step == 2 and width > 1:
                # The odd last element of the second vector may lie beyond the row: end one element earlier.
                after = move.load(reads, width, size, (width - 1) * size)
                even = [*range(0, width, 2), *range(width + 1, 2 * width, 2)]
                value = b.shuffle_vector(value, after, ir.Constant(ir.VectorType(I32, width), even))
            to = k.at(target, b.mul(columns.index, ir.Constant(I64, move.written_size)))
            move.store(value, to, move.written_size)
        return end
