"""Softmax across planes, position by position."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.curves import emit_exp
from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "inputs",  # int32 a plane: bytes from the arena's start; blocks after one another
        "outputs",
        "mask",  # an integer of a number's size a position: -1 inside the value, 0 on its border
        "arena",
        "planes",  # of one block, which a softmax is taken over
        "tiles",  # of one plane
        "last_start",  # vector at which the last tile starts
        "first",  # tiles of blocks, block by block
        "last",
    )
)


@dataclass(frozen=True)
class SoftmaxKernel:
    """``exp(x) / sum(exp(x))`` over the planes of a block, for tiles of ``tile`` vectors."""

    tile: int
    element: Element = F32

    @property
    def name(self) -> str:
        return f"softmax_{self.element.name}_t{self.tile}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE, wide=True)
        b, width = k.builder, k.width
        inputs, outputs, mask, arena = (k.address(name) for name in ("inputs", "outputs", "mask", "arena"))
        planes, tiles, last_start = (k.arg(name) for name in ("planes", "tiles", "last_start"))
        lowest, zero, one = (k.constant(x) for x in (float("-inf"), 0.0, 1.0))
        with k.loop(k.arg("first"), k.arg("last")) as items:
            block, tile = b.udiv(items.index, tiles), b.urem(items.index, tiles)
            start = b.mul(tile, ir.Constant(I64, self.tile))
            start = b.select(b.icmp_signed("<", start, last_start), start, last_start)
            at = b.mul(start, ir.Constant(I64, width))
            here, inside = k.at(arena, at), k.at(mask, at)
            row = b.mul(block, planes)

            def plane(table: ir.Value, index: ir.Value, here: ir.Value = here, row: ir.Value = row) -> ir.Value:
                return k.at(here, k.load_index(table, b.add(row, index)))

            with k.loop(0, planes, 1, [lowest] * self.tile) as maxima:
                values = zip(self._load(k, plane(inputs, maxima.index)), maxima.values, strict=True)
                maxima.next = [b.select(b.fcmp_unordered(">", x, best), x, best) for x, best in values]
            with k.loop(0, planes, 1, [zero] * self.tile) as sums:
                out, totals = plane(outputs, sums.index), []
                for t, x in enumerate(self._load(k, plane(inputs, sums.index))):
                    weight = emit_exp(k, b.fsub(x, maxima.results[t]))
                    k.write(weight, out, width, t * width)
                    totals.append(b.fadd(sums.values[t], weight))
                sums.next = totals
            rates = [b.fdiv(one, total) for total in sums.results]
            borders = [k.load(inside, k.mask, width, t * width) for t in range(self.tile)]
            with k.loop(0, planes) as each:
                out = plane(outputs, each.index)
                for t, weight in enumerate(self._load(k, out)):
                    k.write(b.fmul(weight, rates[t]), out, width, t * width, borders[t])
        b.ret_void()

    def _load(self, k: Kernel, plane: ir.Value) -> list[ir.Value]:
        return [k.load_vector(plane, k.width, t * k.width) for t in range(self.tile)]
