"""Latency of a pruned ResNet-20 beside ONNX Runtime and PyTorch: one run, interleaved, batch 1, fp32.

    python benchmarks/resnet20.py --weights resnet20.safetensors [--threads 1] [--rounds 40] [--out results/x.json]

The network is pruned by magnitude, without fine-tuning: latency does not depend on the weights' values, but on how many
are left in which layer. `global` budgets leave more weights in the first layers, whose images are largest; `layer`
budgets leave the same share everywhere. Peers run the dense network: they have no use for the zeros.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import flexgroup
from flexgroup import Groups
from flexgroup.pruning import prune
from flexgroup.report import interleaved, onnxruntime_session, this_machine, torch_session
from flexgroup.zoo import build, load_weights

PATTERNS = {
    "fine-grained": Groups("1x1"),
    "4x1 aligned": Groups("4x1"),
    "4x1 unaligned rows": Groups("4x1", unaligned="rows"),
}
SPARSITIES = (0.8, 0.9, 0.95)
BUDGETS = ("global", "layer")


@dataclass(frozen=True)
class Row:
    """One network in one engine; ``mmacs`` are the multiply-adds (millions) that it executes."""

    engine: str
    pattern: str
    budget: str
    sparsity: float
    ms: float
    p10_ms: float
    p90_ms: float
    mmacs: float


def networks(
    weights: Path | None, threads: int
) -> dict[tuple[str, str, str, float], tuple[Callable[[], object], float]]:
    """Everything to be timed: (engine, pattern, budget, sparsity) to (call, MMACs)."""
    torch.manual_seed(0)
    dense = build("resnet20").eval()
    if weights is not None:
        load_weights(dense, weights)
    x = torch.randn(1, 3, 32, 32)
    image = x.numpy()
    calls: dict[tuple[str, str, str, float], tuple[Callable[[], object], float]] = {}
    state = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    for budget in BUDGETS:
        for sparsity in SPARSITIES:
            for pattern, groups in PATTERNS.items():
                model = build("resnet20").eval()
                model.load_state_dict(state)
                prune(model, groups, sparsity, budget=budget)
                fast = flexgroup.compile(model, (x,), threads=threads)
                macs = sum(layer.macs for layer in fast.explain().layers) / 1e6
                calls["flexgroup", pattern, budget, sparsity] = (lambda fast=fast: fast(image)), macs
    ours = flexgroup.compile(dense, (x,), threads=threads, sparse=False)
    macs = sum(layer.macs for layer in ours.explain().layers) / 1e6
    calls["flexgroup", "dense", "", 0.0] = (lambda: ours(image)), macs
    onnx = onnxruntime_session(dense, x, threads)
    calls["onnxruntime", "dense", "", 0.0] = (lambda: onnx(image)), macs
    eager = torch_session(dense)
    calls["torch", "dense", "", 0.0] = (lambda: eager(x)), macs
    return calls


def show(rows: list[Row], threads: int) -> None:
    """The table on the terminal, and the ratio that the papers are about."""
    peer = next(row.ms for row in rows if row.engine == "onnxruntime")
    table = Table(title=f"ResNet-20, 1x3x32x32, fp32, {threads} thread{'s' if threads > 1 else ''}")
    for column in ("engine", "pattern", "budget", "zeros", "MMACs", "ms", "against ONNX Runtime"):
        table.add_column(column, justify="left" if column in ("engine", "pattern", "budget") else "right")
    for row in rows:
        cells = (row.engine, row.pattern, row.budget, f"{row.sparsity:.0%}", f"{row.mmacs:.2f}", f"{row.ms:.4f}")
        table.add_row(*cells, f"{peer / row.ms:.2f}x")
    console = Console()
    console.print(table)
    found = {(row.pattern, row.budget, row.sparsity): row for row in rows}
    for budget in BUDGETS:
        for sparsity in SPARSITIES:
            unaligned, aligned = found["4x1 unaligned rows", budget, sparsity], found["4x1 aligned", budget, sparsity]
            console.print(
                f"{budget} {sparsity:.0%}: unaligned takes {unaligned.ms / aligned.ms:.3f} of aligned's time"
                f" at {unaligned.mmacs / aligned.mmacs:.3f} of its multiply-adds"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="pretrained weights; random ones without")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    calls = networks(options.weights, options.threads)
    with Progress() as progress:
        task = progress.add_task("measuring", total=options.rounds)
        timings = interleaved(
            {"|".join(map(str, key)): call for key, (call, _) in calls.items()},
            rounds=options.rounds,
            progress=lambda _: progress.advance(task),
        )
    rows = [
        Row(*key, timing.median_ms, timing.p10_ms, timing.p90_ms, macs)
        for (key, (_, macs)), timing in zip(calls.items(), timings.values(), strict=True)
    ]
    show(rows, options.threads)
    if options.out:
        document = {
            "command": f"python benchmarks/resnet20.py --threads {options.threads} --rounds {options.rounds}"
            + (" --weights resnet20.safetensors" if options.weights else ""),
            "machine": asdict(this_machine()),
            "rows": [asdict(row) for row in rows],
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
