"""Budgets: how many groups may stay, settled exactly from prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups._lines import FixedPoint, lines_of
from flexgroup.groups._search import Crew, Layer
from flexgroup.groups._solve import solve_alone, solve_balanced, solve_together, trace
from flexgroup.groups._spec import Groups

BUDGETS = ("line", "layer", "global")


@dataclass(frozen=True, eq=False)
class Selection:
    """The groups to keep.

    ``masks`` maps each layer to a bool (rows, columns) array, ``kept`` to its number of groups. ``score`` is the total
    score of all kept weights. ``price`` is what a group's score had to exceed: one number for a global budget, one a
    layer for a layer budget, and for a line budget the mean of a layer's line prices.
    """

    masks: dict[str, npt.NDArray[np.bool_]]
    kept: dict[str, int]
    score: float
    price: float | dict[str, float]


def select(
    scores: Mapping[str, npt.NDArray[Any]],
    groups: Groups,
    keep: float | Mapping[str, float],
    budget: str = "global",
) -> Selection:
    """Keep the groups with the largest total score under a budget: the exact optimum.

    ``scores`` maps layer names to (rows, columns) arrays of non-negative scores, one a weight. ``keep`` is the share of
    the weights that stay (0..1), or a mapping with a share for every layer. Rounded to whole groups it is met exactly,
    ties included: ties go to the lower index, so the result is the same on every machine and for any thread count.

    - ``budget="global"``: one budget over all layers together;
    - ``budget="layer"``: a budget in every layer;
    - ``budget="line"`` (balanced): every line of a layer keeps the same number of groups, up to one where the layer's
      number is not a multiple of its lines; those go where they gain most.

    Scores are compared in fixed point (about 40 bits for the largest), so that sums do not depend on their order.

    Raises `FlexgroupError` for groups that do not fit a layer, scores that are negative, NaN or infinite, shares
    outside 0..1, and mappings that do not name the layers.

    >>> scores = {"conv": np.array([[1.0], [5.0], [6.0], [2.0]])}
    >>> select(scores, Groups("2x1", unaligned="rows"), keep=0.5).masks["conv"][:, 0].astype(int)
    array([0, 1, 1, 0])
    """
    _check(scores, groups, keep, budget)
    shares = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(scores, float(keep))
    largest = max((_largest(name, matrix) for name, matrix in scores.items()), default=0.0)
    lines = {name: lines_of(matrix, groups, by_rows=budget == "line") for name, matrix in scores.items()}
    point = FixedPoint.covering(lines.values(), largest * (groups.weights if groups.unaligned is None else 1))
    wanted = {name: shares[name] * matrix.size / groups.weights for name, matrix in scores.items()}
    with Crew(sum(matrix.size for matrix in scores.values())) as crew:
        if budget == "global":
            target = min(round(sum(wanted.values())), sum(line.fits for line in lines.values()))
            layers = [Layer(line, 0, line.fits) for line in lines.values()]
            solved = solve_together(layers, point, target, crew)[1]
        else:
            targets = {name: min(round(groups_of), lines[name].fits) for name, groups_of in wanted.items()}
            solved = [
                solve_balanced(line, point, targets[name], crew)
                if budget == "line"
                else solve_alone(Layer(line, 0, line.fits), point, targets[name], crew)
                for name, line in lines.items()
            ]
        traced = trace(list(zip(lines.values(), solved, strict=True)), point, crew)
    prices = {name: answer.mean_price / point.scale for name, answer in zip(scores, solved, strict=True)}
    return Selection(
        {name: answer.mask.reshape(scores[name].shape) for name, answer in zip(scores, traced, strict=True)},
        {name: answer.kept for name, answer in zip(scores, traced, strict=True)},
        sum(answer.score for answer in traced) / point.scale,
        next(iter(prices.values()), 0.0) if budget == "global" else prices,
    )


def _largest(name: str, scores: npt.NDArray[Any]) -> float:
    """The largest score, once all are known to be finite and non-negative."""
    if not scores.size:
        return 0.0
    low, high = float(scores.min()), float(scores.max())
    if not (low >= 0 and high < np.inf):
        bad = int((~np.isfinite(scores)).sum())
        what = f"{bad} NaN or infinite scores" if bad else f"negative scores (down to {low:g})"
        raise FlexgroupError(f"layer {name!r}: {what}; scores must be finite and non-negative, such as |weight|")
    return high


def _check(
    scores: Mapping[str, npt.NDArray[Any]], groups: Groups, keep: float | Mapping[str, float], budget: str
) -> None:
    if budget not in BUDGETS:
        raise FlexgroupError(f"budget={budget!r} is not known; use one of {', '.join(map(repr, BUDGETS))}")
    for name, matrix in scores.items():
        if matrix.ndim != 2:
            raise FlexgroupError(f"layer {name!r}: scores have shape {matrix.shape}; give a 2-D (rows, columns) array")
        groups.check_fits((matrix.shape[0], matrix.shape[1]), name)
    shares: Sequence[tuple[str, float]]
    if isinstance(keep, Mapping):
        if budget == "global":
            raise FlexgroupError("a share for every layer needs budget='layer' or 'line'; 'global' takes one number")
        if set(keep) != set(scores):
            odd = sorted(set(keep) ^ set(scores))
            raise FlexgroupError(f"keep and scores must name the same layers; they differ in {', '.join(odd[:5])}")
        shares = [(f"layer {name!r}: ", share) for name, share in keep.items()]
    else:
        shares = [("", keep)]
    for where, share in shares:
        if not 0 <= share <= 1:
            raise FlexgroupError(f"{where}keep={share} is not a share of the weights; use a number from 0 to 1")
