"""An upper bound on the score of any choice of free groups: the linear relaxation, by prices on single weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., Any])

COUPLING = 0.1  # dual step over primal step where an average group scores 1; 0.03 and 0.3 converge nearly as fast
PRICE_STEP = 0.3  # how fast the price follows the number of groups


def compiled(function: F) -> F:
    """``function`` as machine code, kept between runs."""
    return cast(F, numba.njit(nogil=True, cache=True)(function))


def window_sums(cells: Ints, rows: int, cols: int) -> Ints:
    """The sum of every ``rows x cols`` window of ``cells`` (M x K): an (M - rows + 1) x (K - cols + 1) array."""
    down = np.zeros((cells.shape[0] - rows + 1, cells.shape[1]), dtype=np.int64)
    for a in range(rows):
        down += cells[a : a + down.shape[0]]
    sums = np.zeros((down.shape[0], cells.shape[1] - cols + 1), dtype=np.int64)
    for b in range(cols):
        sums += down[:, b : b + sums.shape[1]]
    return sums


def largest_sum(parts: list[Ints], count: int) -> tuple[int, int]:
    """The sum of the ``count`` >= 1 largest entries of all ``parts`` together, and the smallest of those."""
    flat = np.concatenate([part.ravel() for part in parts])
    top = np.partition(flat, flat.size - count)[flat.size - count :]
    return int(top.sum()), int(top[0])


@compiled
def _step_primal(
    windows: Floats,
    rents: Floats,
    share: Floats,
    ahead: Floats,
    price: np.float32,
    step: np.float32,
    rows: int,
    cols: int,
) -> float:
    """Move every window's ``share`` in 0..1 along its score less rents and price; returns the sum of the shares."""
    total = 0.0
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    down = np.empty(rents.shape[1], dtype=np.float32)
    for i in range(windows.shape[0]):
        down[:] = zero
        for a in range(rows):
            for j in range(down.size):
                down[j] += rents[i + a, j]
        for j in range(windows.shape[1]):
            rent = down[j]
            for b in range(1, cols):
                rent += down[j + b]
            now = min(max(share[i, j] + step * (windows[i, j] - rent - price), zero), one)
            ahead[i, j] = two * now - share[i, j]
            share[i, j] = now
            total += now
    return total


@compiled
def _step_dual(ahead: Floats, rents: Floats, step: np.float32, rows: int, cols: int) -> None:
    """Raise the rent of weights that are covered more than once, lower it elsewhere, never below zero."""
    zero, one = np.float32(0), np.float32(1)
    high, wide = ahead.shape
    down = np.empty(wide + 2 * (cols - 1), dtype=np.float32)
    for i in range(rents.shape[0]):
        down[:] = zero
        for a in range(max(0, i - high + 1), min(rows, i + 1)):
            for j in range(wide):
                down[j + cols - 1] += ahead[i - a, j]
        for j in range(rents.shape[1]):
            covered = down[j]
            for b in range(1, cols):
                covered += down[j + b]
            rents[i, j] = max(zero, rents[i, j] + step * (covered - one))


@dataclass(eq=False)
class Relaxation:
    """The linear relaxation of choosing ``keep`` disjoint windows, solved step by step from both sides.

    **The bound.** Ask a *rent* u_c >= 0 for every weight c. Let u(w) be the rents inside window w, v_w its score, and S
    any set of ``keep`` disjoint windows. Then

        sum_{w in S} v_w  =  sum_{w in S} (v_w - u(w))  +  sum_{w in S} u(w)
                         <=  (the ``keep`` largest of all v_w - u(w))  +  sum_c u_c,

    since disjoint windows count every rent at most once, and no rent is negative. So *any* rents give a valid bound:
    it never depends on convergence, and it is evaluated in integers, hence exactly.

    **The rents.** The best ones are the dual solution of: maximise sum v_w x_w over 0 <= x_w <= 1 that cover no
    weight more than once and add up to ``keep``. Each such condition on a weight is a maximal clique of windows, so
    this relaxation has no fractional slack between windows that all overlap one another, and on real weights it is
    nearly integral. It is solved by the primal-dual hybrid gradient method (Chambolle and Pock, J. Math. Imaging
    Vis. 40, 2011); the norm of the constraint matrix is at most rows * cols. The shares x are where the search for
    groups starts.
    """

    windows: list[Ints]
    shapes: list[tuple[int, int]]  # of the weight matrices
    rows: int
    cols: int
    keep: int
    unit: float  # the score of an average group: what the steps are scaled by
    shares: list[Floats] = field(init=False)
    _rents: list[Floats] = field(init=False)
    _scaled: list[Floats] = field(init=False)
    _ahead: list[Floats] = field(init=False)
    _price: float = field(init=False, default=0.7)

    def __post_init__(self) -> None:
        self._scaled = [(windows / self.unit).astype(np.float32) for windows in self.windows]
        self.shares = [np.zeros_like(scaled) for scaled in self._scaled]
        self._ahead = [np.zeros_like(scaled) for scaled in self._scaled]
        self._rents = [np.zeros(shape, dtype=np.float32) for shape in self.shapes]

    def advance(self, steps: int) -> None:
        """Take ``steps`` steps of the primal-dual method."""
        weights = self.rows * self.cols
        primal, dual = np.float32(1 / (COUPLING * weights)), np.float32(COUPLING / weights)
        for _ in range(steps):
            total = 0.0
            price = np.float32(self._price)
            for scaled, rents, share, ahead in zip(self._scaled, self._rents, self.shares, self._ahead, strict=True):
                total += _step_primal(scaled, rents, share, ahead, price, primal, self.rows, self.cols)
                _step_dual(ahead, rents, dual, self.rows, self.cols)
            # Bounded steps: while few groups are wanted, a first overshoot would take long to come back.
            self._price += PRICE_STEP * min(1.0, max(-1.0, total / self.keep - 1))

    def bound(self, highest_rent: int) -> tuple[int, int]:
        """The bound of the present rents (cut at ``highest_rent``), and the reduced score of the last group kept."""
        rents = [
            np.minimum(np.rint(rents.astype(np.float64) * self.unit), highest_rent).astype(np.int64)
            for rents in self._rents
        ]
        reduced = [
            windows - window_sums(rent, self.rows, self.cols) for windows, rent in zip(self.windows, rents, strict=True)
        ]
        value, price = largest_sum(reduced, self.keep)
        return value + sum(int(rent.sum()) for rent in rents), price
