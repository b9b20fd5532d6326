"""Patterns on the way to groups: the best windows, which may still overlap, so that no choice is final too early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups._lines import entries_of, lines_of
from flexgroup.groups._request import Shares, check_request
from flexgroup.groups._selection import Mask
from flexgroup.groups._spec import Groups


def select_relaxed(
    scores: Mapping[str, npt.NDArray[Any]], groups: Groups, keep: Shares, budget: str = "global"
) -> dict[str, Mask]:
    """Keep the weights whose best window scores most; windows may overlap. Masks by layer name.

    `select` at a high share settles where groups lie, although most of them will be pruned later: what is chosen at a
    lower share is then confined to what was kept, and groups cannot move any more. Here a weight stays as long as some
    window that contains it is good enough, so that the neighbourhoods of the best groups stay open. Only for networks
    that are pruned in several rounds, in all rounds but the last.

    Arguments as in `select`; ``"line"`` budgets are met by layer. As many weights stay as ``keep`` says, up to whole
    ties: weights of one window may tie, so that more stay. Aligned groups do not overlap: they are chosen as by
    `select`, up to ties. Raises `FlexgroupError` as `select` does.
    """
    check_request(scores, groups, keep, budget, "exact", None, None, 1)
    if groups.n_of_m is not None or groups.unaligned == "free":
        raise FlexgroupError(f"groups {groups} cannot be relaxed; that is for groups on lines: aligned, rows or cols")
    best = {name: _best_windows(np.asarray(matrix), groups) for name, matrix in scores.items()}
    if isinstance(keep, Mapping):
        return {name: value >= _threshold([value], keep[name]) for name, value in best.items()}
    if budget == "global":
        threshold = _threshold(list(best.values()), keep)
        return {name: value >= threshold for name, value in best.items()}
    return {name: value >= _threshold([value], keep) for name, value in best.items()}


def _best_windows(matrix: npt.NDArray[Any], groups: Groups) -> npt.NDArray[np.float64]:
    """For every weight of (M, K), the score of the best whole window that contains it; -1 where there is none."""
    here = groups.for_shape((matrix.shape[0], matrix.shape[1]))
    lines = lines_of(matrix, here)
    entries, window = entries_of(lines), lines.window
    sums = np.zeros((len(entries) - window + 1, lines.count))
    for offset in range(window):
        sums += entries[offset : offset + len(sums)]
    if lines.extent % lines.along:  # an aligned block that is cut off by the edge is no group
        sums[-1] = -1.0
    if lines.across % lines.width:
        sums[:, -1] = -1.0
    best = np.full(entries.shape, -1.0)
    for offset in range(window):
        place = best[offset : offset + len(sums)]
        np.maximum(place, sums, out=place)
    where, line = lines.coordinates()
    spread: npt.NDArray[np.float64] = best[where, line].reshape(matrix.shape)
    return spread


def _threshold(values: list[npt.NDArray[np.float64]], share: float) -> float:
    """The largest value that at least ``share`` of all entries reach; never that of entries in no window."""
    flat = np.concatenate([value.reshape(-1) for value in values])
    count = min(flat.size, max(1, int(np.ceil(share * flat.size - 1e-9))))
    reached = float(np.partition(flat, flat.size - count)[flat.size - count])
    return max(reached, 0.0) if share else np.inf
