"""What a group is: its size and which axis is bound to the grid."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flexgroup._errors import FlexgroupError

ALIGNMENTS = (None, "rows", "cols")


@dataclass(frozen=True)
class Groups:
    """Blocks of ``rows x cols`` adjacent weights that are kept or pruned together.

    ``size`` is written ``"4x1"``: 4 rows (output channels) by 1 column (an entry of the reduction axis) of the weight
    matrix. ``unaligned`` names the axis along which a group may start anywhere:

    - ``None``: aligned; groups lie on the grid of multiples of their size (classic block sparsity);
    - ``"rows"``: a group starts at any row; every strip of ``cols`` columns is an independent line of M positions;
    - ``"cols"``: a group starts at any column; every strip of ``rows`` rows is a line of K positions.

    Unaligned groups of 1 along their free axis are the same as aligned ones. ``1x1`` is fine-grained pruning.

    >>> Groups("4x1", unaligned="rows")
    Groups(size='4x1', unaligned='rows')
    """

    size: str
    unaligned: str | None = None

    def __post_init__(self) -> None:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", self.size) if isinstance(self.size, str) else None
        if match is None:
            raise FlexgroupError(
                f"group size {self.size!r} is not ROWSxCOLS; write for example '4x1' (4 output channels, 1 column)"
            )
        if self.unaligned not in ALIGNMENTS:
            raise FlexgroupError(f"unaligned={self.unaligned!r} is not an axis; use 'rows', 'cols' or None (aligned)")

    @property
    def rows(self) -> int:
        return int(self.size.split("x")[0])

    @property
    def cols(self) -> int:
        return int(self.size.split("x")[1])

    @property
    def weights(self) -> int:
        """Weights in one group."""
        return self.rows * self.cols

    def check_fits(self, shape: tuple[int, int], layer: str) -> None:
        """Raise `FlexgroupError` if not one whole group fits a ``shape`` = (rows, columns) weight matrix."""
        if self.rows > shape[0] or self.cols > shape[1]:
            raise FlexgroupError(
                f"layer {layer!r}: groups of {self.size} do not fit its {shape[0]}x{shape[1]} weight matrix; "
                f"use at most {min(self.rows, shape[0])}x{min(self.cols, shape[1])}, or leave the layer out with ignore"
            )

    def __str__(self) -> str:
        return f"{self.size} {'aligned' if self.unaligned is None else 'unaligned ' + self.unaligned}"
