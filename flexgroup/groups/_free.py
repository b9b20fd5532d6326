"""Groups that may start anywhere on both axes: a near-optimal choice together with a proven bound on the best one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups._free_bound import Relaxation, largest_sum, window_sums
from flexgroup.groups._lines import Mask
from flexgroup.groups._price import Ints
from flexgroup.groups._spec import Groups

F = TypeVar("F", bound=Callable[..., Any])

STEPS, ROUNDS = 50, 12  # primal-dual steps between two attempts, and attempts
CLOSE = 5e-5  # a gap that more steps are not worth
ATTEMPTS = 10  # prices tried a round for the wanted number of groups
SLACK = 1000  # a number of groups within 1/SLACK of the wanted one is settled group by group


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
    best, bound = _search([matrices[i] for i in fitting], [cells[i] for i in fitting], rows, cols, keep)
    masks = [np.zeros(shape, dtype=np.bool_) for shape in shapes]
    kept = [0] * len(shapes)
    for i, starts, taken in zip(fitting, best.starts, best.taken, strict=True):
        masks[i] = taken.astype(np.bool_)
        kept[i] = int(starts.sum())
    return FreeSolution(masks, kept, best.score / scale, bound / scale)


@dataclass(eq=False)
class _Problem:
    """What does not change during the search; all scores are integers."""

    windows: list[Ints]
    rows: int
    cols: int
    keep: int


@dataclass(eq=False)
class _Choice:
    """Disjoint groups: where they start, and the weights they take (0 or 1, M x K)."""

    starts: list[Mask]
    taken: list[npt.NDArray[np.uint8]]
    score: int
    count: int


def _search(
    matrices: list[npt.NDArray[np.floating[Any]]], cells: list[Ints], rows: int, cols: int, keep: int
) -> tuple[_Choice, int]:
    """The best choice found and the lowest bound proven."""
    problem = _Problem([window_sums(cell, rows, cols) for cell in cells], rows, cols, keep)
    # With groups of one row, strips of one row are no restriction: free columns are free groups. Likewise columns.
    axes = ["cols"] if rows == 1 else ["rows"] if cols == 1 else ["cols", "rows"]
    best = max((_one_axis(problem, matrices, axis) for axis in axes), key=lambda choice: choice.score)
    if len(axes) == 1:
        return best, best.score
    bound = min(largest_sum(cells, keep * rows * cols)[0], largest_sum(problem.windows, keep)[0])
    highest_rent = rows * cols * max(int(cell.max()) for cell in cells)
    unit = max(best.score / keep, highest_rent / sum(cell.size for cell in cells))
    shapes = [(cell.shape[0], cell.shape[1]) for cell in cells]
    relaxation = Relaxation(problem.windows, shapes, rows, cols, keep, unit) if best.score < bound else None
    for _ in range(ROUNDS):
        if relaxation is None or bound - best.score <= CLOSE * bound:
            break
        relaxation.advance(STEPS)
        lower, price = relaxation.bound(highest_rent)
        bound = min(bound, lower)
        for start in (_rounded(problem, relaxation.shares), best):
            found = _improve(problem, start, price)
            if found is not None and found.score > best.score:
                best = found
    return best, bound


def _improve(problem: _Problem, start: _Choice, price: int) -> _Choice | None:
    """The best choice of exactly ``problem.keep`` groups on the way from ``start``; None where none has that many.

    Re-choosing bands at a price never lowers score - price * groups. ``price`` is the relaxation's; where the number
    of groups comes out wrong, others are tried.
    """
    best = None
    reach = max(1, abs(price) >> 6)
    low: int | None = None  # prices at which too many and too few groups stay
    high: int | None = None
    for _ in range(ATTEMPTS):
        trial = _Choice([s.copy() for s in start.starts], [t.copy() for t in start.taken], 0, 0)
        for windows, starts, taken in zip(problem.windows, trial.starts, trial.taken, strict=True):
            while _improve_bands(windows, starts, taken, problem.rows, problem.cols, price) + _improve_bands(
                windows.T, starts.T, taken.T, problem.cols, problem.rows, price
            ):
                pass
        off = sum(int(starts.sum()) for starts in trial.starts) - problem.keep
        if off > 0:
            _drop_lowest(problem, trial, off)
        elif off < 0:
            off += _add_highest(problem, trial, -off)
            off = off if off < 0 else -1
        _count(problem, trial)
        if trial.count == problem.keep and (best is None or trial.score > best.score):
            best = trial
        if abs(off) * SLACK <= problem.keep:
            break
        low, high = (price, high) if off > 0 else (low, price)
        if low is None or high is None:
            price += reach if off > 0 else -reach
            reach *= 2
        elif high - low > 1:
            price = (low + high) // 2
        else:
            break
    return best
