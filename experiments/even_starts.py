"""What it costs that the groups of a row are as many as they come: rings of random counts, of even ones, and strips.

    python experiments/even_starts.py [--network resnet50] [--kept 0.05] [--rounds 20] [--out even_starts.json]

Groups of 4x1 in all 1x1 layers of a network, in three ways: on the grid; beginning anywhere, at every row as many as
chance has it; beginning anywhere, at every row as many as at the next, or one more. A ring leaves a loop at every row,
and whether the processor foresees where is all the difference between the last two. All other layers are the same in
the three networks, pruned on the grid. One thread; networks take turns, and the medians of all calls are shown, of the
network and of its 1x1 layers, with how many weights these keep.
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import flexgroup
from flexgroup import zoo
from flexgroup.report import interleaved, this_machine

ROWS = 4
KINDS = ("on the grid", "anywhere, random", "anywhere, even")


def mask(kind: str, rows: int, columns: int, kept: float, rng: np.random.Generator) -> np.ndarray:
    """Which weights (rows, columns) are kept."""
    if kind == KINDS[0]:
        return np.repeat(rng.random((-(-rows // ROWS), columns)) < kept, ROWS, axis=0)[:rows]
    each = columns * kept / ROWS
    counts = rng.poisson(each, rows) if kind == KINDS[1] else np.diff(np.floor(np.arange(rows + 1) * each)).astype(int)
    found, left = np.zeros((rows, columns), np.bool_), np.zeros(columns, np.int64)  # rows that a group still covers
    for row, count in enumerate(counts[: rows - ROWS + 1]):
        free = np.flatnonzero(left == 0)
        chosen = rng.choice(free, min(count, len(free)), replace=False)
        found[row : row + ROWS, chosen] = True
        left[chosen] = ROWS
        left = np.maximum(left - 1, 0)
    return found


def network(name: str, kind: str, kept: float) -> tuple[nn.Module, set[str], int]:
    """The network, pruned; the names of its 1x1 layers, and how many weights these keep."""
    torch.manual_seed(0)
    model, rng = zoo.build(name).eval(), np.random.default_rng(0)
    points: set[str] = set()
    count = 0
    convs = [(at, module) for at, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for at, module in convs[1:]:
        if module.groups > 1:
            continue
        weight = module.weight.data
        is_point = module.kernel_size == (1, 1)
        size = (len(weight), weight[0].numel())
        chosen = mask(kind if is_point else KINDS[0], *size, kept, rng)
        weight *= torch.from_numpy(chosen).reshape(weight.shape)
        if is_point:
            points.add(at)
            count += int(chosen.sum())
    return model, points, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--kept", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    x = torch.randn(1, *zoo.input_shape(options.network))
    made = {kind: network(options.network, kind, options.kept) for kind in KINDS}
    compiled = {kind: flexgroup.compile(model, (x,), threads=1) for kind, (model, _, _) in made.items()}
    calls = {kind: functools.partial(each, x) for kind, each in compiled.items()}
    timings = interleaved(calls, options.rounds, min_seconds=0.03)
    layers: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for kind, each in compiled.items():
            rows = each.profile(x, rounds=10).rows
            points = made[kind][1]
            layers[kind].append(sum(row.ms for row in rows if set(row.name.split(" + ")) <= points))
    table = Table("groups of 1x1 layers", "network, ms", "1x1 layers, ms", "kept weights", "1x1, ns a thousand")
    results = []
    for kind in KINDS:
        ms, points_ms, kept = timings[kind].median_ms, float(np.median(layers[kind])), made[kind][2]
        results.append({"groups": kind, "ms": ms, "points_ms": points_ms, "points_kept": kept})
        table.add_row(kind, f"{ms:.3f}", f"{points_ms:.3f}", f"{kept:,}", f"{1e9 * points_ms / kept:.0f}")
    Console().print(table)
    if options.out is not None:
        settings = {"network": options.network, "kept": options.kept, "rounds": options.rounds}
        options.out.write_text(
            json.dumps({"machine": asdict(this_machine()), **settings, "results": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
