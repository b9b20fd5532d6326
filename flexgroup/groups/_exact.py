"""The exact optimum of a request: its lines, its budget as a search for prices, and the masks that follow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flexgroup._errors import FlexgroupError
from flexgroup.groups._lines import FixedPoint, Lines, lines_of
from flexgroup.groups._request import Request
from flexgroup.groups._search import Crew, Layer
from flexgroup.groups._selection import Selection
from flexgroup.groups._solve import Solved, solve_alone, solve_balanced, solve_together, trace


def select_exact(request: Request) -> Selection:
    """The groups with the largest total score under the request's budget, found by price."""
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
        # A layer with short last groups holds more groups than its weights would fill.
        allowed = line.fits if request.limits[name][1] == 1 else min(math.floor(most + 1e-9), line.fits)
        # Groups that differ in size between layers are paid for by the weight.
        cost = float(line.group_weights) if request.groups.is_symbolic else request.costs[name]
        layers.append(Layer(line, min(math.ceil(least - 1e-9), line.fits), allowed, cost))
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
