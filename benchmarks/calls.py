"""What a call from Python takes beside the native code.

    python benchmarks/calls.py [--models resnet20,mobilenet_v1] [--sparsity 0.95] [--threads 1] [--rounds 100]

The native code alone, run again and again on the same arrays, and whole calls with a numpy array and with a torch
tensor take turns, round by round. A call checks what it is given and makes an array for the result, and the larger the
network, the more of what Python needs for that has left the caches meanwhile. Medians of all calls; fp32. The limit: a
call with a numpy array takes at most 1.1 times as long as the native code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _command import network_options, write_rows
from _networks import with_random_groups

import flexgroup as fg
from flexgroup.engine._pace import Pace
from flexgroup.engine._workers import address
from flexgroup.report import interleaved

LIMIT = 1.1


def measure(name: str, sparsity: float, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of every way."""
    module, x = with_random_groups(name, sparsity)
    model = fg.compile(module, (x,), threads=threads, sparse=sparsity > 0)
    model._program.pace = Pace(always=True)
    array = x.numpy()
    results = [np.empty((1, *port.shape), np.float32) for port in model.plan.outputs]
    pointers = [address(each) for each in (array, *results)]
    ways = {
        "native code": lambda: model._program.run(pointers, 1),
        "numpy array": lambda: model(array),
        "torch tensor": lambda: model(x),
    }
    timings = interleaved(ways, rounds)
    model.close()
    ms = {way: round(timing.median_ms, 4) for way, timing in timings.items()}
    return {"network": name, "sparsity": sparsity, "threads": threads, "ms": ms}


def main() -> None:
    networks = "resnet20,mobilenet_v1,mobilenet_v2,resnet50"
    options = network_options(__doc__, models=networks, threads=1, rounds=100)
    torch.set_num_threads(1)
    rows = []
    print(f"{'':24}{'native code, ms':>18}{'numpy array':>28}{'torch tensor':>24}")
    for name in options.models.split(","):
        row = measure(name, options.sparsity, options.threads, options.rounds)
        native, *calls = row["ms"].values()
        beside = [f"{1e3 * (ms - native):+.1f} us, {ms / native:.3f}x" for ms in calls]
        print(f"{name:16}{options.sparsity:>8.0%}{native:>18.4f}{beside[0]:>21} ({LIMIT:.2f}){beside[1]:>24}")
        rows.append(row)
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
