"""What a second thread is worth, with rows of its own or not, and that calls find out whether it is worth anything.

    python benchmarks/threads.py [--models resnet20,mobilenet_v1] [--sparsity 0.95] [--threads 2] [--rounds 60]

All threads in regions (each keeps rows of its own and copies what it sees of the others'), all threads without,
the caller alone, whichever of the first and the third was faster lately, and a plan for one thread take turns of 60 ms,
round by round. Before and after every round two threads wait for each other: where that takes more than 200 ns, their
cores share no cache, and the round is counted apart. Milliseconds an image, medians over the rounds of the means of a
turn; fp32. The limit: calls that choose take no more than 1.1 times as long as the faster way.
"""

from __future__ import annotations

import os
import time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _command import network_options, write_rows
from _networks import with_random_groups
from _peers._others import FAR, barrier_seconds

import flexgroup as fg
from flexgroup.engine import CompiledModel
from flexgroup.engine._pace import Pace

TURN = 0.06  # seconds
BARRIERS = 200  # of a measurement of how far apart the cores are
WAYS = ("all threads", "without regions", "the caller alone", "chosen", "a plan for one")


def turn(model: CompiledModel, x: torch.Tensor) -> float:
    """Milliseconds of a call: the mean of a turn."""
    model(x)
    began, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < TURN:
        model(x)
        calls += 1
    return 1e3 * spent / calls


def measure(name: str, sparsity: float, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for rounds with near cores, and one for rounds with far ones, where there were any."""
    module, x = with_random_groups(name, sparsity)

    def compiled(count: int) -> CompiledModel:
        return fg.compile(module, (x,), threads=count, sparse=sparsity > 0)

    uncached = patch.dict(os.environ, FLEXGROUP_CACHE="off")  # what is patched must not be kept
    with uncached, patch("flexgroup.engine._compiled.find_regions", lambda builder, operations, chains: []):
        without = compiled(threads)
    models = [compiled(threads), without, compiled(threads), compiled(threads), compiled(1)]
    for model, always in zip(models, (True, True, False), strict=False):
        model._program.pace = Pace(always=always)
    times, waits = [], []
    for _ in range(rounds):
        before = barrier_seconds(BARRIERS)
        times.append([turn(model, x) for model in models])
        waits.append(max(before, barrier_seconds(BARRIERS)))
    for model in models:
        model.close()
    is_far, rows = np.array(waits) > FAR, []
    for cores, chosen in (("near", ~is_far), ("far", is_far)):
        if chosen.any():
            figures = np.median(np.array(times)[chosen], axis=0)
            found = {way: round(float(ms), 4) for way, ms in zip(WAYS, figures, strict=True)}
            row: dict[str, Any] = {"network": name, "sparsity": sparsity, "threads": threads, "cores": cores}
            rows.append(row | {"rounds": int(chosen.sum()), "ms": found})
    return rows


def main() -> None:
    options = network_options(__doc__, models="resnet20,mobilenet_v1,resnet50", threads=2, rounds=60)
    torch.set_num_threads(1)
    rows = []
    print(f"{'':24}{'cores':>6}{'rounds':>8}" + "".join(f"{way:>18}" for way in WAYS) + f"{'over the faster':>18}")
    for name in options.models.split(","):
        for row in measure(name, options.sparsity, options.threads, options.rounds):
            ms = row["ms"]
            over = ms["chosen"] / min(ms["all threads"], ms["the caller alone"])
            print(
                f"{name:16}{options.sparsity:>8.0%}{row['cores']:>6}{row['rounds']:>8}"
                + "".join(f"{ms[way]:>18.4f}" for way in WAYS)
                + f"{over:>11.2f}x (1.10)"
            )
            rows.append(row)
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
