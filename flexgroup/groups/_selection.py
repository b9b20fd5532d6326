"""The answer of a selection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Selection:
    """The groups to keep.

    ``masks`` maps each layer to a bool (rows, columns) array, ``kept`` to its number of groups. ``score`` is the total
    score of all kept weights. ``price`` is what a group's score had to exceed: one number for a global budget, one a
    layer for other budgets (the mean of its lines' or bands' prices), NaN for methods that know none. ``bound`` is an
    upper bound of any selection's score under this budget.
    """

    masks: dict[str, Mask]
    kept: dict[str, int]
    score: float
    price: float | dict[str, float]
    bound: float

    @property
    def gap(self) -> float:
        """How far the score may be from the best, as a share of the bound; 0 for exact methods."""
        return max(0.0, 1 - self.score / self.bound) if self.bound > 0 else 0.0
