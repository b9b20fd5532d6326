"""Resizing: every output pixel is a weighted sum of input pixels, along rows first, then along columns.

Pixels of a row have neighbours and weights of their own, which vectors along the row could only gather. So lanes are
channels: rows of as many planes as a vector has lanes are summed, transposed in registers to one vector a column, and
then a pixel of all of them is a sum of vectors with the same weights. The results are transposed back. Any ratio and
any kind of interpolation is the same code; only the tables differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target
from flexgroup.kernels.transpose import transposed

SIGNATURE = Signature(
    (
        "inputs",  # int32 a plane, for whole blocks of planes: bytes from the arena's start
        "outputs",
        "arena",
        "scratch",  # of this thread: a vector register's bytes for every input column, in whole blocks
        "row_offsets",  # int32 a row and tap: bytes from a plane's first position to the row
        "row_weights",
        "new_row",  # int32 a row: 0 if its taps are those of the row before
        "row_taps",
        "column_offsets",  # int32 a block of columns, tap and column of the block: bytes into scratch
        "column_weights",
        "column_taps",
        "places",  # int32 a block of columns: bytes from a row's beginning; the last two may overlap
        "mask",  # an integer of a number's size a column of a block: -1 inside the image, 0 beyond its end
        "input_blocks",  # of columns
        "output_blocks",
        "rows",
        "output_row",  # bytes from a row to the next
        "bands",  # into which the rows of a block of planes are cut
        "band_rows",
        "first",  # bands of blocks of planes, block by block
        "last",
    )
)


@dataclass(frozen=True)
class ResizeKernel:
    """``rows @ image @ columns.T`` for blocks of as many planes as a vector has lanes."""

    element: Element = F32

    @property
    def name(self) -> str:
        return f"resize_{self.element.name}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        _Emitter(Kernel(module, self.name, target, self.element, SIGNATURE)).emit()


class _Emitter:
    def __init__(self, kernel: Kernel) -> None:
        self.k = kernel
        self.lanes = kernel.lanes
        self.size = kernel.element.bytes
        self.width = kernel.width
        self.register = kernel.target.vector_bytes
        self.arena, self.scratch, self.mask = (kernel.address(name) for name in ("arena", "scratch", "mask"))
        self.inputs, self.outputs = kernel.address("inputs"), kernel.address("outputs")
        self.row_taps, self.column_taps = kernel.arg("row_taps"), kernel.arg("column_taps")
        self.zeros = [kernel.constant(0.0)] * kernel.lanes

    def emit(self) -> None:
        k = self.k
        b = k.builder
        bands, band_rows, height = k.arg("bands"), k.arg("band_rows"), k.arg("rows")
        new_row, output_row = k.address("new_row"), k.arg("output_row")
        with k.loop(k.arg("first"), k.arg("last")) as items:
            plane = b.mul(b.udiv(items.index, bands), ir.Constant(I64, self.lanes))
            begin = b.mul(b.urem(items.index, bands), band_rows)
            end = b.add(begin, band_rows)
            end = b.select(b.icmp_signed("<", end, height), end, height)
            with k.loop(begin, end) as rows:
                is_first = b.icmp_signed("==", rows.index, begin)
                is_new = b.icmp_signed("!=", k.load_index(new_row, rows.index), ir.Constant(I64, 0))
                with b.if_then(b.or_(is_first, is_new)):
                    self._rows(plane, rows.index)
                self._columns(plane, b.mul(rows.index, output_row))
        b.ret_void()

    def _rows(self, plane: ir.Value, row: ir.Value) -> None:
        """The sum of input rows that an output row is made of, to scratch: one vector a column."""
        k = self.k
        b = k.builder
        offsets, weights = k.address("row_offsets"), k.address("row_weights")
        first_tap = b.mul(row, self.row_taps)
        planes = self._planes(self.inputs, plane)
        with k.loop(0, k.arg("input_blocks")) as blocks:
            at = b.mul(blocks.index, ir.Constant(I64, self.width))
            with k.loop(0, self.row_taps, 1, self.zeros) as taps:
                tap = b.add(first_tap, taps.index)
                place = b.add(at, k.load_index(offsets, tap))
                weight = k.load_splat(weights, self._scaled(tap, self.size))
                taps.next = [
                    k.fma(weight, k.load_vector(base, self.size, place), total)
                    for base, total in zip(planes, taps.values, strict=True)
                ]
            block = k.at(self.scratch, self._scaled(at, self.lanes * self.register // self.width))
            for i, column in enumerate(transposed(k, taps.results)):
                k.store(column, block, self.register, i * self.register)

    def _columns(self, plane: ir.Value, output: ir.Value) -> None:
        """An output row of every plane, from the columns in scratch."""
        k = self.k
        b = k.builder
        offsets, weights = k.address("column_offsets"), k.address("column_weights")
        places = k.address("places")
        inside = k.load(self.mask, k.mask, self.width)
        planes = self._planes(self.outputs, plane)
        with k.loop(0, k.arg("output_blocks")) as blocks:
            first_tap = b.mul(blocks.index, self.column_taps)
            with k.loop(0, self.column_taps, 1, self.zeros) as taps:
                tap = self._scaled(b.add(first_tap, taps.index), self.lanes)
                taps.next = []
                for i, total in enumerate(taps.values):
                    entry = b.add(tap, ir.Constant(I64, i))
                    weight = k.load_splat(weights, self._scaled(entry, self.size))
                    column = k.load(self.scratch, k.vector, self.register, k.load_index(offsets, entry))
                    taps.next.append(k.fma(weight, column, total))
            at = k.load_index(places, blocks.index)
            for base, value in zip(planes, transposed(k, taps.results), strict=True):
                value = k.stored(value, inside)
                k.store(value, base, self.size, b.add(at, output))

    def _planes(self, table: ir.Value, first: ir.Value) -> list[ir.Value]:
        """The addresses of a block of planes."""
        k = self.k
        at = [k.builder.add(first, ir.Constant(I64, i)) for i in range(self.lanes)]
        return [k.at(self.arena, k.load_index(table, index)) for index in at]

    def _scaled(self, index: ir.Value, size: int) -> ir.Value:
        return self.k.builder.mul(index, ir.Constant(I64, size))
