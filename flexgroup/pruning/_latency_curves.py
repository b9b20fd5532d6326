"""What a layer is predicted to take for so many kept groups, and the prices that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexgroup.engine import Plan
from flexgroup.groups import Groups, select
from flexgroup.pruning._latency_network import Network
from flexgroup.pruning._targets import Layer

SHARES = (0.0, 0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 1.0)  # of every layer's groups, at which plans are made
REACH = 1.5  # a slope is taken between a layer's groups divided and multiplied by this
LIKE_DENSE = 0.995  # of what the whole layer takes: from here on, pruning it gains nothing
LEAST_SLOPE = 0.01  # of the mean slope: a kept group is never free
MICRO = 1e-6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """Predicted ``seconds`` of one layer at numbers of kept ``groups``; both rise, from nothing kept to everything.

    Between two numbers it is a straight line. It is flat where the layer runs as dense code, zeros or not.
    """

    groups: Floats
    seconds: Floats

    @classmethod
    def through(cls, groups: Sequence[float], seconds: Sequence[float]) -> Curve:
        """The curve through these points, raised where it would fall."""
        order = np.argsort(groups, kind="stable")
        rising = np.maximum.accumulate(np.asarray(seconds, np.float64)[order])
        numbers, first = np.unique(np.asarray(groups, np.float64)[order], return_index=True)
        return cls(numbers, rising[first])

    def at(self, groups: float) -> float:
        """Seconds with so many groups."""
        return float(np.interp(groups, self.groups, self.seconds))

    @property
    def dense_from(self) -> float:
        """The number of groups from which the layer takes as long as with all of them."""
        level = self.seconds[0] + LIKE_DENSE * (self.seconds[-1] - self.seconds[0])
        return float(np.interp(level, self.seconds, self.groups)) if level > self.seconds[0] else 0.0

    def slope(self, groups: float) -> float:
        """Seconds of one more group where the layer has so many, and does not run as dense code."""
        end = self.dense_from
        high = min(max(groups * REACH, float(self.groups[min(1, len(self.groups) - 1)])), end)
        low = min(groups / REACH, high / REACH**2)
        rise = (self.at(high) - self.at(low)) / (high - low) if high > low else 0.0
        return max(rise, LEAST_SLOPE * self.mean_slope, 1e-15)

    @property
    def mean_slope(self) -> float:
        """Seconds of a group when all are kept, on average."""
        return float((self.seconds[-1] - self.seconds[0]) / max(self.groups[-1], 1.0))


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of all pruned layers, and the seconds of everything else."""

    by_layer: dict[str, Curve]
    rest: float
    nothing: Plan  # with every group pruned
    everything: float  # seconds with none pruned

    def seconds(self, kept: Mapping[str, int]) -> float:
        """The whole network with so many groups in its layers."""
        return self.rest + sum(curve.at(kept[name]) for name, curve in self.by_layer.items())

    def prices(self, kept: Mapping[str, int]) -> tuple[dict[str, float], list[str]]:
        """Microseconds of one group in every layer, around these numbers; and the layers to leave whole.

        A layer that has so many groups that it runs as dense code has all of them for the same time.
        """
        cost, whole = {}, []
        for name, curve in self.by_layer.items():
            if kept[name] >= curve.dense_from:
                whole.append(name)
                cost[name] = max(curve.mean_slope, 1e-15) / MICRO
            else:
                cost[name] = curve.slope(kept[name]) / MICRO
        return cost, whole


def sample_curves(
    network: Network, layers: Sequence[Layer], scores: Mapping[str, npt.NDArray[np.float64]], groups: Groups, order: str
) -> Curves:
    """The curves of ``layers``, from plans in which each keeps the same share of its groups, for `SHARES`.

    All layers change together, because what a layer costs depends on its neighbours: they may run band by band.
    """
    kept: dict[str, list[float]] = {layer.name: [] for layer in layers}
    seconds: dict[str, list[float]] = {layer.name: [] for layer in layers}
    rest, totals = [], []
    nothing: Plan | None = None
    for share in SHARES:
        selection = select(scores, groups, keep=share, budget="layer")
        plan = network.plan(joined(layers, selection.masks, order))
        nothing = nothing or plan
        times = network.seconds_by_layer(plan)
        totals.append(sum(times.values()))
        for layer in layers:
            kept[layer.name].append(sum(selection.kept[part] for part in layer.part_names))
            seconds[layer.name].append(times.pop(layer.name, 0.0))
        rest.append(sum(times.values()))
    curves = {layer.name: Curve.through(kept[layer.name], seconds[layer.name]) for layer in layers}
    assert nothing is not None
    return Curves(curves, float(np.mean(rest)), nothing, totals[-1])


def joined(
    layers: Sequence[Layer], masks: Mapping[str, npt.NDArray[np.bool_]], order: str
) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of convolution groups, columns in ``order``, as one (M, K) mask a layer, columns in PyTorch's order."""
    import torch

    parts = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    return {layer.name: layer.join(parts, order).numpy() for layer in layers}
