"""GFLOP/s of all forms of convolution on cache-resident shapes, beside the FMA peak of the same run.

    python benchmarks/kernels.py [--out results/kernels.json] [--rounds 15]

Weights are random; the kept groups are chosen from random scores, so that groups are spread as in no particular
network. Kernels take turns, round by round, and the peak is measured in every round; medians are shown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flexgroup import Groups, select
from flexgroup.engine import Plan, Program, Step, plan_graph
from flexgroup.engine._calibrate import machine_costs
from flexgroup.engine._choose import Choice, Chooser, Layer, candidates_of
from flexgroup.engine._plan import ARENA, Constants, reference
from flexgroup.graph import Conv2d, Graph, Node
from flexgroup.kernels import F32, PeakKernel, Target, host_target
from flexgroup.kernels.channels import tile_for
from flexgroup.report import this_machine

SHAPES = {  # name: (out channels, in channels, image size, kernel size)
    "256x256x56x56": (256, 256, 56, 1),
    "512x512x28x28": (512, 512, 28, 1),
    "1024x512x14x14": (512, 1024, 14, 1),
    "64x64x56x56 3x3": (64, 64, 56, 3),
    "256x256x14x14 3x3": (256, 256, 14, 3),
    "2048x512x7x7": (512, 2048, 7, 1),
    "512x512x7x7 3x3": (512, 512, 7, 3),
}
LARGE = {  # for sweeps.py
    "64 to 256, 56x56": (256, 64, 56, 1),
    "256 to 64, 56x56": (64, 256, 56, 1),
    "128 to 512, 28x28": (512, 128, 28, 1),
    "512 to 128, 28x28": (128, 512, 28, 1),
    "256 to 1024, 14x14": (1024, 256, 14, 1),
}
SPARSITIES = (0.8, 0.9, 0.95)
HEIGHTS = (2, 4, 8)
PEAK_ROUNDS = 20_000


@dataclass(frozen=True)
class Case:
    """One bar of the benchmark."""

    shape: str
    sparsity: float
    form: str
    rows: int


@dataclass(frozen=True)
class Result:
    """Median time and rate of a case; ``of_peak`` is relative to the peak measured in the same rounds."""

    shape: str
    sparsity: float
    form: str
    group: str
    kernel: str
    ms: float
    gflops: float
    of_peak: float


def cases(target: Target) -> Iterator[Case]:
    """All cases, those to be compared next to each other."""
    for shape, (_, _, size, _) in SHAPES.items():
        yield Case(shape, 0.0, "dense", 4)
        if tile_for(size, 0, target, F32):
            yield Case(shape, 0.0, "channels", 2 * target.lanes(F32))
        for sparsity in SPARSITIES:
            for rows in HEIGHTS:
                yield Case(shape, sparsity, "strip", rows)
                yield Case(shape, sparsity, "ring", rows)


def fixed(form: str, rows: int, sweep: int = 0) -> Chooser:
    """A chooser that always takes one kernel form, with the best tile and slabs, in sweeps of so many rows (0: all)."""
    costs = machine_costs(host_target())

    def choose(layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice:
        candidates = candidates_of(form, rows, layer, target, costs)
        best = min(each for each in candidates if not each.panel and (each.slabs == 1 or not sweep))
        return Choice(form, rows, best.tile, 0.0, 0.0, 0, 1.0, sparse, sweep=sweep, slabs=best.slabs)

    return choose


def program(case: Case, target: Target, sweep: int = 0) -> Program:
    """A network of one convolution whose weights are pruned as the case says, in sweeps of so many rows (0: all)."""
    out_channels, in_channels, size, kernel = (SHAPES | LARGE)[case.shape]
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((out_channels, in_channels * kernel * kernel)).astype(np.float32)
    if case.sparsity:
        unaligned = "rows" if case.form == "ring" else None
        groups = Groups(f"{case.rows}x1", unaligned=unaligned)
        matrix *= select({"": rng.random(matrix.shape)}, groups, 1 - case.sparsity).masks[""]
    pad = kernel // 2
    op = Conv2d(
        matrix.reshape(out_channels, in_channels, kernel, kernel),
        np.zeros(out_channels, np.float32),
        padding=(pad, pad, pad, pad),
    )
    shapes = {"x": (in_channels, size, size), "y": (out_channels, size, size)}
    graph = Graph(("x",), ("y",), (Node("conv", op, ("x",), "y"),), shapes)
    whole = replace(target, cache_bytes=0)  # one call for the whole image, not band by band
    return Program(plan_graph(graph, whole, chooser=fixed(case.form, case.rows, sweep)))


def peak_program(target: Target) -> Program:
    """The peak kernel as a plan of one step."""
    kernel = PeakKernel.for_target(target)
    arguments = tuple(kernel.signature.pack({"rounds": PEAK_ROUNDS, "arena": reference(ARENA, 0)}))
    step = Step("peak", kernel, (arguments,), kernel.macs(PEAK_ROUNDS, target))
    return Program(Plan(target, F32, 1, (), (), (step,), Constants().block(), 1 << 16, 1 << 16))


def measure(rounds: int, target: Target) -> tuple[list[Result], float]:
    """All results, and the median peak in GFLOP/s."""
    peak = peak_program(target)
    programs = {case: program(case, target) for case in track(list(cases(target)), "compiling")}
    seconds: dict[Case, list[float]] = {case: [] for case in programs}
    rates: list[float] = []
    for _ in track(range(rounds), "measuring"):
        for case, compiled in programs.items():
            ports = [*compiled.plan.inputs, *compiled.plan.outputs]
            arrays = [np.ones(port.elements, np.float32) for port in ports]
            times = compiled.time_steps([array.ctypes.data for array in arrays], 4)
            seconds[case] += times[1:, list(conv_steps(compiled))].sum(axis=1).tolist()
        (peak_step,) = peak.plan.steps
        rates.append(2 * peak_step.macs / float(peak.time_steps([], 3)[1:].min()) / 1e9)
    best = float(np.median(rates))
    return [_result(case, programs[case], seconds[case], best) for case in programs], best


def conv_steps(compiled: Program) -> dict[int, Step]:
    """The steps of the convolution, by number: one, or one for each slab of its input planes."""
    return {number: step for number, step in enumerate(compiled.plan.steps) if step.name == "conv"}


def _result(case: Case, compiled: Program, seconds: list[float], peak: float) -> Result:
    steps, median = list(conv_steps(compiled).values()), float(np.median(seconds))
    gflops = 2 * sum(step.macs for step in steps) / median / 1e9
    kernel = steps[-1].kernel.name + (f" in {len(steps)} slabs" if len(steps) > 1 else "")
    group = f"{case.rows}x1"
    return Result(case.shape, case.sparsity, case.form, group, kernel, median * 1e3, gflops, gflops / peak)


def show(results: list[Result], peak: float, target: Target) -> None:
    """The table on the terminal."""
    table = Table(title=f"GFLOP/s (share of the FMA peak, {peak:.0f} GFLOP/s), 1 thread, fp32, {target.name}")
    table.add_column("shape", no_wrap=True)
    table.add_column("zeros", justify="right")
    columns = [f"{form} {rows}x1" for rows in HEIGHTS for form in ("strip", "ring")]
    dense = list(dict.fromkeys(f"{r.form} {r.group}" for r in results if not r.sparsity))
    for column in [*dense, *columns]:
        table.add_column(column, justify="right")
    found = {(r.shape, r.sparsity, f"{r.form} {r.group}"): r for r in results}
    for shape in SHAPES:
        for sparsity in (0.0, *SPARSITIES):
            cells = [found.get((shape, sparsity, column)) for column in [*dense, *columns]]
            table.add_row(shape, f"{sparsity:.0%}", *(f"{r.gflops:.0f} ({r.of_peak:.0%})" if r else "" for r in cells))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    target = host_target()
    results, peak = measure(options.rounds, target)
    show(results, peak, target)
    if options.out:
        document = {
            "command": f"python benchmarks/kernels.py --rounds {options.rounds}",
            "machine": asdict(this_machine()),
            "target": target.name,
            "peak_gflops": peak,
            "results": [asdict(result) for result in results],
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
