"""Finding groups in zeros: the fewest windows that cover the non-zeros of every column."""

from __future__ import annotations

from collections import deque
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
    height, width = matrix.shape
    left = np.packbits(matrix != 0, axis=1)  # in each row a bit a column, which one big integer holds
    starts = bytearray(left.size)
    size = left.shape[1]
    recent: deque[int] = deque(maxlen=rows - 1)  # where windows that are still open started
    for row in range(height):
        start = int.from_bytes(left[row].data, "big")
        for earlier in recent:
            start &= ~earlier
        starts[row * size : (row + 1) * size] = start.to_bytes(size, "big")
        recent.append(start)
    found = np.frombuffer(starts, np.uint8).reshape(height, size)
    return np.unpackbits(found, axis=1, count=width).view(np.bool_)
