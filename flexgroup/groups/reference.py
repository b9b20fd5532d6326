"""The published selection methods, written to be read: what the exact selection by price is compared with.

They share one interface: ``lines`` holds one 2-D (positions, count) array of entries for each layer. Its columns are
the lines, a window is ``window`` adjacent entries of one line, and ``keep`` windows are kept over all lines of all
layers together. So a caller loops over layers for a budget in every layer, and over lines for a balanced one. The
answer holds one bool mask for each layer, of its shape. Every run of kept entries is a whole number of windows long and
divides into them from its start.

Inside, all lines lie one behind the other in the order (layer, line, position), which is also the order that settles
ties. ``scores[i]`` is the score of the window that starts at i, and minus infinity where none can start, so that no
method needs to know where a line ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.signedinteger[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]
F = TypeVar("F", bound=Callable[..., Any])

NOWHERE = -np.inf  # the score where no window can start
ANYWHERE = float(np.finfo(np.float64).min)  # at most the score of every window
SAMPLE = 1 << 16  # scores that place the cut between the windows to sort now and those that may never be looked at


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True)(function))


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


def dynamic_programme(lines: Sequence[Floats], window: int, keep: int) -> list[Mask]:
    """The best ``keep`` windows, by the papers' dynamic programme over all lines one behind the other. Exact.

    The recurrence is that of `best_windows`, with windows that never cross a line (Lee et al., CASES 2019; DATE 2020).
    With n entries it takes O(n keep) time and n * keep bytes, one decision for each prefix and count, besides
    window + 1 rows of values: 100,000 entries that keep 2,500 windows take 250 MB. A yardstick, for small layers.

    Raises `FlexgroupError` for arrays that are not 2-D and finite and for more windows than fit.

    >>> dynamic_programme([np.array([[4.0], [5.0], [5.0], [4.0], [0.0], [0.0]])], window=2, keep=2)[0][:, 0].astype(int)
    array([1, 1, 1, 1, 0, 0])
    """
    scores = _window_scores(lines, window, keep)
    mask = np.zeros(scores.size - 1, dtype=np.bool_)
    if keep:
        _fill_programme(scores, window, keep, mask)
    return _as_masks(mask, lines)


@_compiled
def _fill_programme(scores: Floats, window: int, keep: int, mask: Mask) -> None:
    n = mask.size
    took = np.empty((n - window + 1, keep), dtype=np.bool_)
    rows = np.full((window + 1, keep + 1), -np.inf)  # rows[i % (window + 1), k] is D(i, k)
    rows[:, 0] = 0.0
    for i in range(window, n + 1):
        # Fewer windows than `fewest` could not grow to `keep` in what is left; more than `most` do not fit before i.
        fewest = max(1, keep - (n - i) // window)
        most = min(keep, i // window) + 1
        skipped = rows[(i - 1) % (window + 1), fewest:most]
        ahead = rows[(i - window) % (window + 1), fewest - 1 : most - 1]
        best = rows[i % (window + 1), fewest:most]
        decisions = took[i - window, fewest - 1 : most - 1]
        gain = scores[i - window]
        for k in range(best.size):
            take = ahead[k] + gain
            decisions[k] = take > skipped[k]
            best[k] = max(take, skipped[k])
    start = n - window
    while keep > 0:
        if took[start, keep - 1]:
            mask[start : start + window] = True
            start -= window
            keep -= 1
        else:
            start -= 1


def greedy(lines: Sequence[Floats], window: int, keep: int) -> list[Mask]:
    """Take the best window that overlaps none taken before, again and again, until there are ``keep`` of them.

    What lies between two windows may be too short for another, so it can run out of room: then **fewer than** ``keep``
    windows come back, though never fewer than half of those that fit. With n entries O(n log n) time; only windows
    near or above the score of the last one taken are ever sorted.

    Raises `FlexgroupError` for arrays that are not 2-D and finite and for more windows than fit.

    >>> greedy([np.array([[4.0], [5.0], [5.0], [4.0], [0.0], [0.0]])], window=2, keep=2)[0][:, 0].astype(int)
    array([0, 1, 1, 1, 1, 0])
    """
    scores = _window_scores(lines, window, keep)
    mask = np.zeros(scores.size - 1, dtype=np.bool_)
    reach = window * keep * 9 // 8
    while keep > 0:
        queue, _, cut = _queue(scores, reach)
        keep -= _take_apart(queue, window, keep, scores, mask)
        if cut == ANYWHERE:
            break
        reach *= 2
    return _as_masks(mask, lines)


@_compiled
def _take_apart(queue: Ints, window: int, keep: int, scores: Floats, mask: Mask) -> int:
    """Take windows in the order of ``queue`` that overlap no other; returns how many."""
    taken = 0
    for start in queue:
        if taken == keep:
            break
        if scores[start] > NOWHERE:
            mask[start : start + window] = True
            scores[max(0, start - window + 1) : start + window] = NOWHERE
            taken += 1
    return taken


def bed(lines: Sequence[Floats], window: int, keep: int) -> list[Mask]:
    """Block Expansion and Division: take the best window, cut it out of its line, and go on with what is left.

    After Lee and Shin, "Realizing Unaligned Block-wise Pruning for DNN Acceleration on Mobile Devices" (arXiv
    2407.19644). Where a window was cut out its neighbours join, so a later window may span the gap (*expansion*). It is
    scored by its own g entries; together with the gap they are one run of 2 g entries (3 g, ... over wider gaps), which
    divides into groups of g again (*division*). The g - 1 windows that reached into the one cut out at k get their new
    scores in O(1) each, ``S[k-n] += S[k-n+g] - S[k]`` with positions counted in the joined line. All ``keep`` windows
    are found whenever they fit, because what is left of a line always stays in one piece.

    Entries once kept stay kept. For g = 2 the best sets can be nested like that (windows are a matching, joined windows
    its augmenting paths) and BED is exact. For g >= 3 it is not: of 1 0 2 0 2 0 1 it takes 2 0 2 first, while the best
    two windows of 3 are 1 0 2 and 2 0 1.

    This form takes one window at a time over all lines of all layers, in O(n log n + keep g log n) time for n entries,
    where scanning for the best window would take O(n keep). It rests on scores that only ever fall (S[k] is the
    largest): an old score is a bound, so a window is looked at again only when its bound comes up, and windows far
    below the last one taken are never sorted. 17 bytes an entry, besides the windows being sorted.

    Raises `FlexgroupError` for arrays that are not 2-D and finite and for more windows than fit.

    >>> bed([np.array([[4.0], [5.0], [5.0], [4.0], [0.0], [0.0]])], window=2, keep=2)[0][:, 0].astype(int)
    array([1, 1, 1, 1, 0, 0])
    """
    scores = _window_scores(lines, window, keep)
    n = scores.size - 1
    mask = np.zeros(n, dtype=np.bool_)
    # One ring through all lines, with scores[n] between its ends. The last g - 1 entries left of every line start no
    # window, so updates that run past the start of a line meet minus infinity and change nothing.
    index: type[np.signedinteger[Any]] = np.int32 if n < np.iinfo(np.int32).max else np.int64
    before = np.arange(-1, n, dtype=index)
    before[0] = n
    after = np.arange(1, n + 2, dtype=index)
    after[n] = 0
    reach = window * keep * 9 // 8
    while keep > 0:
        queue, bounds, cut = _queue(scores, reach)
        keep -= _take_and_join(queue, bounds, cut, window, keep, scores, before, after, mask)
        reach *= 2
    return _as_masks(mask, lines)


@_compiled
def _take_and_join(
    queue: Ints,
    bounds: Floats,
    cut: float,
    window: int,
    keep: int,
    scores: Floats,
    before: Ints,
    after: Ints,
    mask: Mask,
) -> int:
    """Take the best windows down to the score ``cut``; returns how many. ``bounds`` are the scores of ``queue``."""
    fallen = [(0.0, np.int64(0)) for _ in range(0)]  # windows whose bound came up too high, as (-score, start)
    taken = at = 0
    while taken < keep:
        if at < queue.size and (not fallen or (-bounds[at], queue[at]) < fallen[0]):
            bound, start = bounds[at], queue[at]
            at += 1
        elif fallen:
            negative, start = heapq.heappop(fallen)
            bound = -negative
        else:
            break
        score = scores[start]
        if score < bound:
            if score >= cut:
                heapq.heappush(fallen, (-score, start))
            continue
        last = start
        for _ in range(window - 1):
            last = after[last]
        left, inside = before[start], last
        for _ in range(window - 1):
            scores[left] += scores[inside] - score
            left, inside = before[left], before[inside]
        left, right = before[start], after[last]
        entry = np.int64(start)
        for _ in range(window):
            mask[entry] = True
            scores[entry] = NOWHERE
            entry = np.int64(after[entry])
        after[left], before[right] = right, left
        taken += 1
    return taken


def _queue(scores: Floats, reach: int) -> tuple[Ints, Floats, float]:
    """About the ``reach`` best windows: starts, scores (falling, ties by index), and the score that all of them reach.

    Every window with that score or more is among them. Where ``reach`` is a large part, all windows are.
    """
    cut = ANYWHERE
    if 2 * reach < scores.size:
        sample = scores[:: scores.size // SAMPLE | 1]  # odd, so that it does not keep step with lines of even length
        rank = 1 + reach * sample.size // scores.size
        cut = max(ANYWHERE, float(np.partition(sample, -rank)[-rank]))
    starts = np.flatnonzero(scores >= cut)
    found = scores[starts]
    order = np.argsort(-found, kind="stable")
    return starts[order], found[order], cut


def _window_scores(lines: Sequence[Floats], window: int, keep: int) -> Floats:
    """The score of the window at every entry, and one more at the end, where none starts."""
    _check(lines, window, keep)
    scores = np.full(sum(layer.size for layer in lines) + 1, NOWHERE)
    at = 0
    for layer in lines:
        positions, count = layer.shape
        starts = positions - window + 1
        if starts > 0:
            # Summed entry by entry, not from running sums: equal windows must tie exactly.
            sums = layer[:starts].astype(np.float64)
            for t in range(1, window):
                sums += layer[t : t + starts]
            scores[at : at + layer.size].reshape(count, positions)[:, :starts] = sums.T
        at += layer.size
    return scores


def _as_masks(mask: Mask, lines: Sequence[Floats]) -> list[Mask]:
    ends = np.cumsum([layer.size for layer in lines])
    parts = np.split(mask, ends[:-1]) if lines else []
    return [np.ascontiguousarray(part.reshape(layer.shape[::-1]).T) for part, layer in zip(parts, lines, strict=True)]


def _check(lines: Sequence[Floats], window: int, keep: int) -> None:
    if window < 1:
        raise FlexgroupError(f"window={window}: a window has at least one entry; use 1 or more")
    limit = float(np.finfo(np.float64).max) / (4 * window)  # no sum or difference of window scores overflows
    fits = 0
    for index, layer in enumerate(lines):
        if layer.ndim != 2:
            raise FlexgroupError(
                f"layer {index}: entries have shape {layer.shape}; give a 2-D (positions, count) array"
            )
        if layer.size and not (-limit <= layer.min() and layer.max() <= limit):
            bad = layer.size - int((np.abs(layer) <= limit).sum())
            raise FlexgroupError(f"layer {index}: {bad} entries are NaN, infinite or beyond {limit:g}; scale them down")
        fits += layer.shape[0] // window * layer.shape[1]
    if not 0 <= keep <= fits:
        raise FlexgroupError(f"keep={keep}: {fits} windows of {window} entries fit these lines; use 0 to {fits}")
