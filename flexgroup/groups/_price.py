"""The compiled loops: the best groups of many lines at a price, side by side in vector lanes.

One line at price p: with window scores v, ``f[i] = max(f[i-1], f[i-g] + v[i-g] - p)`` is the best value of the first
i entries. Lines run in blocks of `LANES`, position by position, so that the recurrence vectorises across lines and a
block's working set stays in cache. Every value is a `FixedPoint` integer, which also carries the number of groups.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from flexgroup.groups._lines import FixedPoint, Lines

LANES = 32
WORTH_A_THREAD = 200_000  # scores: below, handing work over takes longer than doing it

Ints: TypeAlias = npt.NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True)(function))


@_compiled
def _load_block(scores: npt.NDArray[Any], geometry: Ints, scale: float, shift: int, block: int, out: Ints) -> None:
    """Fill ``out[:positions - window + 1]`` with the window scores of the block's lines; idle lanes get zeros."""
    n, lines, window, width, across, step, line_step, across_step = geometry
    first = block * LANES
    live = min(LANES, lines - first)
    out[:, :] = 0
    for i in range(n):
        row = out[i]
        base = i * step + first * line_step
        for a in range(width):
            for lane in range(live):
                if (first + lane) * width + a < across:
                    score = scores[base + lane * line_step + a * across_step]
                    row[lane] += np.int64(score * scale + 0.5) << shift
    for i in range(n - window + 1):
        row = out[i]
        for t in range(1, window):
            later = out[i + t]
            for lane in range(LANES):
                row[lane] += later[lane]


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
def _count_blocks(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    prices: Ints,
    first_block: int,
    last_block: int,
    block_step: int,
    totals: Ints,
) -> None:
    """Add to ``totals[q]`` the groups that the blocks keep at ``prices[q]``, fewest groups on ties."""
    n, lines, window = geometry[0], geometry[1], geometry[2]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    price = np.empty(LANES, dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for block in range(first_block, last_block, block_step):
        _load_block(scores, geometry, scale, shift, block, windows)
        live = min(LANES, lines - block * LANES)
        for q in range(prices.size):
            price[:] = (prices[q] << shift) + 1
            values = ring[_run_price(windows, n, window, price, ring)]
            kept = 0
            for lane in range(live):
                kept += -values[lane] & low
            totals[q] += kept


@_compiled
def _range_blocks(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    at: int,
    first_block: int,
    last_block: int,
    fewest: Ints,
    most: Ints,
) -> None:
    """The fewest and the most groups that are optimal at price ``at``, for every line of the blocks."""
    n, lines, window = geometry[0], geometry[1], geometry[2]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    price = np.empty(LANES, dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for block in range(first_block, last_block):
        _load_block(scores, geometry, scale, shift, block, windows)
        first = block * LANES
        live = min(LANES, lines - first)
        price[:] = (at << shift) + 1
        values = ring[_run_price(windows, n, window, price, ring)]
        for lane in range(live):
            fewest[first + lane] = -values[lane] & low
        price[:] = (at << shift) - 1
        values = ring[_run_price(windows, n, window, price, ring)]
        for lane in range(live):
            most[first + lane] = values[lane] & low


@_compiled
def _bisect_blocks(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    target: int,
    first_block: int,
    last_block: int,
    found: Ints,
) -> None:
    """For every line, the smallest integer price at which at most ``target`` groups stay.

    That price is the marginal gain F(target + 1) - F(target).
    """
    n, lines, window = geometry[0], geometry[1], geometry[2]
    windows = np.empty((n, LANES), dtype=np.int64)
    ring = np.empty((window, LANES), dtype=np.int64)
    price = np.empty(LANES, dtype=np.int64)
    below = np.empty(LANES, dtype=np.int64)
    above = np.empty(LANES, dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for block in range(first_block, last_block):
        _load_block(scores, geometry, scale, shift, block, windows)
        first = block * LANES
        live = min(LANES, lines - first)
        below[:] = -2  # at price -1 every group that fits stays
        above[:] = 0
        for i in range(n - window + 1):
            for lane in range(LANES):
                above[lane] = max(above[lane], windows[i, lane] >> shift)
        widest = np.int64(2)
        for lane in range(LANES):
            widest = max(widest, above[lane] - below[lane])
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
        for lane in range(live):
            found[first + lane] = above[lane]


@_compiled
def _trace_blocks(
    scores: npt.NDArray[Any],
    geometry: Ints,
    scale: float,
    shift: int,
    at: Ints,
    targets: Ints,
    first_block: int,
    last_block: int,
    mask: npt.NDArray[np.bool_],
    kept_score: Ints,
) -> None:
    """Write the groups of an optimum with exactly ``targets[l]`` groups in line l, which must be optimal at ``at[l]``.

    Of every prefix the fewest and the most groups at the price are known, and every count between them is optimal too
    (concavity). So walking back, an entry is skipped when the shorter prefix has the same value and can hold the
    groups that are still wanted; otherwise a group ends there.
    """
    n, lines, window, width, across, step, line_step, across_step = geometry
    windows = np.empty((n, LANES), dtype=np.int64)
    few = np.zeros((n + 1, LANES), dtype=np.int64)
    many = np.zeros((n + 1, LANES), dtype=np.int64)
    low = (np.int64(1) << shift) - 1
    for block in range(first_block, last_block):
        _load_block(scores, geometry, scale, shift, block, windows)
        first = block * LANES
        live = min(LANES, lines - first)
        price = np.zeros(LANES, dtype=np.int64)
        for lane in range(live):
            price[lane] = at[first + lane] << shift
        for i in range(window, n + 1):
            for lane in range(LANES):
                gain = windows[i - window, lane] - price[lane]
                few[i, lane] = max(few[i - 1, lane], few[i - window, lane] + gain - 1)
                many[i, lane] = max(many[i - 1, lane], many[i - window, lane] + gain + 1)
        for lane in range(live):
            wanted = targets[first + lane]
            value = (few[n, lane] + (-few[n, lane] & low)) >> shift
            kept_score[first + lane] = value + wanted * at[first + lane]
            i = n
            while wanted > 0:
                fewest = -few[i - 1, lane] & low
                same = few[i - 1, lane] + fewest == few[i, lane] + (-few[i, lane] & low)
                if i > window and same and fewest <= wanted <= (many[i - 1, lane] & low):
                    i -= 1
                    continue
                i -= window
                wanted -= 1
                for t in range(i, i + window):
                    for a in range(width):
                        if (first + lane) * width + a < across:
                            mask[t * step + (first + lane) * line_step + a * across_step] = True


def _in_threads(lines: Lines, work: Callable[[int, int], None]) -> None:
    """Run ``work(first_block, last_block)`` over static parts of the blocks, one part a core; small layers in one."""
    blocks = _blocks(lines)
    parts = min(os.cpu_count() or 1, blocks, 16) if lines.scores.size >= WORTH_A_THREAD else 1
    bounds = [blocks * part // parts for part in range(parts + 1)]
    if parts <= 1:
        work(0, blocks)
        return
    with ThreadPoolExecutor(parts) as pool:
        for done in [pool.submit(work, a, b) for a, b in pairwise(bounds)]:
            done.result()


def _blocks(lines: Lines) -> int:
    return -(-lines.count // LANES)


def count_kept(lines: Lines, point: FixedPoint, prices: Ints, *, sample: int = 1) -> Ints:
    """Groups kept at each of ``prices`` (fixed point), the fewest on ties, in every ``sample``-th block of lines."""
    totals = np.zeros(prices.size, dtype=np.int64)
    geometry = lines.geometry()
    parts: list[Ints] = []

    def work(first: int, last: int) -> None:
        part = np.zeros(prices.size, dtype=np.int64)
        first = -(-first // sample) * sample
        _count_blocks(lines.scores, geometry, point.scale, point.count_bits, prices, first, last, sample, part)
        parts.append(part)

    _in_threads(lines, work)
    for part in parts:
        totals += part
    return totals


def kept_range(lines: Lines, point: FixedPoint, price: int) -> tuple[Ints, Ints]:
    """For every line the (fewest, most) groups among the optima at ``price``."""
    fewest, most = np.zeros(lines.count, dtype=np.int64), np.zeros(lines.count, dtype=np.int64)
    geometry = lines.geometry()

    def work(first: int, last: int) -> None:
        _range_blocks(lines.scores, geometry, point.scale, point.count_bits, price, first, last, fewest, most)

    _in_threads(lines, work)
    return fewest, most


def price_for(lines: Lines, point: FixedPoint, target: int) -> Ints:
    """For every line the smallest price at which at most ``target`` groups stay."""
    found = np.zeros(lines.count, dtype=np.int64)
    geometry = lines.geometry()

    def work(first: int, last: int) -> None:
        _bisect_blocks(lines.scores, geometry, point.scale, point.count_bits, target, first, last, found)

    _in_threads(lines, work)
    return found


def trace(lines: Lines, point: FixedPoint, price: Ints, targets: Ints) -> tuple[npt.NDArray[np.bool_], int]:
    """The mask (flat, in the order of ``lines.scores``) of exactly ``targets`` groups a line, and its total score."""
    mask = np.zeros(lines.scores.size, dtype=np.bool_)
    kept_score = np.zeros(lines.count, dtype=np.int64)
    geometry = lines.geometry()

    def work(first: int, last: int) -> None:
        _trace_blocks(
            lines.scores, geometry, point.scale, point.count_bits, price, targets, first, last, mask, kept_score
        )

    _in_threads(lines, work)
    return mask, sum(kept_score.tolist())
