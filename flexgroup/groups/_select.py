"""`select`: which groups stay under a budget, by the exact method or one of those it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups import reference
from flexgroup.groups._lines import FixedPoint, Lines, entries_of, lines_of
from flexgroup.groups._request import Limits, Request, Shares, check_request
from flexgroup.groups._search import Crew, Layer
from flexgroup.groups._solve import Solved, solve_alone, solve_balanced, solve_together, trace
from flexgroup.groups._spec import Groups

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


def select(
    scores: Mapping[str, npt.NDArray[Any]],
    groups: Groups,
    keep: Shares,
    budget: str = "global",
    *,
    method: str = "exact",
    limits: Limits | None = None,
    cost: Mapping[str, float] | None = None,
    bands: int = 1,
) -> Selection:
    """Keep the groups with the largest total score under a budget: the exact optimum.

    ``scores`` maps layer names to (rows, columns) arrays of non-negative scores, one a weight. ``keep`` is the share of
    the weights that stay (0..1), or a mapping with a share for every layer. Rounded to whole groups it is met exactly,
    ties included: ties go to the lower index, so the result is the same on every machine and for any thread count.

    - ``budget="global"``: one budget over all layers together. ``limits`` = (least, most) bounds the share that stays
      in every layer, or in those of a mapping. ``cost`` maps layers to the cost of one of their groups: ``keep`` is
      then the share of the cost of all groups that may be spent, and is met to within one group;
    - ``budget="layer"``: a budget in every layer;
    - ``budget="band"``: a layer's rows are cut into ``bands`` equal parts, one a parallel unit, with as many groups in
      each (the first ones have one more where that does not divide);
    - ``budget="line"`` (balanced): every line of a layer keeps the same number of groups, up to one where the layer's
      number is not a multiple of its lines; those go where they gain most. The lines of aligned groups are strips of
      rows.

    ``method`` is "exact", or a published one: "dp" (dynamic programme, exact and slow), "bed", "greedy".

    Scores are compared in fixed point, so that sums do not depend on their order: about 40 bits for the largest score
    of a layer, or, for a global budget, of all layers (30 bits where lines have 100,000 positions). The optimum is
    exact for the scores so rounded.

    Raises `FlexgroupError` for groups that do not fit a layer, scores that are negative, NaN or infinite, shares and
    limits outside 0..1 or impossible together, and mappings that do not name the layers.

    >>> scores = {"conv": np.array([[1.0], [5.0], [6.0], [2.0]])}
    >>> select(scores, Groups("2x1", unaligned="rows"), keep=0.5).masks["conv"][:, 0].astype(int)
    array([0, 1, 1, 0])
    """
    request = check_request(scores, groups, keep, budget, method, limits, cost, bands)
    if groups.n_of_m is not None:
        return _n_of_m(request, groups.n_of_m)
    if groups.unaligned == "free":
        return _free(request)
    exact = _exact(request)
    return exact if method == "exact" else _published(request, exact)


def _exact(request: Request) -> Selection:
    """By price (see `_solve`)."""
    lines, owners = _lines(request)
    points = _points(request, lines)
    with Crew(sum(line.scores.size for line in lines)) as crew:
        solved, price = _solve(request, lines, owners, points, crew)
        traced = trace(list(zip(lines, solved, points, strict=True)), crew)
    masks, kept, prices = {}, {}, {}
    for name, matrix in request.scores.items():
        own = [i for i, owner in enumerate(owners) if owner == name]
        parts = [traced[i].mask for i in own]
        masks[name] = (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(matrix.shape)
        kept[name] = sum(traced[i].kept for i in own)
        prices[name] = float(np.mean([solved[i].mean_price / points[i].scale for i in own]))
    score = math.fsum(part.score / point.scale for part, point in zip(traced, points, strict=True))
    return Selection(
        masks, kept, score, prices if price is None else max(price, 0) / (points[0].scale if points else 1.0), score
    )


def _points(request: Request, lines: Sequence[Lines]) -> list[FixedPoint]:
    """The resolution of every entry of ``lines``: one for all where a price compares them, else each its own."""
    if request.budget == "global":
        along = max((line.along for line in lines), default=1)
        return [FixedPoint.covering(lines, request.largest * along)] * len(lines)
    return [FixedPoint.covering([line], float(line.scores.max(initial=0.0)) * line.along) for line in lines]


def _lines(request: Request) -> tuple[list[Lines], list[str]]:
    """The lines of every matrix, or of every band of its rows, and the layers that they belong to."""
    lines, owners = [], []
    for name, matrix in request.scores.items():
        parts = np.array_split(matrix, request.bands) if request.budget == "band" else [matrix]
        for part in parts:
            here = request.groups.for_shape((part.shape[0], part.shape[1]))
            lines.append(lines_of(part, here, by_rows=request.budget == "line"))
            owners.append(name)
    return lines, owners


def _solve(
    request: Request, lines: Sequence[Lines], owners: Sequence[str], points: Sequence[FixedPoint], crew: Crew
) -> tuple[list[Solved], int | None]:
    """The solution of every entry of ``lines``; and the price, if there is one for all."""
    if request.budget == "global":
        layers, budget = _layers(request, lines)
        if not layers:
            return [], 0
        price, solved = solve_together(layers, points[0], budget, crew)
        return solved, price
    sizes = {name: matrix.size for name, matrix in request.scores.items()}
    answers = []
    for i, (line, name, point) in enumerate(zip(lines, owners, points, strict=True)):
        target = round(request.shares[name] * sizes[name] / line.group_weights)
        if request.budget == "band":
            target = (target + request.bands - 1 - i % request.bands) // request.bands
        target = min(target, line.fits)
        if request.budget == "line":
            answers.append(solve_balanced(line, point, target, crew))
        else:
            answers.append(solve_alone(Layer(line, 0, line.fits), point, target, crew))
    return answers, None


def _layers(request: Request, lines: Sequence[Lines]) -> tuple[list[Layer], float]:
    """The layers of a global budget with their limits and costs, and the budget, once it is known to be possible."""
    layers = []
    for line, (name, matrix) in zip(lines, request.scores.items(), strict=True):
        least, most = (share * matrix.size / line.group_weights for share in request.limits[name])
        # Groups that differ in size between layers are paid for by the weight.
        cost = float(line.group_weights) if request.groups.is_symbolic else request.costs[name]
        layers.append(
            Layer(line, min(math.ceil(least - 1e-9), line.fits), min(math.floor(most + 1e-9), line.fits), cost)
        )
    for layer, name in zip(layers, request.scores, strict=True):
        if layer.least > layer.most:
            raise FlexgroupError(
                f"layer {name!r}: no number of groups lies within its limits {request.limits[name]}; "
                f"its {layer.lines.scores.size} weights hold {layer.lines.fits} groups: widen them"
            )
    share = next(iter(request.shares.values()), 0.0)
    if all(layer.cost == 1.0 for layer in layers):
        groups = sum(matrix.size for matrix in request.scores.values()) / request.groups.weights if layers else 0
        budget = float(round(share * groups))
    else:
        budget = share * sum(layer.cost * layer.lines.scores.size / layer.lines.group_weights for layer in layers)
    least = sum(layer.cost * layer.least for layer in layers)
    most = sum(layer.cost * layer.most for layer in layers)
    if least > budget and any(layer.least for layer in layers):
        raise FlexgroupError(
            f"keep={share:g} allows {budget:g} groups (or their cost), but the limits ask for at least {least:g}; "
            "raise keep or lower the limits"
        )
    if most < budget and any(layer.most < layer.lines.fits for layer in layers):
        raise FlexgroupError(
            f"keep={share:g} asks for {budget:g} groups (or their cost), but the limits allow at most {most:g}; "
            "lower keep or raise the limits"
        )
    return layers, min(budget, most)


def _published(request: Request, exact: Selection) -> Selection:
    """By a method of the papers, with as many groups as the exact one; its score is the bound."""
    run = {"dp": reference.dynamic_programme, "bed": reference.bed, "greedy": reference.greedy}[request.method]
    lines = {name: lines_of(matrix, request.groups) for name, matrix in request.scores.items()}
    entries = {name: entries_of(line) for name, line in lines.items()}
    window = next((line.window for line in lines.values()), 1)
    if request.budget == "global":
        chosen = dict(zip(lines, run(list(entries.values()), window, sum(exact.kept.values())), strict=True))
    else:
        chosen = {name: run([entries[name]], window, exact.kept[name])[0] for name in lines}
    masks = {name: line.expand(chosen[name]).reshape(request.scores[name].shape) for name, line in lines.items()}
    kept = {name: int(mask.sum()) // window for name, mask in chosen.items()}
    score = float(sum(entries[name][mask].sum() for name, mask in chosen.items()))
    price: float | dict[str, float] = float("nan")
    if request.budget != "global":
        price = dict.fromkeys(masks, float("nan"))
    return Selection(masks, kept, score, price, exact.score)


def _free(request: Request) -> Selection:
    """Groups that are bound to no grid at all (see `_free`)."""
    from flexgroup.groups._free import select_free

    rows, cols = request.groups.rows, request.groups.cols
    together = [list(request.scores)] if request.budget == "global" else [[name] for name in request.scores]
    masks: dict[str, Mask] = {}
    kept: dict[str, int] = {}
    score = bound = 0.0
    for names in together:
        matrices = [request.scores[name] for name in names]
        weights = sum(matrix.size for matrix in matrices)
        found = select_free(matrices, rows, cols, round(request.shares[names[0]] * weights / (rows * cols)))
        masks |= dict(zip(names, found.masks, strict=True))
        kept |= dict(zip(names, found.kept, strict=True))
        score, bound = score + found.score, bound + found.bound
    nan = float("nan")
    return Selection(masks, kept, score, nan if request.budget == "global" else dict.fromkeys(masks, nan), bound)


def _n_of_m(request: Request, pattern: tuple[int, int]) -> Selection:
    """The ``n`` best of every ``m`` adjacent weights of a row; of a short last block, as large a share, rounded up."""
    n, m = pattern
    wrong = [share for share in request.shares.values() if abs(share - n / m) > 1e-6]
    if wrong:
        raise FlexgroupError(f"{n}:{m} keeps {n / m:g} of the weights, not {wrong[0]:g}; use keep={n / m:g}")
    masks = {}
    for name, matrix in request.scores.items():
        rows, cols = matrix.shape
        padded = np.full((rows, -(-cols // m) * m), -1.0)
        padded[:, :cols] = matrix
        ranks = (-padded).reshape(rows, -1, m).argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
        stay = np.full(ranks.shape[1], n)
        if cols % m:
            stay[-1] = -(-n * (cols % m) // m)
        masks[name] = (ranks < stay[None, :, None]).reshape(rows, -1)[:, :cols]
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    score = float(sum(request.scores[name][mask].sum(dtype=np.float64) for name, mask in masks.items()))
    zero: float | dict[str, float] = 0.0 if request.budget == "global" else dict.fromkeys(masks, 0.0)
    return Selection(masks, kept, score, zero, score)
