"""The transforms of Winograd's method over rows: a small matrix that is compiled in, times the rows of each plane.

`block` rows of the output are a convolution of the weights' column of R taps with the R + `block` - 1 rows that they
read: a product of polynomials, which takes one multiplication for each of as many points when both are known there
(Toom and Cook; Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, arXiv 1509.09308).

- ``input``: the rows that a block reads to their values at the points.
- ``output``: the sums of products at the points to the block's rows, with bias, residual, activation and border.

The points come in pairs p and -p, whose powers differ in sign only. So an output transform adds and subtracts the
values of a pair first, and an input transform adds up even and odd rows apart: half of the multiply-adds of a pair.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from flexgroup.kernels.curves import emit_curve
from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

# The finite points by the rows of a block, of which convolutions of fewer taps take the first ones. With more rows
# there are fewer products, and more is lost to rounding: those for seven rows are fractions near the best of many sets
# that `experiments/winograd_points.py` tries.
FINITE_POINTS = {
    4: (0.0, 1.0, -1.0, 0.5, -0.5, 2.0),
    7: (0.0, 5 / 6, -5 / 6, 6 / 5, -6 / 5, 4 / 9, -4 / 9, 9 / 4, -9 / 4),
}
BLOCKS = tuple(FINITE_POINTS)
MOST_TAPS = 4

Matrix = npt.NDArray[np.float64]

SIGNATURE = Signature(
    (
        "inputs",  # int32 a plane: bytes from `source` to its first row
        "outputs",  # int32 a plane: bytes from `target` to its first row
        "residuals",  # int32 a plane: bytes from `residual`, for kernels with a residual
        "bias",  # output: a number a plane
        "mask",  # output: an integer a position of a row, -1 inside the image, 0 on its border
        "source",
        "target",
        "residual",
        "read",  # bytes from a row that is read to the next
        "written",  # from a row that is written to the next
        "planes",
        "vectors",  # of a row
        "last_start",  # bytes to the last one, which may overlap the one before
        "low",
        "high",
    )
)


@functools.lru_cache(maxsize=32)
def transforms(taps: int, most: int, block: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A, G, B): the rows y[i] = sum over k of g[k] d[i + k], ``block`` of them, are ``A @ ((G @ g) * (B @ d))``.

    g has ``taps`` entries, ``most`` or one less, d has ``taps`` + ``block`` - 1. A is (``block``, ``most`` + ``block``
    - 1); for fewer taps its last column, of the point at infinity, has no row in G and B.
    """
    return transforms_at(FINITE_POINTS[block][: block + most - 2], taps, most, block)


def transforms_at(finite: Sequence[float], taps: int, most: int, block: int) -> tuple[Matrix, Matrix, Matrix]:
    """The `transforms` with these finite points, ``block + most - 2`` of them."""
    size = block + taps - 1
    powers = np.array(finite)[None, :] ** np.arange(size)[:, None]
    at_infinity = np.zeros((size, int(taps == most)))
    at_infinity[-1:] = 1.0
    b = np.linalg.inv(np.hstack([powers, at_infinity]))
    b[np.abs(b) < 1e-9 * np.abs(b).max()] = 0.0
    g = np.vstack([powers[:taps].T, at_infinity[-taps:].T])
    a = np.hstack([np.array(finite)[None, :] ** np.arange(block)[:, None], np.eye(block)[:, -1:]])
    scale = np.abs(b).sum(axis=1, keepdims=True)  # values as large as what they are values of
    return a, g * scale, b / scale


@dataclass(frozen=True)
class TransformKernel:
    """``form`` "input" or "output", for planes of ``taps`` taps among those of at most ``most``."""

    form: str
    block: int
    taps: int
    most: int
    residual: bool = False
    curve: str = ""  # a name of `curves`, applied after the clamp
    in_place: bool = False  # whether the residual lies where the output goes, and the last vector overlaps
    element: Element = F32

    @property
    def name(self) -> str:
        ending = "_add" * self.residual + "_in_place" * self.in_place + (f"_{self.curve}" if self.curve else "")
        return f"transform_{self.element.name}_{self.form}_{self.block}rows_{self.taps}of{self.most}{ending}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    @property
    def matrix(self) -> Matrix:
        """What a plane's rows are multiplied by: (rows written, rows read)."""
        a, _, b = transforms(self.taps, self.most, self.block)
        return a if self.form == "output" else b

    @property
    def terms(self) -> int:
        """Multiply-adds and additions for one vector of every row."""
        seconds = list(self.pairs.values())
        return int(np.count_nonzero(np.delete(self._points, seconds, axis=0))) + 2 * len(seconds)

    @property
    def pairs(self) -> Mapping[int, int]:
        """Points p and -p, the second by the first: numbers of the matrix's columns (output) or rows (input)."""
        return _pairs(self)

    @property
    def _points(self) -> Matrix:
        """What the matrix has for each point: its columns or rows."""
        return self.matrix.T if self.form == "output" else self.matrix

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        _Emitter(Kernel(module, self.name, target, self.element, SIGNATURE), self).emit()


@functools.lru_cache(maxsize=128)
def _pairs(spec: TransformKernel) -> Mapping[int, int]:
    """Pairs of points: one has what the other has, with every other entry's sign changed, or every first one's."""
    points = spec._points
    turned = np.where(np.arange(points.shape[1]) % 2, -1.0, 1.0) * points

    def match(a: int, b: int) -> bool:
        return np.allclose(turned[a], points[b]) or np.allclose(turned[a], -points[b])

    found: dict[int, int] = {}
    for b in range(len(points)):
        a = next((a for a in range(b) if match(a, b) and a not in found and a not in found.values()), None)
        if a is not None and not match(a, a):  # 0 and infinity are their own
            found[a] = b
    return found


class _Emitter:
    def __init__(self, kernel: Kernel, spec: TransformKernel) -> None:
        self.k = kernel
        self.spec = spec
        self.matrix = spec.matrix

    def emit(self) -> None:
        k, b, spec = self.k, self.k.builder, self.spec
        inputs, outputs, residuals = k.address("inputs"), k.address("outputs"), k.address("residuals")
        source, target, residual = k.address("source"), k.address("target"), k.address("residual")
        read, written, last_start = k.arg("read"), k.arg("written"), k.arg("last_start")
        bias, mask = k.address("bias"), k.address("mask")
        limits = k.splat(k.scalar("low")), k.splat(k.scalar("high"))
        rows, columns = self.matrix.shape
        with k.loop(0, k.arg("planes")) as planes:
            plane = k.at(source, k.load_index(inputs, planes.index))
            out = k.at(target, k.load_index(outputs, planes.index))
            start = k.constant(0.0)
            if spec.form == "output":
                start = k.load_splat(bias, b.mul(planes.index, ir.Constant(I64, k.size)))
            added = k.at(residual, k.load_index(residuals, planes.index)) if spec.residual else None
            with k.loop(0, k.arg("vectors")) as vectors:
                due = b.mul(vectors.index, ir.Constant(I64, k.width))
                at = b.select(b.icmp_signed("<", due, last_start), due, last_start)
                done = None
                if spec.in_place:
                    done = k.first_lanes(b.udiv(b.sub(due, at), ir.Constant(I64, k.size)), k.lanes)
                read_rows = _rows_at(k, k.at(plane, at), read, columns)
                xs = [k.load_vector(row, k.size) for row in read_rows]
                values = self._output(xs, start) if spec.form == "output" else self._input(xs)
                others = _rows_at(k, k.at(added, at), written, rows) if added is not None else [None] * rows
                for value, row, other in zip(values, _rows_at(k, k.at(out, at), written, rows), others, strict=True):
                    if spec.form == "input":
                        k.write(value, row, k.size)
                        continue
                    value = self._finished(value, limits, other, done)
                    k.write(value, row, k.size, 0, k.load(mask, k.mask, k.size, at))
        b.ret_void()

    def _output(self, xs: list[ir.Value], start: ir.Value) -> list[ir.Value]:
        """The rows of a block, of sums at the points: pairs are added and subtracted first."""
        b, pairs = self.k.builder, self.spec.pairs
        sums = [start] * len(self.matrix)
        for first, second in pairs.items():
            both = b.fadd(xs[first], xs[second]), b.fsub(xs[first], xs[second])
            sums = [self._add(each, self.matrix[i, first], both[i % 2]) for i, each in enumerate(sums)]
        for point in range(len(xs)):
            if point not in pairs and point not in pairs.values():
                sums = [self._add(each, self.matrix[i, point], xs[point]) for i, each in enumerate(sums)]
        return sums

    def _input(self, xs: list[ir.Value]) -> list[ir.Value]:
        """Values at the points, of a block's rows: those of pairs from what even and odd rows give."""
        b, matrix, pairs = self.k.builder, self.matrix, self.spec.pairs
        values: dict[int, ir.Value] = {}
        for i, row in enumerate(matrix):
            if i in pairs:
                even, odd = (self._dot(row, xs, range(first, len(row), 2)) for first in (0, 1))
                values[i] = b.fadd(even, odd)
                is_even = np.allclose(row[::2], matrix[pairs[i]][::2])
                values[pairs[i]] = b.fsub(even, odd) if is_even else b.fsub(odd, even)
            elif i not in values:
                values[i] = self._dot(row, xs, range(len(row)))
        return [values[i] for i in range(len(matrix))]

    def _dot(self, row: Matrix, xs: list[ir.Value], columns: range) -> ir.Value:
        total = self.k.constant(0.0)
        for column in columns:
            total = self._add(total, row[column], xs[column])
        return total

    def _add(self, total: ir.Value, factor: float, x: ir.Value) -> ir.Value:
        """``total + factor * x``."""
        k, b = self.k, self.k.builder
        if factor == 0.0:
            return total
        if isinstance(total, ir.Constant):  # zeros
            return x if factor == 1.0 else b.fmul(k.constant(factor), x)
        return b.fadd(total, x) if factor == 1.0 else k.fma(k.constant(factor), x, total)

    def _finished(
        self,
        value: ir.Value,
        limits: tuple[ir.Value, ir.Value],
        residual: ir.Value | None,
        done: ir.Value | None,
    ) -> ir.Value:
        """With the residual at an address, clamp and curve; where it is ``done``, the residual is all that."""
        k, b = self.k, self.k.builder
        added = None if residual is None else k.load_vector(residual, k.size)
        value = value if added is None else b.fadd(value, added)
        value = emit_curve(k, self.spec.curve, k.clamp(value, *limits))
        return value if done is None else b.select(done, added, value)


def _rows_at(k: Kernel, first: ir.Value, apart: ir.Value, count: int) -> list[ir.Value]:
    """The addresses of rows that lie ``apart`` bytes from each other."""
    rows = [first]
    for _ in range(count - 1):
        rows.append(k.at(rows[-1], apart))
    return rows
