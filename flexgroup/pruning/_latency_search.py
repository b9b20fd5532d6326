"""The search for the share of the cost that may stay, and for the costs themselves, with predictions corrected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup.engine import Plan
from flexgroup.groups import Groups, select
from flexgroup.pruning._latency_curves import Curves, joined
from flexgroup.pruning._latency_network import Network
from flexgroup.pruning._targets import Layer

TOLERANCE = 0.005  # of the budget: how far below it a pattern may be predicted
MOST_PLANS = 12  # that are made in one search
START = 0.15  # of every layer's groups, around which the first prices are taken
REFITS = 3  # of the prices, around the pattern that was found with those before
TINY = 1e-9  # of the cost: more than rounding, less than any group


@dataclass(frozen=True)
class Correction:
    """From predicted to measured seconds: straight lines between ``points`` (predicted, measured), proportional beyond.

    Without points nothing is corrected.
    """

    points: tuple[tuple[float, float], ...] = ()

    def __call__(self, predicted: float) -> float:
        if not self.points:
            return predicted
        xs, ys = zip(*sorted(self.points), strict=True)
        if predicted <= xs[0]:
            return predicted * float(ys[0] / xs[0])
        if predicted >= xs[-1]:
            return predicted * float(ys[-1] / xs[-1])
        return float(np.interp(predicted, xs, ys))


@dataclass(frozen=True, eq=False)
class Found:
    """A share of the cost that may stay, at these costs, and the plan that it leads to."""

    share: float
    cost: dict[str, float]
    whole: list[str]
    plan: Plan


@dataclass(frozen=True, eq=False)
class Search:
    """Looks for the largest share of the cost that meets a budget in time."""

    network: Network
    layers: tuple[Layer, ...]
    scores: dict[str, npt.NDArray[Any]]
    groups: Groups
    order: str
    least: float
    curves: Curves

    def run(self, goal: float, correction: Correction) -> Found:
        """The costs and their share for ``goal`` seconds: first by curves alone, then by plans."""
        kept = {name: int(START * curve.groups[-1]) for name, curve in self.curves.by_layer.items()}
        share, cost, whole = 1.0, dict[str, float](), list[str]()
        for _ in range(REFITS):
            cost, whole = self._prices(kept, goal, correction)

            def estimated(share: float, cost: Mapping[str, float] = cost, whole: Sequence[str] = whole) -> float:
                return correction(self.curves.seconds(self._kept(share, cost, whole)[0]))

            share = largest(estimated, self._lowest(cost, whole), 1.0, goal)
            kept, _ = self._kept(share, cost, whole)

        def planned(share: float) -> float:
            if share == 1.0:
                return correction(self.curves.everything)
            return correction(self.network.seconds(self.plan_of(share, cost, whole)))

        share = largest(planned, self._lowest(cost, whole), 1.0, goal, start=share)
        return Found(share, cost, whole, self.plan_of(share, cost, whole))

    def plan_of(self, share: float, cost: Mapping[str, float], whole: Sequence[str] = ()) -> Plan:
        """The plan with the best groups of this share of the cost."""
        return self.network.plan(self._kept(share, cost, whole)[1])

    def _prices(self, kept: dict[str, int], goal: float, correction: Correction) -> tuple[dict[str, float], list[str]]:
        """Costs around a pattern, with layers left whole where the goal allows it."""
        cost, whole = self.curves.prices(kept)
        least = {name: int(curve.groups[-1]) if name in whole else 0 for name, curve in self.curves.by_layer.items()}
        return cost, whole if correction(self.curves.seconds(least)) < goal else []

    def limits(
        self, share: float, cost: Mapping[str, float], whole: Sequence[str] = ()
    ) -> dict[str, tuple[float, float]]:
        """The least and the most share of every layer that stays, when this share of the cost of all does.

        A layer that is not whole keeps at least `least` of the share that is left for such layers together; rounded
        down to groups, so that all of that fits the budget.
        """
        total = {layer.name: cost[layer.name] * layer.shape[0] * layer.shape[1] for layer in self.layers}
        spent = sum(total[name] for name in whole)
        left = max(0.0, share * sum(total.values()) - spent) / max(sum(total.values()) - spent, 1e-30)
        limits = {}
        for layer in self.layers:
            groups = layer.part_shape[0] * layer.part_shape[1] / self.groups.weights
            floor = min(1.0, math.floor(self.least * left * groups) / groups)
            limits[layer.name] = (1.0 if layer.name in whole else floor, 1.0)
        return limits

    def _lowest(self, cost: Mapping[str, float], whole: Sequence[str]) -> float:
        """The share of the cost that layers take which stay whole."""
        total = {layer.name: cost[layer.name] * layer.shape[0] * layer.shape[1] for layer in self.layers}
        return min(1.0, sum(total[name] for name in whole) / sum(total.values()) + TINY)

    def _kept(
        self, share: float, cost: Mapping[str, float], whole: Sequence[str]
    ) -> tuple[dict[str, int], dict[str, npt.NDArray[np.bool_]]]:
        """Groups and masks by layer, as `Pruner` chooses them."""
        limits = self.limits(share, cost, whole)
        by_part = {part: cost[layer.name] for layer in self.layers for part in layer.part_names}
        limited = {part: limits[layer.name] for layer in self.layers for part in layer.part_names}
        selection = select(self.scores, self.groups, keep=share, cost=by_part, limits=limited)
        kept = {layer.name: sum(selection.kept[part] for part in layer.part_names) for layer in self.layers}
        return kept, joined(self.layers, selection.masks, self.order)


def largest(
    rising: Callable[[float], float], low: float, high: float, goal: float, start: float | None = None
) -> float:
    """The largest x, nearly, whose ``rising(x)`` is at most ``goal``: within `TOLERANCE` of it, or `MOST_PLANS` away.

    By straight lines between the ends; a step that has not halved what is left is followed by one that does. ``low``
    where nothing is.
    """
    at_low, at_high = rising(low), rising(high)
    if at_high <= goal:
        return high
    aim = goal * (1 - TOLERANCE / 2)
    x, is_slow = start, False
    for _ in range(MOST_PLANS):
        if x is None or not low < x < high:
            ahead = 0.5 if is_slow or at_high <= at_low else min(max((aim - at_low) / (at_high - at_low), 0.02), 0.98)
            x = low + (high - low) * ahead
        width, at_x = high - low, rising(x)
        if at_x > goal:
            high, at_high = x, at_x
        else:
            low, at_low = x, at_x
            if at_x >= goal * (1 - TOLERANCE):
                break
        x, is_slow = None, not is_slow and high - low > width / 2
    return low
