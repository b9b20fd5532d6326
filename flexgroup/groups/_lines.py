"""A score matrix seen as independent lines, and scores as integers, so that every comparison is exact."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup.groups._spec import Groups

FloatMatrix: TypeAlias = npt.NDArray[np.floating[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Lines:
    """The 1-D selection problems inside one matrix.

    Line ``l`` has ``positions`` entries; entry ``i`` is the sum of ``width`` scores (fewer in a short last line) at
    flat offsets ``i * position_stride + l * line_stride + a * across_stride``. A group is ``window`` adjacent entries.
    """

    scores: npt.NDArray[np.floating[Any]]  # 1-D, the matrix in row-major order
    positions: int
    count: int
    window: int
    width: int
    across: int  # extent of the axis that is cut into strips of `width`
    position_stride: int
    line_stride: int
    across_stride: int

    @property
    def most(self) -> int:
        """Groups that fit one line."""
        return self.positions // self.window

    def geometry(self) -> npt.NDArray[np.int64]:
        """The integers that the compiled loops read."""
        return np.array(
            [
                self.positions,
                self.count,
                self.window,
                self.width,
                self.across,
                self.position_stride,
                self.line_stride,
                self.across_stride,
            ],
            dtype=np.int64,
        )


def lines_of(matrix: FloatMatrix, groups: Groups) -> Lines:
    """The lines of ``matrix`` (M x K): strips of columns, strips of rows, or, aligned, rows of whole blocks."""
    scores = np.ascontiguousarray(matrix)
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32)
    if groups.unaligned is None:
        # Aligned groups do not overlap: with blocks as entries they are windows of length 1.
        scores = _block_sums(scores, groups.rows, groups.cols)
        rows, cols = scores.shape
        return Lines(scores.ravel(), cols, rows, 1, 1, rows, 1, cols, cols)
    rows, cols = scores.shape
    if groups.unaligned == "rows":
        width = groups.cols
        return Lines(scores.ravel(), rows, -(-cols // width), groups.rows, width, cols, cols, width, 1)
    width = groups.rows
    return Lines(scores.ravel(), cols, -(-rows // width), groups.cols, width, rows, 1, width * cols, cols)


def _block_sums(matrix: FloatMatrix, rows: int, cols: int) -> FloatMatrix:
    if rows == cols == 1:
        return matrix
    by_rows = np.add.reduceat(matrix, np.arange(0, matrix.shape[0], rows), axis=0, dtype=np.float64)
    return np.add.reduceat(by_rows, np.arange(0, matrix.shape[1], cols), axis=1)


def expand_blocks(chosen: Mask, groups: Groups, shape: tuple[int, int]) -> Mask:
    """A mask over blocks (aligned groups) as a mask over the ``shape`` weight matrix."""
    mask = np.repeat(np.repeat(chosen, groups.rows, axis=0), groups.cols, axis=1)
    return np.ascontiguousarray(mask[: shape[0], : shape[1]])


@dataclass(frozen=True)
class FixedPoint:
    """Scores as integers: ``round(score * scale) << count_bits``; the low bits count the groups of a solution.

    With prices ``(p << count_bits) + 1`` a solution of k groups and score S is worth ``((S - k p) << count_bits) - k``:
    among equal values the one with the fewest groups wins, and k can be read off the low bits. ``- 1`` in place of
    ``+ 1`` prefers the most groups. All of it is integer arithmetic, so results do not depend on the order of
    additions: they are the same for any number of threads and on any machine.
    """

    scale: float
    count_bits: int

    @classmethod
    def covering(cls, lines: Iterable[Lines], largest: float) -> FixedPoint:
        """The finest power-of-two scale at which no line of ``lines`` overflows 62 bits."""
        count_bits = 1
        terms = 1
        for line in lines:
            count_bits = max(count_bits, (line.most + 1).bit_length())
            terms = max(terms, line.positions * line.width)
        score_bits = 61 - count_bits - terms.bit_length()
        exponent = score_bits - math.frexp(largest)[1] if largest > 0 else 0
        return cls(math.ldexp(1.0, min(exponent, 1000)), count_bits)
