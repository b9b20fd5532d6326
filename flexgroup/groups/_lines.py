"""A score matrix seen as independent lines, and scores as integers, so that every comparison is exact."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup.groups._spec import Groups

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lines:
    """The 1-D selection problems inside one matrix.

    A line has ``positions`` entries; a group is ``window`` adjacent ones. Entry ``i`` of line ``l`` is the sum of up to
    ``along * width`` scores: those at ``(i * along + t) * step + (l * width + a) * across_step`` for t < along and
    a < width, as far as they lie in the matrix (``extent`` scores along the lines, ``across`` across them).
    """

    scores: npt.NDArray[np.floating[Any]]  # 1-D, the matrix in row-major order
    extent: int
    along: int
    step: int
    across: int
    width: int
    across_step: int
    window: int

    @property
    def positions(self) -> int:
        return -(-self.extent // self.along)

    @property
    def count(self) -> int:
        return -(-self.across // self.width)

    @property
    def most(self) -> int:
        """Groups that fit one line."""
        return self.positions // self.window

    @property
    def fits(self) -> int:
        """Groups that fit all lines."""
        return self.most * self.count

    @property
    def group_weights(self) -> int:
        """Weights of a whole group."""
        return self.window * self.along * self.width

    def coordinates(self) -> tuple[Ints, Ints]:
        """Of every score, in order: the entry and the line that it belongs to."""
        index = np.arange(self.scores.size, dtype=np.int64)
        along, across = divmod(index, self.step) if self.step > 1 else divmod(index, self.extent)[::-1]
        return along // self.along, across // self.width

    def expand(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A (positions, count) mask of entries as a flat mask of scores."""
        where, here = self.coordinates()
        mask: npt.NDArray[np.bool_] = chosen[where, here]
        return mask

    def geometry(self) -> Ints:
        """The integers that the compiled loops read."""
        numbers = (self.extent, self.along, self.step, self.across, self.width, self.across_step, self.window)
        return np.array([*numbers, self.positions, self.count], dtype=np.int64)


def lines_of(matrix: npt.NDArray[Any], groups: Groups, *, by_rows: bool = False) -> Lines:
    """The lines of ``matrix`` (M x K): strips of columns for groups unaligned along rows, else strips of rows.

    Aligned groups do not overlap, so their whole blocks are entries and windows have length 1; their lines run down the
    columns, where neighbouring lines are neighbours in memory, or ``by_rows``, where lines have to be strips of rows.
    """
    scores = np.ascontiguousarray(matrix)
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    rows, cols = scores.shape
    flat = scores.reshape(-1)
    if groups.unaligned is None and by_rows:
        return Lines(flat, cols, groups.cols, 1, rows, groups.rows, cols, 1)
    if groups.unaligned is None:
        return Lines(flat, rows, groups.rows, cols, cols, groups.cols, 1, 1)
    if groups.unaligned == "rows":
        return Lines(flat, rows, 1, cols, cols, groups.cols, 1, groups.rows)
    return Lines(flat, cols, 1, 1, rows, groups.rows, cols, groups.cols)


def entries_of(lines: Lines) -> npt.NDArray[np.float64]:
    """The entries as a (positions, count) array."""
    entries = np.zeros((lines.positions, lines.count))
    where, here = lines.coordinates()
    np.add.at(entries, (where, here), lines.scores.astype(np.float64))
    return entries


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
        """The finest power-of-two scale at which no line of ``lines``, with scores up to ``largest``, overflows."""
        count_bits = 1
        terms = 1
        for line in lines:
            count_bits = max(count_bits, (line.most + 1).bit_length())
            terms = max(terms, line.extent * line.width)
        score_bits = 61 - count_bits - terms.bit_length()
        exponent = score_bits - math.frexp(largest)[1] if largest > 0 else 0
        return cls(math.ldexp(1.0, min(exponent, 1023)), count_bits)
