"""How long `flexgroup.compile` takes, stage by stage: with an empty cache, in a new process, and once more.

    python benchmarks/compile_time.py [--models mobilenet_v2,resnet50] [--rounds 3] [--out results/compile_time.json]

Networks of the zoo with random weights and random aligned 4x1 groups, 95 % of them zero. Every round starts two new
processes: "cold" with an empty cache, "warm" with what the first one left there, and "again" is the second call in the
warm process. A stage's time is its own, without that of the stages within; medians are shown. What Python imports of
flexgroup before the first call is a row of its own; torch itself is loaded before.

What is measured once a machine, its rates and the constants of the cost model, is timed apart, in a process of its own
with an empty cache; the compilations use the model's defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _networks import with_random_groups

SPARSITY = 0.95
RUNS = ("cold", "warm", "again")
STAGES = (
    "imports",
    "digest of the model",
    "torch.export",
    "lowering",
    "passes",
    "planning and packing",
    "LLVM IR",
    "LLVM",
    "loading",
    "self-check",
    "all else",
)


@dataclass
class Stopwatch:
    """Seconds by stage; a stage that starts within another stops that one's clock."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _open: list[str] = field(default_factory=lambda: ["all else"])
    _since: float = field(default_factory=time.perf_counter)

    def switch(self) -> None:
        """Count the time until now for the stage that is open."""
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time is counted for ``stage``."""

        def timed(*arguments: Any, **options: Any) -> Any:
            self.switch()
            self._open.append(stage)
            try:
                return function(*arguments, **options)
            finally:
                self.switch()
                self._open.pop()

        return timed


def timed_compile(model: Any, x: Any) -> tuple[dict[str, float], float]:
    """Seconds by stage of one compilation; and seconds of one image in the result, to see that it is the real thing."""
    watch = Stopwatch()
    imported = watch.wrap("imports", _watched_places)()
    places = [(stage, place, name, getattr(place, name)) for stage, place, name in imported]
    for stage, place, name, function in places:
        setattr(place, name, watch.wrap(stage, function))
    try:
        import flexgroup

        compiled = watch.wrap("all else", flexgroup.compile)(model, (x,))
        watch.switch()
    finally:
        for _, place, name, function in places:
            setattr(place, name, function)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        compiled(x)
        seconds.append(time.perf_counter() - start)
    return watch.seconds, float(np.median(seconds))


def _watched_places() -> list[tuple[str, Any, str]]:
    """Which functions belong to which stage: (stage, module or class, name)."""
    from flexgroup import graph
    from flexgroup.engine import _compiled, _fingerprint, _native, _objects
    from flexgroup.graph import _lowering

    from_torch = sys.modules["flexgroup.graph.from_torch"]
    return [
        ("digest of the model", _fingerprint, "fingerprint"),
        ("torch.export", from_torch, "_export"),
        ("lowering", _lowering.Lowering, "run"),
        ("passes", graph, "optimize"),
        ("planning and packing", _compiled, "plan_graph"),
        ("LLVM IR", _objects, "_module_of"),
        ("LLVM IR", _objects, "_text"),
        ("LLVM", _objects, "_assemble"),
        ("loading", _native, "load"),
        ("self-check", _compiled, "difference"),
    ]


def calibration() -> float:
    """Seconds of what the first compilation on a machine measures."""
    from flexgroup.engine._calibrate import machine_costs
    from flexgroup.kernels import host_target

    start = time.perf_counter()
    machine_costs(host_target())
    return time.perf_counter() - start


def child(name: str, calls: int) -> None:
    """Compile ``calls`` times in this process, and print the seconds of each as JSON."""
    import torch
    import torch.export

    torch.set_num_threads(1)
    model, x = with_random_groups(name, SPARSITY)
    print(json.dumps([timed_compile(model, x) for _ in range(calls)]))


def in_process(folder: str, costs: str, *arguments: str) -> Any:
    """What this file prints in a new process that keeps its cache in ``folder``, and uses these costs."""
    own = {"FLEXGROUP_CACHE": folder, "FLEXGROUP_COSTS": costs, "OMP_NUM_THREADS": "1"}
    # As on a user's machine, where imported modules are compiled to bytecode once.
    own["PYTHONDONTWRITEBYTECODE"] = ""
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, env={**os.environ, **own}, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def once_a_machine(rounds: int) -> float:
    """Median seconds of `calibration`."""
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(in_process(folder, "measured", "--calibrate"))
    return float(np.median(seconds))


def measure(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds by run and stage, with the "total", and the compiled network's "image"."""
    found: dict[str, list[dict[str, float]]] = {run: [] for run in RUNS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for runs in (RUNS[:1], RUNS[1:]):
                timed = in_process(folder, "default", "--child", name, "--calls", str(len(runs)))
                for run, (seconds, image) in zip(runs, timed, strict=True):
                    found[run].append({**seconds, "total": sum(seconds.values()), "image": image})
    return {
        run: {stage: float(np.median([one[stage] for one in several])) for stage in several[0]}
        for run, several in found.items()
    }


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """One table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="seconds of flexgroup.compile")
    table.add_column("stage", no_wrap=True)
    for name in results:
        for run in RUNS:
            table.add_column(f"{name}\n{run}", justify="right")
    for stage in (*STAGES, "total"):
        if stage == "total":
            table.add_section()
        table.add_row(stage, *(f"{results[name][run][stage]:.3f}" for name in results for run in RUNS))
    Console(width=max(100, 30 + 16 * 3 * len(results))).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--calibrate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.calibrate:
        print(calibration())
        return
    if options.child:
        child(options.child, options.calls)
        return
    results = {name: measure(name, options.rounds) for name in options.models.split(",")}
    show(results)
    once = once_a_machine(options.rounds)
    print(f"once a machine, not counted above: {once:.2f} s")
    if options.out:
        from flexgroup.report import this_machine

        document = {
            "command": f"python benchmarks/compile_time.py --models {options.models} --rounds {options.rounds}",
            "machine": asdict(this_machine()),
            "seconds": results,
            "once a machine": once,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
