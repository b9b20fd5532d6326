"""Predicted against measured time, layer by layer and whole networks, on one thread.

    python benchmarks/cost_model.py [--models resnet20,mobilenet_v2] [--rounds 60] [--out results/cost_model.json]

Networks of the zoo with random weights and random aligned 4x1 groups. A layer's measured time is the sum over its steps
of the best of all rounds; networks take turns. ``ratio`` is predicted over measured, of the whole network and of the
layers (median, 10th and 90th percentile). ``best choice``: the same network compiled with every height and form forced
on all layers; for every layer the fastest of them is the best choice, and ``lost`` is by how much the layers that the
model chose are slower, all together. Convolutions that are in no chain only: others cannot be timed alone.
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _networks import with_random_groups

from flexgroup.engine import Plan, Program, measured_machine, plan_graph
from flexgroup.engine._calibrate import machine_costs
from flexgroup.engine._choose import Choice, Chooser, Layer, channel_rows, choose, panel_for, tile_of
from flexgroup.engine._predict import step_seconds
from flexgroup.graph import Graph, from_torch, optimize
from flexgroup.kernels import Target, host_target
from flexgroup.report import this_machine

SPARSITIES = (0.0, 0.8, 0.95)
LONG = 0.01  # of a network's time: layers that take less are not looked at one by one
FORCED = (  # form, rows, whether tiles are copied first
    ("dense", 4, False),
    ("dense", 4, True),
    ("dense", 2, False),
    ("channels", 2, False),
    ("strip", 2, False),
    ("strip", 4, False),
    ("strip", 4, True),
    ("strip", 8, False),
    ("ring", 1, False),
    ("ring", 4, False),
)


def graph_of(name: str, sparsity: float) -> Graph:
    """A network in which this share of the 4x1 groups is zero."""
    model, x = with_random_groups(name, sparsity)
    return optimize(from_torch(model, (x,)))


def best_seconds(plans: dict[str, Plan], rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds of every step, the best of all rounds, in which the plans take turns."""
    programs = {key: Program(plan) for key, plan in plans.items()}
    best = {key: np.full(len(plan.steps), np.inf) for key, plan in plans.items()}
    arrays = {
        key: [np.zeros(port.elements, np.float32) for port in (*plan.inputs, *plan.outputs)]
        for key, plan in plans.items()
    }
    for _ in range(rounds):
        for key, program in programs.items():
            seconds = program.time_steps([array.ctypes.data for array in arrays[key]], 3)[1:]
            best[key] = np.minimum(best[key], seconds.min(axis=0))
    for program in programs.values():
        program.close()
    return best


def by_layer(plan: Plan, seconds: Any) -> dict[str, float]:
    """The sum over the steps of every layer."""
    sums: dict[str, float] = {}
    for step, time in zip(plan.steps, seconds, strict=True):
        sums[step.name] = sums.get(step.name, 0.0) + float(time)
    return sums


def forced(form: str, rows: int, panel: bool, otherwise: Chooser) -> Chooser:
    """A chooser that takes one kernel form for every layer that can have it; ``rows`` of channels are vectors."""

    def chooser(layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice:
        height = rows * layer.lanes if form == "channels" else rows
        if height not in (channel_rows(layer, target) if form == "channels" else heights):
            return otherwise(layer, target, sparse=sparse, heights=heights)
        tile = tile_of(layer, form, height, target)
        segment = panel_for(layer, form, height, tile, target) if panel else 0
        return Choice(form, height, tile, 0.0, 0.0, layer.groups(form, height), 1.0, sparse, segment)

    return chooser


def measure(name: str, sparsity: float, rounds: int, *, layers: bool) -> dict[str, Any]:
    """One network: how far predictions are off, and what is lost against the best forced choice."""
    target, machine = host_target(), measured_machine()
    graph, costs = graph_of(name, sparsity), machine_costs(target)
    usual = functools.partial(choose, costs=costs)
    plans = {"": plan_graph(graph, target, costs=costs)}
    with patch("flexgroup.engine._chains.LONGEST", 0):  # no chains
        plans["chosen"] = plan_graph(graph, target, costs=costs, chooser=usual)
        for form, rows, panel in FORCED:
            way = f"{form} {rows}" + " in a panel" * panel
            plans[way] = plan_graph(graph, target, costs=costs, chooser=forced(form, rows, panel, usual))
    best = best_seconds(plans, rounds)
    plan = plans[""]
    measured = by_layer(plan, best[""])
    predicted = by_layer(plan, [step_seconds(step, plan, machine) for step in plan.steps])
    long = LONG * sum(measured.values())
    ratios = [predicted[layer] / time for layer, time in measured.items() if time > long]
    convs = {step.name for step in plan.steps if step.dense_macs and step.kernel.name.startswith("conv")}
    times = {key: by_layer(plans[key], best[key]) for key in plans if key}
    ways = {layer: min(times, key=lambda key: times[key][layer]) for layer in convs}
    own = {layer: times["chosen"][layer] for layer in convs}
    fastest = {layer: times[way][layer] for layer, way in ways.items()}
    slower = [layer for layer in convs if layers and ways[layer] != "chosen"]
    for layer in sorted(slower, key=lambda layer: fastest[layer] - own[layer]):
        print(f"    {layer:30} {1e6 * own[layer]:8.1f} us; {ways[layer]}: {1e6 * fastest[layer]:8.1f} us")
    p10, median, p90 = np.percentile(ratios, [10, 50, 90])
    return {
        "model": name,
        "sparsity": sparsity,
        "measured_ms": 1e3 * sum(measured.values()),
        "ratio": sum(predicted.values()) / sum(measured.values()),
        "layers": {"p10": float(p10), "median": float(median), "p90": float(p90)},
        "lost": sum(own.values()) / sum(fastest.values()) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet20,mobilenet_v2,resnet50")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--layers", action="store_true", help="print every layer that another choice is faster for")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    rows = []
    print(f"{'network':14} {'zeros':>6} {'ms':>8} {'ratio':>6}   layers (p10, median, p90)   lost")
    for name in options.models.split(","):
        for sparsity in SPARSITIES:
            row = measure(name, sparsity, options.rounds, layers=options.layers)
            rows.append(row)
            spread = ", ".join(f"{share:.2f}" for share in row["layers"].values())
            whole = f"{name:14} {sparsity:6.0%} {row['measured_ms']:8.3f} {row['ratio']:6.2f}"
            print(f"{whole}   {spread:24}   {row['lost']:.1%}", flush=True)
    if options.out:
        document = {
            "command": f"python benchmarks/cost_model.py --models {options.models} --rounds {options.rounds}",
            "machine": asdict(this_machine()),
            "costs": asdict(machine_costs(host_target())),
            "networks": rows,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
