"""The published selection methods, written to be read: what the exact selection by price is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def best_windows(entries: npt.NDArray[Any], window: int, keep: int) -> tuple[float, npt.NDArray[np.bool_]]:
    """The dynamic programme of the papers: the best ``keep`` disjoint windows of one line in O(n keep).

    ``entries`` is a line of n scores. Returns the total score and the mask of the kept entries (Lee et al., CASES 2019;
    DATE 2020: D(i, k) = max(D(i-1, k), D(i-g, k-1) + v(i-g))).
    """
    n = len(entries)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(entries, dtype=np.float64))])
    best = np.full((n + 1, keep + 1), -np.inf)
    best[:, 0] = 0.0
    for i in range(window, n + 1):
        take = best[i - window, :-1] + (sums[i] - sums[i - window])
        best[i, 1:] = np.maximum(best[i - 1, 1:], take)
    mask = np.zeros(n, dtype=np.bool_)
    i, k = n, keep
    while k > 0:
        if best[i, k] == best[i - 1, k]:
            i -= 1
        else:
            mask[i - window : i] = True
            i, k = i - window, k - 1
    return float(best[n, keep]), mask
