"""Dense convolution with output channels in vector lanes: for images whose rows fill vectors badly.

The other convolutions keep positions in lanes, so that an image of 7x7 leaves a quarter of the lanes idle. Here a
vector holds as many output channels as it has lanes: a strip of `vectors` of them times a tile of `tile` positions of
one row stays in registers, and every column multiplies the strip's weights by the tile's positions, one after another,
each in all lanes. At the end the tile is transposed in registers to the planes it belongs to. Nothing is computed but
pixels; zeros are written to the gap behind a row, as all convolutions do.

Strips come before tiles: a strip's weights stay in the second-level cache from tile to tile.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.curves import emit_curve
from flexgroup.kernels.emit import AHEAD, I64, Kernel, Signature
from flexgroup.kernels.target import F32, LINE, Element, Target
from flexgroup.kernels.transpose import transposed

LONGEST_TILE, SHORTEST_TILE = 14, 2  # positions
FEWEST_REGISTERS, FEWEST_LANES = 32, 16  # with which this pays

SIGNATURE = Signature(
    (
        "offsets",  # int32 a column: bytes from `source` to the tap's first position
        "weights",  # numbers of a strip a column: strip by strip
        "bias",  # a number a row
        "outputs",  # int32 a row: bytes from `target` to the row's output plane
        "residuals",  # int32 a row: bytes from `residual`, for kernels with a residual
        "source",
        "target",
        "residual",
        "row_count",  # of the weight matrix: whole strips
        "columns",
        "first_tile",
        "last_tile",
        "row_tiles",  # tiles of an image's row, which they divide evenly
        "image_row",  # bytes from an image's row to the next
        "low",
        "high",
    )
)


@dataclass(frozen=True)
class ChannelsKernel:
    """Strips of ``vectors`` vectors of channels, ``tile`` positions; ``gap`` positions behind a row are zeroed."""

    vectors: int
    tile: int
    gap: int
    residual: bool
    element: Element = F32
    curve: str = ""  # a name of `curves`, applied after the clamp

    @property
    def name(self) -> str:
        ending = f"_g{self.gap}" * bool(self.gap) + "_add" * self.residual + (f"_{self.curve}" if self.curve else "")
        return f"conv_{self.element.name}_channels_{self.vectors}v_t{self.tile}{ending}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        _Emitter(Kernel(module, self.name, target, self.element, SIGNATURE), self).emit()


def tile_for(width: int, gap: int, target: Target, element: Element) -> int:
    """Positions of a tile for rows of ``width`` pixels with ``gap`` positions between them; 0 where there is none."""
    lanes = target.lanes(element)
    if target.vector_registers < FEWEST_REGISTERS or lanes < FEWEST_LANES:
        return 0
    longest = min(LONGEST_TILE, lanes - gap)
    return next((tile for tile in range(longest, SHORTEST_TILE - 1, -1) if width % tile == 0), 0)


def most_vectors(tile: int, target: Target) -> int:
    """The most vectors of channels that a strip can have: sums, a column's weights and a position stay in registers."""
    return (target.vector_registers - 1) // (tile + 1)


class _Emitter:
    def __init__(self, kernel: Kernel, spec: ChannelsKernel) -> None:
        self.k = kernel
        self.spec = spec
        self.rows = spec.vectors * kernel.lanes
        self.offsets, self.weights, self.bias = (kernel.address(name) for name in ("offsets", "weights", "bias"))
        self.outputs, self.source, self.target = (kernel.address(name) for name in ("outputs", "source", "target"))
        self.residuals = kernel.address("residuals") if spec.residual else None
        self.residual = kernel.address("residual") if spec.residual else None
        self.low, self.high = kernel.splat(kernel.scalar("low")), kernel.splat(kernel.scalar("high"))

    def emit(self) -> None:
        k, spec = self.k, self.spec
        b, size = k.builder, k.size
        columns, row_tiles, image_row = k.arg("columns"), k.arg("row_tiles"), k.arg("image_row")
        last_of_row = b.sub(row_tiles, ir.Constant(I64, 1))
        with k.loop(0, k.arg("row_count"), self.rows) as strips:
            first = b.mul(strips.index, ir.Constant(I64, size))
            weights = k.at(self.weights, b.mul(first, columns))
            biases = [k.load_vector(k.at(self.bias, first), size, i * k.width) for i in range(spec.vectors)]
            with k.loop(k.arg("first_tile"), k.arg("last_tile")) as tiles:
                across = b.urem(tiles.index, row_tiles)
                place = b.mul(b.udiv(tiles.index, row_tiles), image_row)
                place = b.add(place, b.mul(across, ir.Constant(I64, spec.tile * size)))
                sums = self._sums(weights, k.at(self.source, place), columns, biases)
                results = [self._planes(sums[i * spec.tile :][: spec.tile]) for i in range(spec.vectors)]
                values = [value for vectors in results for value in vectors]
                if spec.gap:
                    with b.if_else(b.icmp_signed("==", across, last_of_row)) as (last, before):
                        with last:
                            self._store(strips.index, place, values, spec.tile + spec.gap)
                        with before:
                            self._store(strips.index, place, values, spec.tile)
                else:
                    self._store(strips.index, place, values, spec.tile)
        b.ret_void()

    def _sums(self, weights: ir.Value, inputs: ir.Value, columns: ir.Value, biases: list[ir.Value]) -> list[ir.Value]:
        """``sums[i * tile + t]``: vector i of the strip's channels at position t."""
        k, spec = self.k, self.spec
        size, strip = k.size, ir.Constant(I64, self.rows * k.size)
        with k.loop(0, columns, 1, [bias for bias in biases for _ in range(spec.tile)]) as loop:
            plane = k.at(inputs, k.load_index(self.offsets, loop.index))
            here = k.at(weights, k.builder.mul(loop.index, strip))
            factors = [k.load_vector(here, size, i * k.width) for i in range(spec.vectors)]
            for line in range(0, spec.vectors * k.width, LINE):
                k.prefetch(here, line + AHEAD)
            loop.next = list(loop.values)
            for t in range(spec.tile):
                x = k.load_splat(plane, t * size)
                for i, factor in enumerate(factors):
                    loop.next[i * spec.tile + t] = k.fma(factor, x, loop.next[i * spec.tile + t])
        return loop.results

    def _planes(self, sums: list[ir.Value]) -> list[ir.Value]:
        """One vector a channel: its positions, and zeros behind them."""
        k = self.k
        return transposed(k, [*sums, *[k.constant(0.0)] * (k.lanes - len(sums))])

    def _store(self, strip: ir.Value, place: ir.Value, values: list[ir.Value], count: int) -> None:
        """Residual, clamp and curve; then ``count`` positions of every channel go to its plane, zeros after a tile."""
        k, spec = self.k, self.spec
        b, lanes = k.builder, k.lanes
        inside = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [lane < spec.tile for lane in range(lanes)])
        for j, value in enumerate(values):
            row = b.add(strip, ir.Constant(I64, j))
            if self.residuals is not None:
                residual = k.at(k.at(self.residual, k.load_index(self.residuals, row)), place)
                value = b.fadd(value, k.load_vector(residual, k.size))
            value = emit_curve(k, spec.curve, k.clamp(value, self.low, self.high))
            if count > spec.tile:
                value = b.select(inside, value, k.constant(0.0))
            k.write_first(value, k.at(k.at(self.target, k.load_index(self.outputs, row)), place), count)
