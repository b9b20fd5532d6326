"""A dense linear layer on one vector: the weights lie along the vector lanes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from flexgroup.kernels.curves import emit_curve
from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "input",
        "weights",  # block by block of `tile` vectors of rows; in a block column by column
        "bias",
        "output",
        "columns",
        "first",  # blocks
        "last",
        "low",
        "high",
    )
)

STREAMS = 4  # parts of a block that are read side by side, each with sums of its own


@dataclass(frozen=True)
class LinearKernel:
    """``output = curve(clamp(weights @ input + bias))`` for blocks of ``tile`` vectors of rows."""

    tile: int
    element: Element = F32
    curve: str = ""

    @property
    def name(self) -> str:
        curve = f"_{self.curve}" if self.curve else ""
        return f"linear_{self.element.name}_t{self.tile}{curve}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE, wide=True)
        b, width, size, tile = k.builder, k.width, k.size, self.tile
        names = ("input", "weights", "bias", "output")
        x, weights, bias, output = (k.address(name) for name in names)
        low, high, columns = k.splat(k.scalar("low")), k.splat(k.scalar("high")), k.arg("columns")
        column_bytes = ir.Constant(I64, tile * width)
        # A core waits for one page of memory at a time, however far ahead it asks: four are read as fast as memory can.
        part = b.sdiv(columns, ir.Constant(I64, STREAMS))
        whole = b.mul(part, ir.Constant(I64, STREAMS))
        with k.loop(k.arg("first"), k.arg("last")) as blocks:
            rows = b.mul(blocks.index, column_bytes)
            block = k.at(weights, b.mul(b.mul(blocks.index, columns), column_bytes))
            zero = k.constant(0.0)
            start = [k.load_vector(bias, width, b.add(rows, ir.Constant(I64, t * width))) for t in range(tile)]
            results = [*start, *[zero] * tile * (STREAMS - 1)]
            # Numbers behind the last column are not read: whatever lies there may be no number.
            for begin, end, streams in ((ir.Constant(I64, 0), part, STREAMS), (whole, columns, 1)):
                with k.loop(begin, end, 1, results) as rounds:
                    sums = list(rounds.values)
                    for u in range(streams):
                        column = b.add(rounds.index, b.mul(part, ir.Constant(I64, u)))
                        factor = k.load_splat(x, b.mul(column, ir.Constant(I64, size)))
                        entries = k.at(block, b.mul(column, column_bytes))
                        for t in range(tile):
                            row = k.load_vector(entries, width, t * width)
                            sums[u * tile + t] = k.fma(factor, row, sums[u * tile + t])
                    rounds.next = sums
                results = rounds.results
            for t in range(tile):
                value = results[t]
                for u in range(1, STREAMS):
                    value = b.fadd(value, results[u * tile + t])
                value = emit_curve(k, self.curve, k.clamp(value, low, high))
                k.write(value, output, width, b.add(rows, ir.Constant(I64, t * width)))
        b.ret_void()


def pack_linear(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], tile: int, lanes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights and bias of a (rows, columns) layer in the kernel's order; rows are padded with zeros to whole blocks."""
    rows, columns = weight.shape
    block = tile * lanes
    padded = np.zeros((-(-rows // block) * block, columns), dtype=np.float32)
    padded[:rows] = weight
    packed = padded.reshape(-1, block, columns).transpose(0, 2, 1)
    padded_bias = np.zeros(padded.shape[0], dtype=np.float32)
    padded_bias[:rows] = bias
    return np.ascontiguousarray(packed), padded_bias
