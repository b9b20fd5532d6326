"""Layer norm across planes: the features of a token lie in different planes, tokens side by side in lanes."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "inputs",  # int32 a plane: bytes from the arena's start
        "outputs",
        "weight",  # a number a plane
        "bias",
        "mask",  # an integer of a number's size a position: -1 inside the value, 0 on its border
        "arena",
        "planes",
        "last_start",  # vector at which the last tile starts: it overlaps the one before where tiles do not divide
        "first",  # tiles
        "last",
        "scale",  # 1 / planes
        "eps",
    )
)


@dataclass(frozen=True)
class LayerNormKernel:
    """``weight * (x - mean) / sqrt(variance + eps) + bias`` over all planes, for tiles of ``tile`` vectors.

    What is not ``centred`` takes the mean for zero: an RMS norm.
    """

    tile: int
    centred: bool = True
    element: Element = F32

    @property
    def name(self) -> str:
        return f"{'layer' if self.centred else 'rms'}_norm_{self.element.name}_t{self.tile}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE, wide=True)
        b, width, size = k.builder, k.width, k.size
        inputs, outputs, weight, bias, mask, arena = (
            k.address(name) for name in ("inputs", "outputs", "weight", "bias", "mask", "arena")
        )
        planes, last_start = k.arg("planes"), k.arg("last_start")
        scale, eps = k.splat(k.scalar("scale")), k.splat(k.scalar("eps"))
        zeros = [k.constant(0.0)] * self.tile
        with k.loop(k.arg("first"), k.arg("last")) as tiles:
            start = b.mul(tiles.index, ir.Constant(I64, self.tile))
            start = b.select(b.icmp_signed("<", start, last_start), start, last_start)
            at = b.mul(start, ir.Constant(I64, width))
            here, inside = k.at(arena, at), k.at(mask, at)

            def load(table: ir.Value, plane: ir.Value, here: ir.Value = here) -> list[ir.Value]:
                row = k.at(here, k.load_index(table, plane))
                return [k.load_vector(row, width, t * width) for t in range(self.tile)]

            means = zeros
            if self.centred:
                with k.loop(0, planes, 1, zeros) as sums:
                    values = load(inputs, sums.index)
                    sums.next = [b.fadd(total, x) for total, x in zip(sums.values, values, strict=True)]
                means = [b.fmul(total, scale) for total in sums.results]
            with k.loop(0, planes, 1, zeros) as squares:
                apart = [b.fsub(x, m) for x, m in zip(load(inputs, squares.index), means, strict=True)]
                squares.next = [k.fma(x, x, total) for x, total in zip(apart, squares.values, strict=True)]
            one = k.constant(1.0)
            rates = [b.fdiv(one, k.sqrt(k.fma(total, scale, eps))) for total in squares.results]
            borders = [k.load(inside, k.mask, width, t * width) for t in range(self.tile)]
            with k.loop(0, planes) as each:
                place = b.mul(each.index, ir.Constant(I64, size))
                factor = k.load_splat(weight, place)
                offset = k.load_splat(bias, place)
                out = k.at(here, k.load_index(outputs, each.index))
                for t, x in enumerate(load(inputs, each.index)):
                    value = k.fma(b.fmul(b.fsub(x, means[t]), rates[t]), factor, offset)
                    k.write(value, out, width, t * width, borders[t])
        b.ret_void()
