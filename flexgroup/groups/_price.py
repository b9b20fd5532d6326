"""The compiled loops: the best groups of many lines at a price, side by side in vector lanes.

One line at price p: with window scores v, ``f[i] = max(f[i-1], f[i-g] + v[i-g] - p)`` is the best value of the first
i entries. Lines run in blocks of `LANES`, position by position, so that the recurrence vectorises across lines and a
block's working set stays in cache. Every value is a `FixedPoint` integer, which also carries the number of groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

LANES = 64

Ints: TypeAlias = npt.NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True)(function))


@_compiled
def _load_block(
    scores: npt.NDArray[Any], geometry: Ints, scale: float, shift: int, block: int, windows: Ints, ring: Ints
) -> None:
    """Fill ``windows[:positions - window + 1]`` with the window scores of the block's lines; idle lanes get zeros."""
    extent, along, step, across, width, across_step, window, n, lines = geometry
    first = block * LANES
    live = min(LANES, lines - first)
    windows[:, :] = 0
    if width == 1 and across_step == 1:
        # Lines lie next to each other in memory: a slice lets the conversion run in vector lanes.
        for i in range(extent):
            row = windows[i // along]
            entries = scores[i * step + first : i * step + first + live]
            for lane in range(live):
                row[lane] += np.int64(entries[lane] * scale + 0.5) << shift
    else:
        for a in range(width):
            full = min(live, (across - 1 - a) // width - first + 1)
            for lane in range(full):
                base = ((first + lane) * width + a) * across_step
                for i in range(extent):
                    windows[i // along, lane] += np.int64(scores[base + i * step] * scale + 0.5) << shift
    if window > 1:
        _sum_windows(windows, n, window, ring)


@_compiled
def _sum_windows(windows: Ints, n: int, window: int, ring: Ints) -> None:
    """Turn entries into sums of ``window`` of them, in place: a running sum, with the last entries in a ring."""
    total = np.zeros(LANES, dtype=np.int64)
    ring[:, :] = 0
    slot = 0
    for i in range(n):
        entries = windows[i]
        oldest = ring[slot]
        slot = slot + 1 if slot + 1 < window else 0
        sums = windows[i - window + 1] if i >= window else windows[0]
        for lane in range(LANES):
            entry = entries[lane]
            total[lane] += entry - oldest[lane]
            oldest[lane] = entry
            sums[lane] = total[lane]


@_compiled
def _run_price(windows: Ints, n: int, window: int, price: Ints, ring: Ints) -> int:
    """Run the recurrence over all lanes; returns the ring slot that holds the values of whole lines."""
    ring[:, :] = 0
    now = 0
    for i in range(window, n + 1):
        before = ring[now]
        now = now + 1 if now + 1 < window else 0
        here = ring[now]
        gain = windows[i - window]
        for lane in range(LANES):
            take = here[lane] + gain[lane] - price[lane]
            here[lane] = max(before[lane], take)
    return now


@_compiled
def count_blocks(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    prices: Ints,
    blocks: Ints,
    first: int,
    last: int,
    kept: Ints,
) -> None:
    """Write to ``kept[i, q]`` the groups that block ``blocks[i]`` keeps at ``prices[q]``, fewest groups on ties."""
    window, n, lines = geometry[6], geometry[7], geometry[8]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    price = np.empty(LANES, dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for i in range(first, last):
        _load_block(scores, geometry, scale, shift, blocks[i], windows, ring)
        live = min(LANES, lines - blocks[i] * LANES)
        for q in range(prices.size):
            price[:] = (prices[q] << shift) + 1
            values = ring[_run_price(windows, n, window, price, ring)]
            total = 0
            for lane in range(live):
                total += -values[lane] & low
            kept[i, q] = total


@_compiled
def range_blocks(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    at: int,
    first: int,
    last: int,
    fewest: Ints,
    most: Ints,
) -> None:
    """The fewest and the most groups that are optimal at price ``at``, for every line of blocks first..last."""
    window, n, lines = geometry[6], geometry[7], geometry[8]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    price = np.empty(LANES, dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for block in range(first, last):
        _load_block(scores, geometry, scale, shift, block, windows, ring)
        line = block * LANES
        live = min(LANES, lines - line)
        price[:] = (at << shift) + 1
        values = ring[_run_price(windows, n, window, price, ring)]
        for lane in range(live):
            fewest[line + lane] = -values[lane] & low
        price[:] = (at << shift) - 1
        values = ring[_run_price(windows, n, window, price, ring)]
        for lane in range(live):
            most[line + lane] = values[lane] & low


@_compiled
def bisect_blocks(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    target: int,
    first: int,
    last: int,
    found: Ints,
) -> None:
    """For every line, the smallest integer price at which at most ``target`` groups stay.

    That price is the marginal gain F(target + 1) - F(target).
    """
    window, n, lines = geometry[6], geometry[7], geometry[8]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    price = np.empty(LANES, dtype=np.int64)
    below = np.empty(LANES, dtype=np.int64)
    above = np.empty(LANES, dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for block in range(first, last):
        _load_block(scores, geometry, scale, shift, block, windows, ring)
        below[:] = -2  # at price -1 every group that fits stays
        above[:] = 0
        for i in range(n - window + 1):
            for lane in range(LANES):
                above[lane] = max(above[lane], windows[i, lane] >> shift)
        widest = np.int64(2)
        while widest > 1:
            for lane in range(LANES):
                price[lane] = (((below[lane] + above[lane]) >> 1) << shift) + 1
            values = ring[_run_price(windows, n, window, price, ring)]
            widest = np.int64(0)
            for lane in range(LANES):
                middle = (below[lane] + above[lane]) >> 1
                if middle > below[lane]:
                    if (-values[lane] & low) <= target:
                        above[lane] = middle
                    else:
                        below[lane] = middle
                widest = max(widest, above[lane] - below[lane])
        line = block * LANES
        for lane in range(min(LANES, lines - line)):
            found[line + lane] = above[lane]


@_compiled
def _mark(mask: npt.NDArray[np.bool_], geometry: Ints, line: int, entry: int) -> None:
    """Keep the scores of the group that starts at ``entry`` of ``line``."""
    extent, along, step, across, width, across_step, window = geometry[:7]
    for i in range(entry * along, min((entry + window) * along, extent)):
        for a in range(line * width, min((line + 1) * width, across)):
            mask[i * step + a * across_step] = True


@_compiled
def trace_fewest(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    at: int,
    first: int,
    last: int,
    mask: npt.NDArray[np.bool_],
    kept: Ints,
    score: Ints,
) -> None:
    """Write the optimum at price ``at`` with the fewest groups, and every line's number of groups and score."""
    window, n, lines = geometry[6], geometry[7], geometry[8]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    few = np.zeros((n + 1, LANES), dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    price = (at << shift) + 1
    for block in range(first, last):
        _load_block(scores, geometry, scale, shift, block, windows, ring)
        for i in range(window, n + 1):
            here, before, earlier, gain = few[i], few[i - 1], few[i - window], windows[i - window]
            for lane in range(LANES):
                here[lane] = max(before[lane], earlier[lane] + gain[lane] - price)
        for lane in range(min(LANES, lines - block * LANES)):
            line = block * LANES + lane
            kept[line] = -few[n, lane] & low
            score[line] = ((few[n, lane] + kept[line]) >> shift) + kept[line] * at
            i = n
            while i >= window:
                if few[i, lane] == few[i - 1, lane]:
                    i -= 1
                else:
                    i -= window
                    _mark(mask, geometry, line, i)


@_compiled
def trace_targets(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    at: Ints,
    targets: Ints,
    first: int,
    last: int,
    mask: npt.NDArray[np.bool_],
    score: Ints,
) -> None:
    """Write an optimum with exactly ``targets[l]`` groups in line l, a number that must be optimal at price ``at[l]``.

    Of every prefix the fewest and the most groups at the price are known, and every count between them is optimal too
    (concavity). So walking back, an entry is skipped when the shorter prefix has the same value and can hold the
    groups that are still wanted; otherwise a group ends there.
    """
    window, n, lines = geometry[6], geometry[7], geometry[8]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    few = np.zeros((n + 1, LANES), dtype=np.int64)
    many = np.zeros((n + 1, LANES), dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for block in range(first, last):
        _load_block(scores, geometry, scale, shift, block, windows, ring)
        line = block * LANES
        live = min(LANES, lines - line)
        price = np.zeros(LANES, dtype=np.int64)
        for lane in range(live):
            price[lane] = at[line + lane] << shift
        for i in range(window, n + 1):
            for lane in range(LANES):
                gain = windows[i - window, lane] - price[lane]
                few[i, lane] = max(few[i - 1, lane], few[i - window, lane] + gain - 1)
                many[i, lane] = max(many[i - 1, lane], many[i - window, lane] + gain + 1)
        for lane in range(live):
            wanted = targets[line + lane]
            value = (few[n, lane] + (-few[n, lane] & low)) >> shift
            score[line + lane] = value + wanted * at[line + lane]
            i = n
            while wanted > 0:
                fewest = -few[i - 1, lane] & low
                same = few[i - 1, lane] + fewest == few[i, lane] + (-few[i, lane] & low)
                if i > window and same and fewest <= wanted <= (many[i - 1, lane] & low):
                    i -= 1
                    continue
                i -= window
                wanted -= 1
                _mark(mask, geometry, line + lane, i)
