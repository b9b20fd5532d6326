"""Products of two activations: numbers of one operand, read with strides, times planes of the other.

What a dense convolution does with packed weights, ``out[i] = sum over k of entry(i, k) * plane[k]`` for a strip of rows
i and a tile of positions, this does with entries that were computed before. They are read where they are:
``transposed`` entries (i, k) are position i of plane k, others are position k of plane i.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "entries",  # int32 a plane: bytes from the arena's start; blocks after one another
        "inputs",
        "outputs",
        "mask",  # an integer of a number's size a position: -1 inside the output, 0 on its border
        "arena",
        "rows",  # of one block; at least as many as the kernel's
        "sums",  # planes of the input that a block sums over
        "tiles",  # of one plane
        "last_start",  # vector at which the last tile starts
        "first",  # tiles of blocks, block by block
        "last",
        "scale",
    )
)


@dataclass(frozen=True)
class ProductKernel:
    """``rows`` rows by ``tile`` vectors of positions at a time; the last strip of rows overlaps the one before."""

    transposed: bool
    rows: int
    tile: int
    element: Element = F32

    @property
    def name(self) -> str:
        form = "transposed" if self.transposed else "plain"
        return f"product_{self.element.name}_{form}_{self.rows}x1_t{self.tile}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE, wide=True)
        b, width = k.builder, k.width
        names = ("entries", "inputs", "outputs", "mask", "arena")
        entries, inputs, outputs, mask, arena = (k.address(name) for name in names)
        rows, sums, tiles, last_start = (k.arg(name) for name in ("rows", "sums", "tiles", "last_start"))
        scale = k.splat(k.scalar("scale"))
        with k.loop(k.arg("first"), k.arg("last")) as items:
            block, tile = b.udiv(items.index, tiles), b.urem(items.index, tiles)
            start = b.mul(tile, ir.Constant(I64, self.tile))
            start = b.select(b.icmp_signed("<", start, last_start), start, last_start)
            at = b.mul(start, ir.Constant(I64, width))
            here, inside = k.at(arena, at), k.at(mask, at)
            planes = table_at(k, inputs, b.mul(block, sums))
            results = table_at(k, outputs, b.mul(block, rows))
            blocks = table_at(k, entries, b.mul(block, sums if self.transposed else rows))

            def load(index: ir.Value, here: ir.Value = here, planes: ir.Value = planes) -> list[ir.Value]:
                plane = k.at(here, k.load_index(planes, index))
                return [k.load_vector(plane, width, t * width) for t in range(self.tile)]

            with k.loop(0, rows, self.rows) as strips:
                first = overlapping(k, strips.index, rows, self.rows)
                if self.transposed:
                    read = transposed_entries(k, arena, blocks, first, self.rows)
                else:
                    read = plain_entries(k, arena, blocks, first, self.rows)
                values = weighted_sums(k, read, load, sums, self.rows, self.tile)
                for i in range(self.rows):
                    row = b.add(first, ir.Constant(I64, i))
                    out = k.at(here, k.load_index(results, row))
                    for t in range(self.tile):
                        value = b.fmul(values[i * self.tile + t], scale)
                        k.write(value, out, width, t * width, k.load(inside, k.mask, width, t * width))
        b.ret_void()


def table_at(k: Kernel, table: ir.Value, index: ir.Value) -> ir.Value:
    """A table of 32-bit integers from entry ``index`` on."""
    return k.at(table, k.builder.mul(index, ir.Constant(I64, 4)))


def overlapping(k: Kernel, index: ir.Value, count: ir.Value, rows: int) -> ir.Value:
    """The first row of the strip that begins at ``index``: the last strip ends with the last row."""
    b = k.builder
    last = b.sub(count, ir.Constant(I64, rows))
    return b.select(b.icmp_signed("<", index, last), index, last)


def transposed_entries(
    k: Kernel, arena: ir.Value, table: ir.Value, first: ir.Value, rows: int
) -> Callable[[ir.Value], list[ir.Value]]:
    """Reads ``rows`` adjacent positions, from ``first`` on, of plane ``index``."""
    size = k.size
    here = k.at(arena, k.builder.mul(first, ir.Constant(I64, size)))

    def read(index: ir.Value) -> list[ir.Value]:
        plane = k.at(here, k.load_index(table, index))
        return [k.load_entry(plane, i * size) for i in range(rows)]

    return read


def plain_entries(
    k: Kernel, arena: ir.Value, table: ir.Value, first: ir.Value, rows: int
) -> Callable[[ir.Value], list[ir.Value]]:
    """Reads position ``index`` of ``rows`` planes, from plane ``first`` on."""
    b, size = k.builder, k.size
    planes = [k.at(arena, k.load_index(table, b.add(first, ir.Constant(I64, i)))) for i in range(rows)]

    def read(index: ir.Value) -> list[ir.Value]:
        at = b.mul(index, ir.Constant(I64, size))
        return [k.load_entry(plane, at) for plane in planes]

    return read


def weighted_sums(
    k: Kernel,
    entries: Callable[[ir.Value], list[ir.Value]],
    vectors: Callable[[ir.Value], list[ir.Value]],
    count: ir.Value,
    rows: int,
    tile: int,
) -> list[ir.Value]:
    """``sum over index of entries(index)[i] * vectors(index)[t]``, at ``i * tile + t`` of the result.

    Entries are what `Kernel.load_entry` gives.
    """
    zero = k.constant(0.0)
    with k.loop(0, count, 1, [zero] * (rows * tile)) as loop:
        sums, xs = list(loop.values), vectors(loop.index)
        for i, entry in enumerate(entries(loop.index)):
            factor = k.splat_entry(entry)
            for t in range(tile):
                sums[i * tile + t] = k.fma(factor, xs[t], sums[i * tile + t])
        loop.next = sums
    return loop.results
