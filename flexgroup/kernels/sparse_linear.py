"""A sparse linear layer on one vector: groups of adjacent weights lie along the vector lanes.

- ``columns``: a group is ``size`` rows of one column, ``size x 1``, and may start at any row. The input's number times
  the weights is added to ``size`` adjacent outputs. Groups that start at the same row are summed in registers first.
- ``rows``: a group is ``size`` columns of one row, ``1 x size``, and may start at any column. Weights times ``size``
  adjacent inputs are summed lane by lane, and the lanes at the row's end.

Sums go to scratch memory; bias, clamp and curve are applied to whole vectors of them afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from flexgroup.groups import cover
from flexgroup.kernels.curves import emit_curve
from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "input",
        "ends",  # int32 a line: index after its last group; a line is what shares one register sum
        "places",  # int32 a line: bytes from scratch to what its sum is added to
        "offsets",  # int32 a group: bytes from the input to its first number
        "weights",  # `size` numbers a group
        "bias",
        "output",
        "scratch",  # 32 bits a row of the output, of this thread; groups may reach beyond the rows that it stores
        "first",  # lines
        "last",
        "first_vector",  # of the output
        "last_vector",
        "low",
        "high",
    )
)

SUM_BYTES = 4  # of a number in scratch memory
MARGIN = 16  # numbers beside a thread's part of scratch that groups may reach into: the largest size
UNROLL = 2  # groups a round: independent sums hide the latency of the multiply-add


@dataclass(frozen=True)
class SparseLinearKernel:
    """``output = curve(clamp(weights @ input + bias))``, by groups of ``size`` along ``form``."""

    form: str  # "columns" or "rows"
    size: int
    element: Element = F32
    curve: str = ""

    @property
    def name(self) -> str:
        group = f"{self.size}x1" if self.form == "columns" else f"1x{self.size}"
        curve = f"_{self.curve}" if self.curve else ""
        return f"linear_{self.element.name}_{group}{curve}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE, wide=True)
        output, bias, scratch = (k.address(name) for name in ("output", "bias", "scratch"))
        low, high = k.splat(k.scalar("low")), k.splat(k.scalar("high"))
        first_vector, last_vector = k.arg("first_vector"), k.arg("last_vector")
        width, sums = k.width, k.lanes * SUM_BYTES
        with k.loop(first_vector, last_vector) as vectors:
            k.store(k.constant(0.0), scratch, width, k.builder.mul(vectors.index, ir.Constant(I64, sums)))
        self._sums(k, scratch)
        with k.loop(first_vector, last_vector) as vectors:
            at = k.builder.mul(vectors.index, ir.Constant(I64, width))
            total = k.load(scratch, k.vector, width, k.builder.mul(vectors.index, ir.Constant(I64, sums)))
            value = k.builder.fadd(total, k.load_vector(bias, width, at))
            k.write(emit_curve(k, self.curve, k.clamp(value, low, high)), output, width, at)
        k.builder.ret_void()

    def _sums(self, k: Kernel, scratch: ir.Value) -> None:
        b, size = k.builder, k.size
        x, ends, places, offsets, weights = (
            k.address(name) for name in ("input", "ends", "places", "offsets", "weights")
        )
        kind = ir.VectorType(k.number, self.size)
        align = min(self.size * size, 64)
        first, zero = k.arg("first"), ir.Constant(kind, [0.0] * self.size)
        before = b.sub(first, ir.Constant(I64, 1))
        with b.if_else(b.icmp_signed(">", first, ir.Constant(I64, 0))) as (later, start):
            with later:
                given, from_later = k.load_index(ends, before), b.block
            with start:
                from_start = b.block
        group = b.phi(I64)
        group.add_incoming(given, from_later)
        group.add_incoming(ir.Constant(I64, 0), from_start)
        with k.loop(first, k.arg("last"), 1, [group]) as lines:
            end = k.load_index(ends, lines.index)
            with k.loop(lines.values[0], end, UNROLL, [zero] * UNROLL) as groups:
                sums = []
                for u, total in enumerate(groups.values):
                    index = b.add(groups.index, ir.Constant(I64, u))
                    entry = k.load_vector(weights, align, b.mul(index, ir.Constant(I64, self.size * size)), self.size)
                    numbers = k.at(x, k.load_index(offsets, index))
                    if self.form == "columns":
                        factor = k.load_splat(numbers, count=self.size)
                    else:
                        factor = k.load_vector(numbers, size, count=self.size)
                    sums.append(k.fma(factor, entry, total))
                groups.next = sums
            total = groups.results[0]
            for more in groups.results[1:]:
                total = b.fadd(total, more)
            place = k.at(scratch, k.load_index(places, lines.index))
            if self.form == "columns":
                k.store(b.fadd(k.load(place, kind, SUM_BYTES), total), place, SUM_BYTES)
            else:
                k.store(k.sum_of_lanes(total), place, SUM_BYTES)
            lines.next = [end]


@dataclass(frozen=True, eq=False)
class PackedLines:
    """The kept groups of a layer, line by line, each line filled up to whole rounds with groups of zeros."""

    ends: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]  # of every line: the first row that it adds to
    inputs: npt.NDArray[np.int64]  # of every group: the first input that it reads
    weights: npt.NDArray[np.float32]  # (groups, size)


def group_count(pattern: npt.NDArray[np.bool_], form: str, size: int) -> tuple[int, int]:
    """How many groups cover the non-zeros, and on how many lines they lie."""
    starts = cover(pattern, size) if form == "columns" else cover(pattern.T, size).T
    return int(starts.sum()), int(starts.any(axis=1).sum())


def pack_groups(matrix: npt.NDArray[np.float32], form: str, size: int) -> PackedLines:
    """The groups that cover the non-zeros of ``matrix`` (rows x columns) in the fewest windows.

    ``rows`` groups that would reach beyond the last column start earlier, with zeros in front.
    """
    rows, columns = matrix.shape
    if form == "columns":
        first_rows, inputs = np.nonzero(cover(matrix, size))
        padded = np.zeros((rows + size, columns), np.float32)
        padded[:rows] = matrix
        weights = padded[first_rows[:, None] + np.arange(size), inputs[:, None]]
    else:
        first_rows, wanted = np.nonzero(cover(np.ascontiguousarray(matrix.T), size).T)
        inputs = np.minimum(wanted, columns - size)
        reach = inputs[:, None] + np.arange(size)
        weights = np.where(reach >= wanted[:, None], matrix[first_rows[:, None], reach], 0)
    lines, counts = np.unique(first_rows, return_counts=True)
    padded_counts = -(-counts // UNROLL) * UNROLL
    ends = np.cumsum(padded_counts)
    at = np.arange(len(first_rows)) + np.repeat(ends - padded_counts - (np.cumsum(counts) - counts), counts)
    total = int(ends[-1]) if len(ends) else 0
    all_inputs, all_weights = np.zeros(total, np.int64), np.zeros((total, size), np.float32)
    all_inputs[at], all_weights[at] = inputs, weights
    return PackedLines(ends.astype(np.int32), lines, all_inputs, all_weights)
