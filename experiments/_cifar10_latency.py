"""How long the experiment's networks take on the machine at hand: all of them side by side, one run, our engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from _cifar10_networks import IMAGE, network_of, pattern_like, side_by_side
from _cifar10_results import LATENCY, SCHEMA
from _cifar10_runs import Dense, Run
from torch import nn

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.report import interleaved, this_machine
from flexgroup.zoo import CifarResNet, load_weights, write_atomically

COMMAND = "python experiments/cifar10.py measure --weights resnet20.safetensors"
DENSE = "the unpruned network"


def measure_latency(
    runs: list[Run], out: Path, work: Path, weights: Path, rounds: int, progress: Callable[[int], object] | None = None
) -> dict[str, float]:
    """Milliseconds an image (one thread) by name for every run that has a record in ``out/runs``.

    Time depends on where zeros are, not on what else the weights are: a run's stand-in is the pretrained network with
    as many weights in each layer as the run kept (see `pattern_like`), so that neither trained weights nor the day of
    the training matter, and all are timed together on one version of the engine. Where a run's own weights are still
    in ``work`` they are timed beside their stand-in. All goes to ``out/latency.json``.

    Raises `FlexgroupError` where there is nothing to measure.
    """
    known = {run.name: run for run in runs}
    records = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("runs/*.json"))}
    records = {name: record for name, record in records.items() if name.removesuffix("-oneshot") in known}
    if not records:
        raise FlexgroupError(f"{out / 'runs'} has no results; train some first: python experiments/cifar10.py run")
    example = torch.randn(1, *IMAGE, generator=torch.Generator().manual_seed(0))
    stand_ins: dict[str, Hashable] = {}  # seeds that kept as much in every layer share theirs
    compiled: dict[Hashable, Any] = {DENSE: _compiled(CifarResNet(3), example)}
    for name, record in records.items():
        run = known[name.removesuffix("-oneshot")]
        kept = record.get("layers", {})
        stand_ins[name] = key = (replace(run, seed=0), *kept.items())
        if key not in compiled:
            model = network_of(run) if isinstance(run, Dense) else pattern_like(run, kept, weights)
            compiled[key] = _compiled(side_by_side(run, model), example)
        trained = work / name / "model.safetensors"
        if trained.is_file():
            model = network_of(run)
            load_weights(model, trained)
            compiled[trained] = _compiled(side_by_side(run, model), example)
    image = example.numpy()
    times = interleaved({key: _call(fast, image) for key, fast in compiled.items()}, rounds, progress=progress)
    networks: dict[str, dict[str, float]] = {}
    for name, key in stand_ins.items():
        macs = sum(layer.macs for layer in compiled[key].explain().layers)
        networks[name] = {"ms": times[key].median_ms, "macs": macs}
        trained = work / name / "model.safetensors"
        if trained in times:
            networks[name]["trained_ms"] = times[trained].median_ms
    document = {"schema": SCHEMA, "command": COMMAND, "machine": asdict(this_machine()), "rounds": rounds}
    document |= {"dense_ms": times[DENSE].median_ms, "networks": networks}
    write_atomically(out / LATENCY, (json.dumps(document, indent=1) + "\n").encode())
    return {DENSE: times[DENSE].median_ms} | {name: network["ms"] for name, network in networks.items()}


def _compiled(model: nn.Module, example: torch.Tensor) -> Any:
    return flexgroup.compile(model.eval(), (example,), threads=1)


def _call(fast: Any, image: Any) -> Callable[[], object]:
    return lambda: fast(image)
