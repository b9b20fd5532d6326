"""Budgets in time: how much may stay so that the compiled network takes a given latency, or is so many times faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.engine import Machine, Plan, compile
from flexgroup.groups import Groups
from flexgroup.kernels import host_target, target_named
from flexgroup.pruning._criteria import Averaged, Criterion, find_criterion
from flexgroup.pruning._latency_curves import sample_curves
from flexgroup.pruning._latency_network import Measure, Network, measure
from flexgroup.pruning._latency_search import Correction, Search
from flexgroup.pruning._scoring import check_scores, layer_scores
from flexgroup.pruning._targets import PYTORCH_ORDER, Layer, check_layers, find_layers

LEAST = 0.75  # on a ResNet-20, pruned in one shot to 2x and 3x, better than 0.5 and less


@dataclass(frozen=True)
class LatencyCheck:
    """A pruned network beside its budget, in seconds of one image; ``dense`` is timed in the same rounds.

    ``measured`` and ``dense`` are None where the code does not run on this machine.
    """

    budget: float
    predicted: float
    measured: float | None
    dense: float | None

    @property
    def difference(self) -> float | None:
        """How far the prediction was from what was measured, as a share of the latter; positive: it took less."""
        return None if self.measured is None else self.predicted / self.measured - 1

    @property
    def speedup(self) -> float | None:
        """How many times faster than dense code of the same engine."""
        return None if self.measured is None or self.dense is None else self.dense / self.measured

    def __str__(self) -> str:
        said = f"budget {_ms(self.budget)}, predicted {_ms(self.predicted)}"
        if self.measured is None or self.difference is None or self.speedup is None:
            return f"{said}; not measured: its code does not run on this machine"
        return (
            f"{said}, measured {_ms(self.measured)} ({self.difference:+.1%}), "
            f"{self.speedup:.2f}x faster than dense code"
        )


@dataclass(frozen=True, eq=False)
class LatencyBudget:
    """What `latency_budget` found. ``Pruner(model, groups, **budget.options)`` prunes to it.

    The budget is a sum of costs: of every layer, the microseconds of one of its groups times the groups that it keeps.
    A pattern that training moves elsewhere costs the same, and so takes about as long.
    """

    seconds: float
    """The latency that was asked for, of one image."""
    sparsity: float
    """The share of the cost of all groups that is pruned, for `Pruner`; not the share of the weights."""
    cost: dict[str, float]
    """Microseconds of one kept group, by layer name."""
    limits: dict[str, tuple[float, float]]
    """The least and the most share of a layer that stays, by layer name."""
    predicted: float
    """Predicted seconds, corrected by what was measured, if all was chosen today."""
    dense: float
    """Seconds of dense code from the same engine: measured, or predicted for another machine."""
    fastest: float
    """Seconds with every group of these layers pruned."""
    threads: int
    measured: bool
    """Whether predictions were corrected by measurements on this machine."""
    correction: Correction = field(repr=False)
    _network: Network = field(repr=False)
    _example: Any = field(repr=False)
    _measure: Measure = field(repr=False)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for `Pruner`: ``sparsity``, ``budget``, ``cost`` and ``limits``."""
        return {"sparsity": self.sparsity, "budget": "global", "cost": dict(self.cost), "limits": dict(self.limits)}

    @property
    def whole(self) -> tuple[str, ...]:
        """Layers that stay dense: at this budget they would run as dense code anyway."""
        return tuple(name for name, (least, _) in self.limits.items() if least == 1.0)

    def record(self) -> dict[str, Any]:
        """What `restored` needs, and what there is to tell about the budget: plain values, for JSON."""
        return {
            "seconds": self.seconds,
            "sparsity": self.sparsity,
            "cost": dict(self.cost),
            "limits": {name: list(pair) for name, pair in self.limits.items()},
            "predicted": self.predicted,
            "dense": self.dense,
            "fastest": self.fastest,
            "threads": self.threads,
            "target": self._network.target.name,
            "measured": self.measured,
            "correction": [list(point) for point in self.correction.points],
        }

    @classmethod
    def restored(
        cls,
        record: Mapping[str, Any],
        model: nn.Module,
        example: Any,
        *,
        machine: Machine | None = None,
        measure: Measure = measure,
    ) -> LatencyBudget:
        """The budget that `record` was taken of, with nothing measured: for a training that goes on on this machine.

        ``model`` has its dense weights, as it had for `latency_budget`. Raises `FlexgroupError` as that does.
        """
        values = dict(record)
        here = host_target()
        target = here if values["target"] == here.name else target_named(values["target"])
        network = Network(model, example, (), target=target, threads=values["threads"], machine=machine)
        limits = {name: (float(least), float(most)) for name, (least, most) in values["limits"].items()}
        correction = Correction(tuple((float(x), float(y)) for x, y in values["correction"]))
        fields = {name: values[name] for name in ("seconds", "sparsity", "predicted", "dense", "fastest")}
        return cls(
            **fields,
            cost=dict(values["cost"]),
            limits=limits,
            threads=values["threads"],
            measured=values["measured"],
            correction=correction,
            _network=network,
            _example=example,
            _measure=measure,
        )

    def check(self, model: nn.Module) -> LatencyCheck:
        """Compile the pruned ``model``, and time it beside its budget, its prediction and dense code.

        Raises `FlexgroupError` as `flexgroup.compile` does.
        """
        network = self._network
        if not network.runs_here:
            own = Network(
                model, self._example, (), target=network.target, threads=self.threads, machine=network.machine
            )
            return LatencyCheck(self.seconds, self.correction(own.seconds(own.plan({}))), None, None)
        name = "host" if network.target == host_target() else network.target.name
        compiled = compile(model, self._example, threads=self.threads, target=name)
        compiled.close()
        times = self._measure({"dense": network.plan({}, sparse=False), "pruned": compiled.plan})
        predicted = self.correction(network.seconds(compiled.plan))
        return LatencyCheck(self.seconds, predicted, times["pruned"], times["dense"])

    def __str__(self) -> str:
        how = "measured on this machine" if self.measured else "predicted only: another machine"
        whole = f", {len(self.whole)} of them whole" if self.whole else ""
        return (
            f"{_ms(self.seconds)} of one image on {self.threads} thread{'s' if self.threads > 1 else ''} "
            f"(dense {_ms(self.dense)}, nothing left {_ms(self.fastest)}, {how}): "
            f"{self.sparsity:.1%} of the cost of {len(self.cost)} layers is pruned{whole}"
        )


def latency_budget(
    model: nn.Module,
    example: Any,
    groups: Groups,
    *,
    latency: float | None = None,
    speedup: float | None = None,
    threads: int = 1,
    least: float = LEAST,
    criterion: str | Criterion | Mapping[str, Tensor] = "magnitude",
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    order: str = PYTORCH_ORDER,
    target: str = "host",
    machine: Machine | None = None,
    measure: Measure = measure,
) -> LatencyBudget:
    """How much of ``model`` may stay for a ``latency`` in seconds of one image, or a ``speedup`` over dense code.

    Selection multiplies its price by what a group costs in each layer: the slope of the cost model's prediction around
    the pattern that is found. The share of the cost that may stay is searched for with plans of whole networks, so
    dense layers, stores, calls and bands count too. Predictions are corrected by what dense code, the pattern found
    first and the network without any group take on this machine; the rest of the search uses the corrected ones.

    Scores are not comparable between layers to any degree that a factor of ten in cost would not upset, so that layers
    whose groups are dear could lose them all: every layer keeps at least ``least`` of the share that all keep on
    average (of cost).

    ``example`` is as for `flexgroup.compile`; ``groups``, ``criterion``, ``targets``, ``ignore`` and ``order`` are as
    for the `Pruner` to come. For criteria that average over training steps, magnitudes stand in. For a ``target`` that
    does not run here nothing is measured, and a ``latency`` needs the ``machine`` that it is meant for. ``measure``
    times plans (by default, the 10th percentile of calls in 25 interleaved rounds). The model is left as it is.

    Raises `FlexgroupError` for a budget that is out of reach, with what is in reach, for groups that have no cost of
    their own (N:M, free, and those that name M or K), and as `Pruner` and `flexgroup.compile` do.
    """
    _check(groups, latency, speedup, threads, least)
    layers = find_layers(model, targets, ignore)
    check_layers(model, layers, groups)
    chosen = host_target() if target == "host" else target_named(target)
    network = Network(model, example, layers, target=chosen, threads=threads, machine=machine)
    if latency is not None and not network.runs_here and machine is None:
        raise FlexgroupError(
            f"latency={latency:g}: code for {target} does not run on this machine, and its speed is not known; "
            f"give machine=Machine(...), or a speedup"
        )
    scores = _scores(layers, criterion, order)
    search = Search(
        network, layers, scores, groups, order, least, sample_curves(network, layers, scores, groups, order)
    )
    plans = {"dense": network.plan({}, sparse=False), "nothing": search.curves.nothing}
    correction, times = _corrected(network, plans, measure)
    goal = latency if latency is not None else times["dense"] / (speedup or 1.0)
    _check_reachable(goal, times, correction(search.curves.everything), speedup, threads)
    found = search.run(goal, correction)
    if network.runs_here:
        correction, times = _corrected(network, plans | {"pruned": found.plan}, measure)
        goal = latency if latency is not None else times["dense"] / (speedup or 1.0)
        found = search.run(goal, correction)
    return LatencyBudget(
        seconds=goal,
        sparsity=1.0 - found.share,
        cost=found.cost,
        limits=search.limits(found.share, found.cost, found.whole),
        predicted=correction(network.seconds(found.plan)),
        dense=times["dense"],
        fastest=times["nothing"],
        threads=threads,
        measured=network.runs_here,
        correction=correction,
        _network=network,
        _example=example,
        _measure=measure,
    )


def _corrected(network: Network, plans: Mapping[str, Plan], measure: Measure) -> tuple[Correction, dict[str, float]]:
    """How to correct predictions, and the seconds of ``plans``: measured, or predicted for another machine."""
    predicted = {name: network.seconds(plan) for name, plan in plans.items()}
    if not network.runs_here:
        return Correction(), predicted
    times = dict(measure(plans))
    return Correction(tuple((predicted[name], times[name]) for name in plans)), times


def _scores(
    layers: tuple[Layer, ...], criterion: str | Criterion | Mapping[str, Tensor], order: str
) -> dict[str, npt.NDArray[Any]]:
    """Scores as selection takes them; magnitudes where a criterion needs training first."""
    known = dict(criterion) if isinstance(criterion, Mapping) else find_criterion(criterion)
    if isinstance(known, dict):
        check_scores(known, layers)
    elif isinstance(known, Averaged):
        known = find_criterion("magnitude")
    matrices = layer_scores(known, layers, {})
    parts = (layer.split(matrices[layer.name], order) for layer in layers)
    return {name: part.numpy() for split in parts for name, part in split.items()}


def _check(groups: Groups, latency: float | None, speedup: float | None, threads: int, least: float) -> None:
    if (latency is None) == (speedup is None):
        raise FlexgroupError("a budget in time is either latency= in seconds or speedup= over dense code; give one")
    if latency is not None and not 0 < latency < float("inf"):
        raise FlexgroupError(f"latency={latency!r} is not a time; give seconds above 0, such as 0.0001 for 0.1 ms")
    if speedup is not None and not 1 <= speedup < float("inf"):
        raise FlexgroupError(f"speedup={speedup!r} is not a speed-up; give a number of at least 1, such as 4")
    if not isinstance(threads, int) or threads < 1:
        raise FlexgroupError(f"threads={threads!r}; give the number of cores to use, 1 or more")
    if not 0 <= least <= 1:
        raise FlexgroupError(f"least={least!r} is not a share; give a number from 0 to 1")
    if groups.n_of_m is not None or groups.is_symbolic or groups.unaligned == "free":
        raise FlexgroupError(
            f"groups {groups} take no budget in time, because a price cannot choose between layers for them; "
            f"use blocks of one size such as '4x1', aligned or unaligned along one axis"
        )


def _check_reachable(
    goal: float, times: Mapping[str, float], everything: float, speedup: float | None, threads: int
) -> None:
    """Raise `FlexgroupError` for a latency below that of nothing left, or above that of everything left."""
    fastest, slowest = times["nothing"], max(times["dense"], everything)
    if fastest < goal <= slowest:
        return
    asked = f"speedup={speedup:g}" if speedup is not None else f"latency {_ms(goal)}"
    reach = (
        f"{_ms(fastest)} (nothing left in the pruned layers) to {_ms(slowest)} (dense) "
        f"on {threads} thread{'s' if threads > 1 else ''}"
    )
    remedy = (
        f"ask for less than {times['dense'] / fastest:.1f}x, or prune more layers with targets"
        if goal <= fastest
        else "nothing needs to be pruned for it"
    )
    raise FlexgroupError(f"{asked} is out of reach, which is from {reach}; {remedy}")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"
