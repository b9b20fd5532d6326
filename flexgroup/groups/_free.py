"""Groups that may start anywhere on both axes: a near-optimal choice together with a proven bound on the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups._exact import select_exact
from flexgroup.groups._free_bound import Ints, Relaxation, compiled, largest_sum, window_sums
from flexgroup.groups._request import check_request
from flexgroup.groups._spec import Groups

Mask: TypeAlias = npt.NDArray[np.bool_]

STEPS, ROUNDS = 50, 10  # primal-dual steps between two attempts, and attempts
CLOSE = 1e-4  # a gap that more steps are not worth
ATTEMPTS = 6  # prices tried a round for the wanted number of groups
NO_SHARE = 1e-3  # shares in the relaxation below this are none
SLACK = 400  # a number of groups within 1/SLACK of the wanted one is settled group by group


@dataclass(frozen=True, eq=False)
class FreeSolution:
    """The groups to keep, and how good they can be at most.

    ``masks`` are bool (rows, columns) arrays, one a matrix, ``kept`` their numbers of groups, ``score`` the total score
    of all kept weights, ``bound`` a proven upper bound on the total of any choice of as many groups.
    """

    masks: list[Mask]
    kept: list[int]
    score: float
    bound: float


def select_free(matrices: Sequence[npt.NDArray[np.floating[Any]]], rows: int, cols: int, keep: int) -> FreeSolution:
    """Keep ``keep`` disjoint ``rows x cols`` groups of all ``matrices`` together, each anywhere in its matrix.

    No exact algorithm is known for more than one free axis (packing rectangles is NP-hard in general), so the answer
    comes with a bound. The search starts from the better of the two exact optima with one free axis, hence is never
    worse, and from the linear relaxation (`Relaxation`), whose solution is nearly whole on real weights. Both are
    improved by re-choosing whole bands of the matrix exactly, until no band gains; see `_improve_bands`.

    ``matrices`` are (M, K) arrays of non-negative scores, one a weight. Where fewer than ``keep`` groups fit, which is
    sum of (M // rows) * (K // cols), that many are kept. The result is deterministic; scores are compared in fixed
    point, as in `select`. ``bound`` equals ``score`` where the optimum is known (``rows`` or ``cols`` is 1).

    Raises `FlexgroupError` for scores that are not 2-D, finite and non-negative, and for a negative ``keep``.

    >>> scores = np.array([[0.0, 0, 0, 0], [0, 5, 6, 0], [0, 7, 8, 0], [0, 0, 0, 1]])
    >>> chosen = select_free([scores], rows=2, cols=2, keep=1)
    >>> chosen.score, chosen.bound, np.argwhere(chosen.masks[0])[0]
    (26.0, 26.0, array([1, 1]))
    """
    largest = _check(matrices, rows, cols, keep)
    shapes = [(matrix.shape[0], matrix.shape[1]) for matrix in matrices]
    keep = min(keep, sum((high // rows) * (wide // cols) for high, wide in shapes))
    if keep == 0:
        return FreeSolution([np.zeros(shape, dtype=np.bool_) for shape in shapes], [0] * len(shapes), 0.0, 0.0)
    weights = sum(matrix.size for matrix in matrices)
    # Rents are at most a whole group's score; this many bits leave room for all of them to be added up.
    bits = 60 - (weights * rows * cols).bit_length()
    scale = math.ldexp(1.0, min(bits - math.frexp(largest)[1], 1000)) if largest > 0 else 1.0
    cells = [np.rint(np.asarray(matrix, dtype=np.float64) * scale).astype(np.int64) for matrix in matrices]
    fitting = [i for i, (high, wide) in enumerate(shapes) if high >= rows and wide >= cols]
    best, score, bound = _search([matrices[i] for i in fitting], [cells[i] for i in fitting], rows, cols, keep)
    masks = [np.zeros(shape, dtype=np.bool_) for shape in shapes]
    kept = [0] * len(shapes)
    for i, starts, taken in zip(fitting, best.starts, best.taken, strict=True):
        masks[i] = taken.astype(np.bool_)
        kept[i] = int(starts.sum())
    return FreeSolution(masks, kept, score / scale, bound / scale)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What does not change during the search; all scores are integers."""

    windows: list[Ints]
    shapes: list[tuple[int, int]]  # of the weight matrices
    rows: int
    cols: int
    keep: int


@dataclass(frozen=True, eq=False)
class _Choice:
    """Disjoint groups: where they start, and the weights that they take (0 or 1, M x K)."""

    starts: list[Mask]
    taken: list[npt.NDArray[np.int8]]

    def copy(self) -> _Choice:
        return _Choice([starts.copy() for starts in self.starts], [taken.copy() for taken in self.taken])

    @property
    def count(self) -> int:
        return sum(int(starts.sum()) for starts in self.starts)

    def score(self, problem: _Problem) -> int:
        return sum(int(windows[starts].sum()) for windows, starts in zip(problem.windows, self.starts, strict=True))


def _search(
    matrices: list[npt.NDArray[np.floating[Any]]], cells: list[Ints], rows: int, cols: int, keep: int
) -> tuple[_Choice, int, int]:
    """The best choice found, its score, and the lowest bound proven."""
    shapes = [(cell.shape[0], cell.shape[1]) for cell in cells]
    problem = _Problem([window_sums(cell, rows, cols) for cell in cells], shapes, rows, cols, keep)
    # Where groups are one row high, strips of one row are no restriction: one free axis is all there is.
    axes = ["cols"] if rows == 1 else ["rows"] if cols == 1 else ["cols", "rows"]
    optima = [_one_axis(problem, matrices, axis) for axis in axes]
    best = max(optima, key=lambda choice: choice.score(problem))
    score = best.score(problem)
    if len(axes) == 1:
        return best, score, score
    bound = min(largest_sum(cells, keep * rows * cols)[0], largest_sum(problem.windows, keep)[0])
    highest_rent = rows * cols * max(int(cell.max()) for cell in cells)
    relaxation = Relaxation(problem.windows, shapes, rows, cols, keep, unit=max(score / keep, 1.0))
    for attempt in range(ROUNDS):
        if bound - score <= CLOSE * bound:
            break
        relaxation.advance(STEPS)
        lower, price = relaxation.bound(highest_rent)
        bound = min(bound, lower)
        rounded = _rounded(problem, relaxation.shares)
        for start in (rounded, best) if attempt == 0 else (rounded,):
            found = _improve(problem, start, price)
            if found is not None and found.score(problem) > score:
                best, score = found, found.score(problem)
    return best, score, bound


def _one_axis(problem: _Problem, matrices: list[npt.NDArray[np.floating[Any]]], axis: str) -> _Choice:
    """The exact optimum with ``axis`` free and the other bound to whole strips."""
    rows, cols = problem.rows, problem.cols
    whole = {
        str(i): matrix[: high // rows * rows] if axis == "cols" else matrix[:, : wide // cols * cols]
        for i, (matrix, (high, wide)) in enumerate(zip(matrices, problem.shapes, strict=True))
    }
    share = problem.keep * rows * cols / sum(matrix.size for matrix in whole.values())
    masks = select_exact(check_request(whole, Groups(f"{rows}x{cols}", unaligned=axis), min(share, 1.0))).masks
    choice = _nothing(problem)
    for i, (starts, taken) in enumerate(zip(choice.starts, choice.taken, strict=True)):
        mask = masks[str(i)]
        taken[: mask.shape[0], : mask.shape[1]] = mask
        if axis == "cols":
            _split_runs(mask[::rows], starts[::rows], cols)
        else:
            _split_runs(mask[:, ::cols].T, starts[:, ::cols].T, rows)
    return choice


def _rounded(problem: _Problem, shares: list[npt.NDArray[np.float32]]) -> _Choice:
    """Groups in the order of their shares in the relaxation, each where it still fits."""
    choice = _nothing(problem)
    for share, starts, taken in zip(shares, choice.starts, choice.taken, strict=True):
        flat = share.ravel()
        order = np.flatnonzero(flat > NO_SHARE)
        order = order[np.argsort(-flat[order], kind="stable")]
        _place(order, starts, taken, problem.rows, problem.cols)
    return choice


def _nothing(problem: _Problem) -> _Choice:
    return _Choice(
        [np.zeros(windows.shape, dtype=np.bool_) for windows in problem.windows],
        [np.zeros(shape, dtype=np.int8) for shape in problem.shapes],
    )


def _improve(problem: _Problem, start: _Choice, price: int) -> _Choice | None:
    """The best choice of exactly ``problem.keep`` groups on the way from ``start``; None where none has that many.

    Re-choosing bands at a price never lowers score - price * groups. ``price`` is the relaxation's; where it leaves
    too many or too few groups, others are tried.
    """
    best = None
    best_score = -1
    reach = max(1, abs(price) >> 6)
    too_many: int | None = None  # prices that leave too many and too few groups
    too_few: int | None = None
    for _ in range(ATTEMPTS):
        trial = start.copy()
        for windows, starts, taken in zip(problem.windows, trial.starts, trial.taken, strict=True):
            _settle_bands(windows, starts, taken, problem.rows, problem.cols, price)
        excess = trial.count - problem.keep
        if excess > 0:
            _drop_lowest(problem, trial, excess)
        elif excess < 0:
            _add_highest(problem, trial, -excess)
        if trial.count == problem.keep and trial.score(problem) > best_score:
            best, best_score = trial, trial.score(problem)
        if abs(excess) * SLACK <= problem.keep:
            break
        if excess > 0:
            too_many = price
        else:
            too_few = price
        if too_many is None or too_few is None:
            price += reach if excess > 0 else -reach
            reach *= 2
        elif abs(too_few - too_many) > 1:
            price = (too_many + too_few) // 2
        else:
            break
    return best


def _settle_bands(windows: Ints, starts: Mask, taken: npt.NDArray[np.int8], rows: int, cols: int, price: int) -> None:
    """Re-choose the bands of both directions in turn until none gains: each gain is a whole number, so it ends."""
    while True:
        gained = _improve_bands(windows, starts, taken, rows, cols, price)
        gained += _improve_bands(windows.T, starts.T, taken.T, cols, rows, price)
        if not gained:
            return


def _drop_lowest(problem: _Problem, choice: _Choice, count: int) -> None:
    """Give up the ``count`` groups with the lowest scores; ties give up the later ones."""
    places = [np.flatnonzero(starts.ravel()) for starts in choice.starts]
    scores = [windows.ravel()[place] for windows, place in zip(problem.windows, places, strict=True)]
    owner = np.repeat(np.arange(len(places)), [place.size for place in places])
    flat = np.concatenate(places)
    drop = np.argsort(-np.concatenate(scores), kind="stable")[flat.size - count :]
    for i, starts in enumerate(choice.starts):
        for place in flat[drop[owner[drop] == i]].tolist():
            row, col = divmod(place, starts.shape[1])
            starts[row, col] = False
            choice.taken[i][row : row + problem.rows, col : col + problem.cols] = 0


def _add_highest(problem: _Problem, choice: _Choice, count: int) -> None:
    """Add up to ``count`` groups where there is room, the highest scores first."""
    places = []
    for taken in choice.taken:
        occupied = window_sums(taken.astype(np.int64), problem.rows, problem.cols)
        places.append(np.flatnonzero(occupied.ravel() == 0))
    scores = [windows.ravel()[place] for windows, place in zip(problem.windows, places, strict=True)]
    owner = np.repeat(np.arange(len(places)), [place.size for place in places])
    flat = np.concatenate(places)
    for at in np.argsort(-np.concatenate(scores), kind="stable").tolist():
        if count == 0:
            return
        i = owner[at]
        count -= _place(flat[at : at + 1], choice.starts[i], choice.taken[i], problem.rows, problem.cols)


@compiled
def _place(order: Ints, starts: Mask, taken: npt.NDArray[np.int8], rows: int, cols: int) -> int:
    """Take the windows at the flat positions ``order`` one after another, each where it still fits."""
    placed = 0
    for place in order:
        row, col = place // starts.shape[1], place % starts.shape[1]
        occupied = 0
        for a in range(rows):
            for b in range(cols):
                occupied += taken[row + a, col + b]
        if occupied == 0:
            starts[row, col] = True
            for a in range(rows):
                for b in range(cols):
                    taken[row + a, col + b] = 1
            placed += 1
    return placed


@compiled
def _split_runs(mask: Mask, starts: Mask, window: int) -> None:
    """Mark where the windows start that the runs of every row of ``mask`` consist of, from the left."""
    for line in range(mask.shape[0]):
        open_until = 0
        for i in range(mask.shape[1]):
            if mask[line, i] and i >= open_until:
                starts[line, i] = True
                open_until = i + window


@compiled
def _improve_bands(windows: Ints, starts: Mask, taken: npt.NDArray[np.int8], rows: int, cols: int, price: int) -> int:
    """Re-choose every band of ``2 * rows - 1`` rows exactly at ``price``; returns how many bands gained.

    Any two groups inside such a band share a row. So no two may share a column: the groups of a band form one line,
    and with v(j) the best window that starts in column j (over the rows of the band, where groups that reach out of
    the band leave room), f[j] = max(f[j-1], f[j-cols] + v(j-cols) - price) finds the best of them all.
    """
    starting, across = windows.shape[0], taken.shape[1]
    value = np.zeros(across + 1, dtype=np.int64)
    chosen = np.empty(across + 1, dtype=np.int64)
    clear = np.empty(rows, dtype=np.int64)  # columns in a row, up to here, that are free from start row d on
    gained = 0
    for first in range(max(1, starting - rows + 1)):
        last = min(first + rows, starting)
        before = 0
        for row in range(first, last):
            for col in range(windows.shape[1]):
                if starts[row, col]:
                    before += windows[row, col] - price
                    taken[row : row + rows, col : col + cols] = 0
        clear[:] = 0
        for col in range(across):
            end = col + 1
            value[end], chosen[end] = value[col], -1
            occupied: Any = 0
            for a in range(rows):
                occupied += taken[first + a, col]
            for row in range(first, last):
                if row > first:
                    occupied += taken[row + rows - 1, col] - taken[row - 1, col]
                clear[row - first] = clear[row - first] + 1 if occupied == 0 else 0
                if clear[row - first] >= cols:
                    take = value[end - cols] + windows[row, end - cols] - price
                    if take > value[end]:
                        value[end], chosen[end] = take, row
        if value[across] > before:
            gained += 1
            starts[first:last] = False
            end = across
            while end > 0:
                if chosen[end] >= 0:
                    starts[chosen[end], end - cols] = True
                    end -= cols
                else:
                    end -= 1
        for row in range(first, last):
            for col in range(windows.shape[1]):
                if starts[row, col]:
                    taken[row : row + rows, col : col + cols] = 1
    return gained


def _check(matrices: Sequence[npt.NDArray[np.floating[Any]]], rows: int, cols: int, keep: int) -> float:
    """The largest score, once all of the input is known to make sense."""
    if rows < 1 or cols < 1:
        raise FlexgroupError(f"groups of {rows}x{cols} are empty; use at least one row and one column")
    if keep < 0:
        raise FlexgroupError(f"keep={keep} is not a number of groups; use 0 or more")
    largest = 0.0
    for i, matrix in enumerate(matrices):
        if matrix.ndim != 2:
            raise FlexgroupError(f"matrix {i}: scores have shape {matrix.shape}; give a 2-D (rows, columns) array")
        low, high = (float(matrix.min()), float(matrix.max())) if matrix.size else (0.0, 0.0)
        if not (low >= 0 and high < np.inf):
            raise FlexgroupError(
                f"matrix {i}: scores from {low:g} to {high:g}; they must be finite and non-negative, such as |weight|"
            )
        largest = max(largest, high)
    return largest
