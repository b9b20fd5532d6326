"""What each part of the CPU engine is worth: networks as the cost model plans them, and with one part left out.

    python benchmarks/ablation.py [--models resnet50,mobilenet_v1] [--threads 1] [--rounds 40] [--out ablation.json]
        [--height 4] [--parts "sweeps,short tiles"]

Groups are ``height`` x 1, aligned. The plans of a network take turns, round by round. Shown is how much longer an image
takes without a part: the median over the rounds of the ratio to the whole engine's time in the same round; fp32. A
machine may change its speed between two rounds, and the ratio of one round is off by as much; below 3 % is chance.
Where the plan is the same without a part, nothing is measured ("same").
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _networks import with_random_groups

from flexgroup.engine import Plan, Program, plan_graph
from flexgroup.engine._calibrate import machine_costs
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import host_target
from flexgroup.report import this_machine

SPARSITIES = (0.0, 0.8, 0.95)
ENGINE = "flexgroup.engine."
PARTS: dict[str, tuple[str, Any]] = {  # name: what of the engine is something else without it
    "panels": (ENGINE + "_choose.panel_for", lambda layer, form, rows, tile, target: 0),
    "runs": (ENGINE + "_steps_conv.LONGEST_RUN", 1),
    "blocks of rows": (ENGINE + "_winograd.WORTH", 0.0),
    "chains": (ENGINE + "_chains.LONGEST", 0),
    "the chains' threshold": (ENGINE + "_chains.WORTH", 1.0),  # so that there are more of them
    "short tiles": (ENGINE + "_choose._shorter", lambda layer, form, rows, tile, target: []),
    "asking early": (ENGINE + "_steps_conv.asks_early", lambda layer, form, rows, tile, target: False),
    "borders where somebody looks": (ENGINE + "_compiled.ragged", lambda layout, shared: set()),
    "rows of a known length": (ENGINE + "_steps_copy.LONGEST_ROW", 0),
    "sweeps": (ENGINE + "_choose._sweep", lambda layer, choice, target, costs: 0),
    "slabs": (ENGINE + "_choose.slabs_for", lambda layer, form, rows, tile, target: 1),
    "longest strips first": (ENGINE + "_steps_conv._has_any_order", lambda builder, conv: False),
    "slices": (ENGINE + "_chains.slices", lambda builder, producer, reader: []),
    "whole rows": (ENGINE + "_choose.Layer.rows_of_vector", lambda layer, form, height: 0),
    "stacks": (ENGINE + "_geometry.LEAST_STACKED", 1.0),
    "regions": (ENGINE + "_compiled.find_regions", lambda builder, operations, chains: []),  # of threads
    "equal parts": (ENGINE + "_shares.even_tiles", lambda size, vectors, threads: None),
}


def plans_of(model: str, sparsity: float, height: int, parts: list[str], threads: int) -> dict[str, Plan]:
    """The network's plan, under an empty name, and one without each of the parts."""
    target = host_target()
    costs = machine_costs(target)
    module, x = with_random_groups(model, sparsity, height)
    graph = optimize(from_torch(module, (x,)))
    plans = {"": plan_graph(graph, target, threads=threads, costs=costs)}
    for part in parts:
        with patch(*PARTS[part]):
            plans[part] = plan_graph(graph, target, threads=threads, costs=costs)
    return plans


def is_same(plan: Plan, other: Plan) -> bool:
    """Whether two plans do the same with the same numbers."""
    return plan.steps == other.steps and np.array_equal(plan.constants, other.constants)


def measure(model: str, sparsity: float, height: int, parts: list[str], threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of the whole engine, and how many times as long an image takes without each part."""
    plans = plans_of(model, sparsity, height, parts, threads)
    whole = plans[""]
    same = [part for part, plan in plans.items() if part and is_same(plan, whole)]
    programs = {part: Program(plan) for part, plan in plans.items() if part not in same}
    arrays = [np.zeros(port.elements, np.float32) for port in (*whole.inputs, *whole.outputs)]
    pointers = [array.ctypes.data for array in arrays]
    seconds: dict[str, list[float]] = {part: [] for part in programs}
    for number in range(rounds):
        for part in sorted(programs, reverse=number % 2 == 1):  # whoever comes first finds other things in the caches
            seconds[part].append(float(programs[part].time_steps(pointers, 4)[1:].sum(axis=1).min()))
    for program in programs.values():
        program.close()
    times = np.array(seconds.pop(""))
    ratios = {part: float(np.median(np.array(each) / times)) for part, each in seconds.items()}
    without = {part: ratios.get(part) for part in parts}
    return {"model": model, "sparsity": sparsity, "best_ms": 1e3 * float(times.min()), "without": without}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet20,mobilenet_v1,mobilenet_v2,resnet50")
    parser.add_argument("--height", type=int, default=4, help="rows of a group")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to leave out, with commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts {options.parts}: choose among {', '.join(PARTS)}")
    print(f"{'network':14} {'zeros':>6} {'ms':>8}   without: " + "; ".join(parts))
    rows = []
    for model in options.models.split(","):
        for sparsity in SPARSITIES:
            row = measure(model, sparsity, options.height, parts, options.threads, options.rounds)
            rows.append(row)
            ratios = "  ".join(" same" if ratio is None else f"{ratio:5.2f}" for ratio in row["without"].values())
            print(f"{model:14} {sparsity:6.0%} {row['best_ms']:8.3f}   {ratios}", flush=True)
    if options.out:
        given = {name: getattr(options, name) for name in ("threads", "rounds", "height")}
        result = {"machine": asdict(this_machine()), **given, "rows": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
