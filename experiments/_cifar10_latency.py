"""How long each trained network takes on the machine at hand: all of them side by side, one run, our engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _cifar10_runs import Dense, Run

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.report import interleaved, this_machine
from flexgroup.zoo import CifarResNet, load_weights, write_atomically


def network_of(run: Run) -> CifarResNet:
    """The network of a run with fresh random weights."""
    return CifarResNet(run.blocks, width=run.width) if isinstance(run, Dense) else CifarResNet(3)


def measure_latency(
    runs: list[Run], results: Path, work: Path, rounds: int, progress: Callable[[int], object] | None = None
) -> dict[str, float]:
    """Milliseconds an image (one thread) by name for all runs whose weights are in ``work``, and of the dense network.

    The run's file under ``results`` gets the number. Latency depends on the pattern alone, so that it may be measured
    on another day than the training; always all together, so that a busy machine is unfair to nobody. Raises
    `FlexgroupError` where there is nothing to measure.
    """
    found = {run.name: run for run in runs if (work / run.name / "model.safetensors").is_file()}
    if not found:
        raise FlexgroupError(f"{work} has no trained networks; train some first: python experiments/cifar10.py run")
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image = x.numpy()
    compiled = {}
    for name, run in found.items():
        model = network_of(run).eval()
        load_weights(model, work / name / "model.safetensors")
        compiled[name] = flexgroup.compile(model, (x,), threads=1)
    compiled["dense"] = flexgroup.compile(CifarResNet(3).eval(), (x,), threads=1)
    times = interleaved({name: _call(fast, image) for name, fast in compiled.items()}, rounds=rounds, progress=progress)
    machine = asdict(this_machine())
    for name in found:
        path = results / f"{name}.json"
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record["latency_ms"] = {"1": times[name].median_ms, "dense": times["dense"].median_ms}
        record["latency_machine"] = machine
        record["macs"] = sum(layer.macs for layer in compiled[name].explain().layers)
        write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
    return {name: timing.median_ms for name, timing in times.items()}


def _call(fast: Any, image: Any) -> Callable[[], object]:
    return lambda: fast(image)
