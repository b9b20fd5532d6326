"""What a group is: its size and which axis is bound to the grid."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flexgroup._errors import FlexgroupError

ALIGNMENTS = (None, "rows", "cols", "free")


@dataclass(frozen=True)
class Groups:
    """Blocks of ``rows x cols`` adjacent weights that are kept or pruned together.

    ``size`` is written ``"4x1"``: 4 rows (output channels) by 1 column (an entry of the reduction axis) of the weight
    matrix. ``M`` stands for all rows and ``K`` for all columns of a layer. ``unaligned`` names the axis along which a
    group may start anywhere:

    - ``None``: aligned; groups lie on the grid of multiples of their size (classic block sparsity);
    - ``"rows"``: a group starts at any row; every strip of ``cols`` columns is an independent line of M positions;
    - ``"cols"``: a group starts at any column; every strip of ``rows`` rows is a line of K positions;
    - ``"free"``: both. No exact selection is known: a heuristic finds groups, and a bound says how good they are.

    So every pattern that the field compares is one argument away:

    - ``"1x1"`` fine-grained pruning, ``"1xK"`` filters, ``"Mx1"`` single inputs of a layer, ``"4x1"`` and so on blocks;
    - ``"2:4"``: of every 4 adjacent weights of a row, 2 stay. It fixes the share that is kept, and takes no alignment.

    >>> Groups("4x1", unaligned="rows")
    Groups(size='4x1', unaligned='rows')
    """

    size: str
    unaligned: str | None = None

    def __post_init__(self) -> None:
        text = self.size if isinstance(self.size, str) else ""
        if not re.fullmatch(r"([1-9]\d*|M)x([1-9]\d*|K)", text) and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", text):
            raise FlexgroupError(
                f"group size {self.size!r} is not ROWSxCOLS; write for example '4x1' (4 output channels, 1 column), "
                "'1xK' (filters) or '2:4'"
            )
        if self.unaligned not in ALIGNMENTS:
            raise FlexgroupError(
                f"unaligned={self.unaligned!r} is not an axis; use 'rows', 'cols', 'free' or None (aligned)"
            )
        if self.n_of_m is not None:
            n, m = self.n_of_m
            if n > m:
                raise FlexgroupError(
                    f"group size {self.size!r} keeps {n} of {m} weights; write the smaller number first"
                )
            if self.unaligned is not None:
                raise FlexgroupError(f"group size {self.size!r} has fixed blocks of {m}; leave unaligned out")

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """(N, M) of an N:M pattern."""
        if ":" not in self.size:
            return None
        n, m = self.size.split(":")
        return int(n), int(m)

    @property
    def is_symbolic(self) -> bool:
        """Whether the size names all rows or all columns of a layer, and so differs between layers."""
        return "M" in self.size or "K" in self.size

    @property
    def rows(self) -> int:
        return self._extent(0)

    @property
    def cols(self) -> int:
        return self._extent(1)

    def _extent(self, axis: int) -> int:
        if self.n_of_m is not None:
            return 1
        if self.is_symbolic:
            raise FlexgroupError(f"groups of {self.size} have a size only in a layer; ask for_shape((rows, columns))")
        return int(self.size.split("x")[axis])

    @property
    def weights(self) -> int:
        """Weights in one group."""
        return self.rows * self.cols

    def for_shape(self, shape: tuple[int, int]) -> Groups:
        """These groups in a layer of ``shape`` = (rows, columns): M and K become numbers."""
        if not self.is_symbolic:
            return self
        rows, cols = self.size.split("x")
        rows, cols = (str(shape[0]) if rows == "M" else rows), (str(shape[1]) if cols == "K" else cols)
        return Groups(f"{rows}x{cols}", self.unaligned)

    def check_fits(self, shape: tuple[int, int], layer: str) -> None:
        """Raise `FlexgroupError` if not one whole group fits a ``shape`` = (rows, columns) weight matrix."""
        here = self.for_shape(shape)
        rows, cols = (1, here.n_of_m[1]) if here.n_of_m else (here.rows, here.cols)
        if rows > shape[0] or cols > shape[1]:
            raise FlexgroupError(
                f"layer {layer!r}: groups of {self.size} do not fit its {shape[0]}x{shape[1]} weight matrix; "
                f"use at most {min(rows, shape[0])}x{min(cols, shape[1])}, or leave the layer out with ignore"
            )

    def __str__(self) -> str:
        return f"{self.size} {'aligned' if self.unaligned is None else 'unaligned ' + self.unaligned}"
