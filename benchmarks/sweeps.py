"""Pointwise convolutions on large images: all rows tile by tile, and a few rows at a time through the whole image.

    python benchmarks/sweeps.py [--rounds 15] [--out results/sweeps.json]

Microseconds of one layer of random 4x1 groups, on a grid (strip) and off it (ring), on one thread, and how many times
as long it takes with all rows at once. Kernels take turns, round by round; medians are shown.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from kernels import LARGE, SPARSITIES, Case, program
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flexgroup.engine._choose import SWEEP
from flexgroup.kernels import host_target
from flexgroup.report import this_machine


@dataclass(frozen=True)
class Result:
    """Median microseconds of a layer: all rows tile by tile, and `SWEEP` rows at a time."""

    shape: str
    sparsity: float
    form: str
    whole_us: float
    swept_us: float


def measure(rounds: int) -> list[Result]:
    """All results."""
    target = host_target()
    cases = [Case(shape, zeros, form, 4) for shape in LARGE for zeros in SPARSITIES for form in ("strip", "ring")]
    programs = {
        (case, sweep): program(case, target, sweep) for case in track(cases, "compiling") for sweep in (0, SWEEP)
    }
    seconds: dict[tuple[Case, int], list[float]] = {key: [] for key in programs}
    for _ in track(range(rounds), "measuring"):
        for key, compiled in programs.items():
            arrays = [np.ones(port.elements, np.float32) for port in (*compiled.plan.inputs, *compiled.plan.outputs)]
            step = next(i for i, step in enumerate(compiled.plan.steps) if step.name == "conv")
            times = compiled.time_steps([array.ctypes.data for array in arrays], 4)
            seconds[key] += times[1:, step].tolist()
    found = {key: 1e6 * float(np.median(each)) for key, each in seconds.items()}
    return [Result(case.shape, case.sparsity, case.form, found[case, 0], found[case, SWEEP]) for case in cases]


def show(results: list[Result]) -> None:
    """The table on the terminal."""
    table = Table("layer", "zeros", "form", "all rows, us", f"{SWEEP} rows at a time, us", "ratio")
    for each in results:
        ratio = f"{each.whole_us / each.swept_us:.2f}"
        table.add_row(
            each.shape, f"{each.sparsity:.0%}", each.form, f"{each.whole_us:.0f}", f"{each.swept_us:.0f}", ratio
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    results = measure(options.rounds)
    show(results)
    if options.out:
        document = {
            "command": f"python benchmarks/sweeps.py --rounds {options.rounds}",
            "machine": asdict(this_machine()),
            "rows": [asdict(each) for each in results],
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
