"""A network as the engine would run it with other patterns: its plan, what that is predicted to take, and takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn

from flexgroup._errors import FlexgroupError
from flexgroup.engine import CompiledModel, Machine, Plan, measured_machine, plan_graph
from flexgroup.engine._calibrate import machine_costs
from flexgroup.engine._predict import step_seconds
from flexgroup.graph import Conv2d, Linear, optimize, read_network
from flexgroup.kernels import F32, Target, runs_here
from flexgroup.pruning._targets import Layer, listed

ROUNDS = 25
NOMINAL_SLOT = 1e-9  # seconds: of a machine of which nothing is known, so that only ratios of times mean anything

Masks: TypeAlias = Mapping[str, npt.NDArray[np.bool_]]
Measure: TypeAlias = Callable[[Mapping[str, Plan]], Mapping[str, float]]
"""Plans by name -> seconds of one image by name."""


class Network:
    """What the engine makes of ``model`` when its ``layers`` have other patterns. The model is left as it is.

    The model is exported once; plans are made from its graph with weights set to zero, and nothing is compiled.
    Without ``machine`` it is the one at hand, or, for a ``target`` that does not run here, a nominal one.

    Raises `FlexgroupError` as `flexgroup.compile` does, and for layers that the example does not run.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        layers: Sequence[Layer],
        *,
        target: Target,
        threads: int,
        machine: Machine | None = None,
    ) -> None:
        self.target = target
        self.threads = threads
        self.runs_here = bool(target.triple) and runs_here(target)
        self._costs = machine_costs(target)
        self._graph = read_network(model, example)[0]
        self._places = {layer.name: self._nodes_of(layer) for layer in layers}
        missing = [name for name, places in self._places.items() if not places]
        if missing:
            raise FlexgroupError(
                f"{type(model).__name__} does not run {listed(missing)} on the example, so that "
                f"{'they have' if len(missing) > 1 else 'it has'} no cost in time; leave such layers out with ignore"
            )
        self.machine = machine or (measured_machine() if self.runs_here else _nominal(target))

    def plan(self, masks: Masks, *, sparse: bool = True) -> Plan:
        """The plan with these layers' weights under bool (M, K) ``masks``; ``sparse=False``: dense code."""
        nodes = list(self._graph.nodes)
        for name, mask in masks.items():
            for place in self._places[name]:
                op: Any = nodes[place].op
                weight = np.where(mask.reshape(op.weight.shape), op.weight, np.float32(0))
                nodes[place] = replace(nodes[place], op=replace(op, weight=weight))
        graph = optimize(replace(self._graph, nodes=tuple(nodes)))
        return plan_graph(graph, self.target, threads=self.threads, sparse=sparse, costs=self._costs)

    def seconds(self, plan: Plan) -> float:
        """What the plan is predicted to take for one image."""
        return sum(self.seconds_by_layer(plan).values())

    def seconds_by_layer(self, plan: Plan) -> dict[str, float]:
        """What every step of the plan is predicted to take, by the name of its layer."""
        seconds: dict[str, float] = {}
        for step in plan.steps:
            whole = step_seconds(step, plan, self.machine)
            for name, share in step.shares or ((step.name, 1.0),):
                seconds[name] = seconds.get(name, 0.0) + share * whole
        return seconds

    def _nodes_of(self, layer: Layer) -> list[int]:
        """Where the graph has the layer; a module that is called twice is there twice."""
        shape = tuple(layer.module.weight.shape)
        return [
            place
            for place, node in enumerate(self._graph.nodes)
            if node.name == layer.name and isinstance(node.op, Conv2d | Linear) and node.op.weight.shape == shape
        ]


def measure(plans: Mapping[str, Plan]) -> dict[str, float]:
    """Seconds of one image through each plan on this machine: the 10th percentile of calls, interleaved by rounds.

    Not the median: what else the machine does only ever adds, and a budget is of what the machine can do.
    """
    from flexgroup.report import interleaved

    compiled = {name: CompiledModel(plan, 0.0) for name, plan in plans.items()}
    generator = np.random.default_rng(0)
    calls: dict[str, Callable[[], object]] = {}
    try:
        for name, model in compiled.items():
            images = [generator.standard_normal((1, *port.shape), dtype=np.float32) for port in model.plan.inputs]
            calls[name] = lambda model=model, images=images: model(*images)  # type: ignore[misc]
        return {name: timing.p10_ms / 1e3 for name, timing in interleaved(calls, rounds=ROUNDS).items()}
    finally:
        for model in compiled.values():
            model.close()


def _nominal(target: Target) -> Machine:
    return Machine(
        "", target.name, 1, 2 * target.lanes(F32) / NOMINAL_SLOT, 2 * target.lanes(F32) / NOMINAL_SLOT, (), 0
    )
