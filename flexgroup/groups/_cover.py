"""Finding groups in zeros: the fewest windows that cover the non-zeros of every column."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def cover(matrix: npt.NDArray[Any], rows: int) -> npt.NDArray[np.bool_]:
    """Where groups of ``rows x 1`` start in the fewest-windows cover of the non-zeros of ``matrix`` (M x K).

    Going down a column, a window starts at the first non-zero that no window covers yet. This greedy cover is optimal:
    some window has to cover that entry, and starting as late as possible covers the most of what follows. A window may
    reach beyond the last row. Returns an (M x K) mask of first rows.

    >>> cover(np.array([[0.0], [1.0], [0.0], [2.0], [3.0]]), 2)[:, 0].astype(int)
    array([0, 1, 0, 1, 0])
    """
    starts: npt.NDArray[np.bool_] = np.asarray(matrix != 0)
    open_until = np.zeros(matrix.shape[1], dtype=np.int64)
    for row in range(matrix.shape[0]):
        starts[row] &= open_until <= row
        open_until[starts[row]] = row + rows
    return starts
