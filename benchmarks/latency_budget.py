"""Budgets in time: predicted beside measured latency, and the magnitude kept beside sparsities of the same latency.

    python benchmarks/latency_budget.py --resnet20 resnet20.safetensors --mobilenet mobilenet_v2.safetensors
        [--threads 1] [--rounds 40] [--out results/latency_budget.json]

Every network is pruned in one shot, by magnitude, in unaligned 4x1 groups, to each budget; then all of a network's
results and its dense code are timed in one run, interleaved. The rows beneath a budget have the lowest sparsity of
another kind that is predicted to take as long: one over all layers (global), one for every layer (layer), and costs
without a least share a layer.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import flexgroup
from flexgroup import FlexgroupError, Groups
from flexgroup.kernels import host_target
from flexgroup.pruning import LatencyBudget, latency_budget, prune, weight_matrices
from flexgroup.pruning._latency_network import Network
from flexgroup.pruning._latency_search import largest
from flexgroup.pruning._targets import find_layers
from flexgroup.report import interleaved, this_machine
from flexgroup.zoo import build, input_shape, load_weights

GROUPS = Groups("4x1", unaligned="rows")
BUDGETS: dict[str, tuple[dict[str, float], ...]] = {
    "resnet20": ({"speedup": 2}, {"speedup": 4}, {"speedup": 8}, {"latency": 1e-4}),
    "mobilenet_v2": ({"speedup": 2}, {"speedup": 3}, {"speedup": 4}, {"speedup": 8}, {"latency": 2e-3}),
}
LIMIT = 0.15  # of the measured latency


@dataclass(frozen=True)
class Row:
    """One pruned network; ``refused`` says why there is none. ``zeros`` and ``magnitude`` are of the pruned layers."""

    network: str
    asked: str
    method: str
    refused: str = ""
    budget_ms: float = 0.0
    predicted_ms: float = 0.0
    ms: float = 0.0
    p10_ms: float = 0.0
    p90_ms: float = 0.0
    dense_ms: float = 0.0
    zeros: float = 0.0
    magnitude: float = 0.0

    @property
    def difference(self) -> float:
        """Of the prediction from what was measured, as a share of the latter."""
        return self.predicted_ms / self.ms - 1

    @property
    def quiet_difference(self) -> float:
        """From the 10th percentile of calls, which a busy machine disturbs less; it is what budgets are of."""
        return self.predicted_ms / self.p10_ms - 1

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= LIMIT

    def verdict(self) -> dict[str, float | bool]:
        """What is computed from the rest, for JSON."""
        return {"difference": self.difference, "quiet_difference": self.quiet_difference, "agrees": self.agrees}


@dataclass(frozen=True, eq=False)
class Case:
    """A pruned network that is ready to be timed."""

    row: Row
    call: Callable[[], object]


def pruned_to(model: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """A copy of the model, pruned."""
    pruned = copy.deepcopy(model)
    prune(pruned, GROUPS, **options)
    return pruned


def equally_slow(model: nn.Module, network: Network, budget: LatencyBudget, kind: str) -> dict[str, Any]:
    """The lowest sparsity of another kind that is predicted to meet the same budget."""

    def seconds(share: float) -> float:
        pruned = pruned_to(model, {"sparsity": 1 - share, "budget": kind})
        masks = {name: (matrix != 0).numpy() for name, matrix in weight_matrices(pruned).items()}
        return budget.correction(network.seconds(network.plan(masks)))

    return {"sparsity": 1 - largest(seconds, 1e-3, 1.0, budget.seconds), "budget": kind}


def case(model: nn.Module, network: Network, budget: LatencyBudget, options: Mapping[str, Any], row: Row) -> Case:
    """Prune, compile, and predict."""
    pruned = pruned_to(model, options)
    example = torch.zeros(1, *input_shape(row.network))
    compiled = flexgroup.compile(pruned, (example,), threads=budget.threads)
    before, after = weight_matrices(model), weight_matrices(pruned)
    total = sum(matrix.numel() for matrix in before.values())
    filled = Row(
        row.network,
        row.asked,
        row.method,
        budget_ms=1e3 * budget.seconds,
        predicted_ms=1e3 * budget.correction(network.seconds(compiled.plan)),
        zeros=1 - sum(int(matrix.count_nonzero()) for matrix in after.values()) / total,
        magnitude=sum(float(matrix.abs().sum()) for matrix in after.values())
        / sum(float(matrix.abs().sum()) for matrix in before.values()),
    )
    image = example.numpy()
    return Case(filled, lambda: compiled(image))


def cases(name: str, model: nn.Module, threads: int) -> list[Case | Row]:
    """Everything of one network: a case, or a row that says why a budget was refused."""
    example = (torch.zeros(1, *input_shape(name)),)
    network = Network(model, example, find_layers(model), target=host_target(), threads=threads)
    results: list[Case | Row] = []
    for asked in track(BUDGETS[name], name):
        ((what, number),) = asked.items()
        words = f"{number:g}x" if what == "speedup" else f"{1e3 * number:g} ms"
        try:
            budget = latency_budget(model, example, GROUPS, threads=threads, **asked)
        except FlexgroupError as error:
            results.append(Row(name, words, "time", refused=str(error)))
            continue
        results.append(case(model, network, budget, budget.options, Row(name, words, "time")))
        free = latency_budget(model, example, GROUPS, threads=threads, least=0.0, latency=budget.seconds)
        results.append(case(model, network, free, free.options, Row(name, words, "time, least=0")))
        for kind in ("global", "layer"):
            options = equally_slow(model, network, budget, kind)
            results.append(case(model, network, budget, options, Row(name, words, kind)))
    return results


def timed(name: str, model: nn.Module, threads: int, rounds: int) -> list[Row]:
    """All rows of one network, timed in one run."""
    found = cases(name, model, threads)
    example = torch.zeros(1, *input_shape(name))
    dense = flexgroup.compile(model, (example,), threads=threads, sparse=False)
    image = example.numpy()
    calls = {str(i): each.call for i, each in enumerate(found) if isinstance(each, Case)}
    timings = interleaved(calls | {"dense": lambda: dense(image)}, rounds=rounds)
    rows = []
    for i, each in enumerate(found):
        if isinstance(each, Row):
            rows.append(each)
            continue
        timing = timings[str(i)]
        measured = {"ms": timing.median_ms, "p10_ms": timing.p10_ms, "p90_ms": timing.p90_ms}
        rows.append(Row(**asdict(each.row) | measured | {"dense_ms": timings["dense"].median_ms}))
    return rows


def show(rows: list[Row], threads: int) -> None:
    """The table on the terminal."""
    table = Table(title=f"Budgets in time, {GROUPS}, {threads} thread{'s' if threads > 1 else ''}")
    names = (
        "network",
        "asked",
        "by",
        "zeros",
        "|w| kept",
        "budget ms",
        "predicted",
        "measured",
        "difference",
        "of p10",
        "speed-up",
    )
    for name in names:
        table.add_column(name, justify="left" if name in ("network", "asked", "by") else "right")
    for row in rows:
        if row.refused:
            table.add_row(row.network, row.asked, "refused")
            continue
        times = (f"{row.budget_ms:.4g}", f"{row.predicted_ms:.4g}", f"{row.ms:.4g}")
        agrees = f"{row.difference:+.1%}" + ("" if row.agrees else " > 15 %")
        shares = (f"{row.zeros:.1%}", f"{row.magnitude:.3f}")
        table.add_row(
            row.network,
            row.asked,
            row.method,
            *shares,
            *times,
            agrees,
            f"{row.quiet_difference:+.1%}",
            f"{row.dense_ms / row.ms:.2f}x",
        )
    console = Console(width=130)
    console.print(table)
    for row in rows:
        if row.refused:
            console.print(f"{row.network} {row.asked}: {row.refused}", markup=False, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet20", type=Path, help="its trained weights; left out without")
    parser.add_argument("--mobilenet", type=Path, help="MobileNetV2's trained weights; left out without")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, weights in (("resnet20", options.resnet20), ("mobilenet_v2", options.mobilenet)):
        if weights is not None:
            model = build(name).eval()
            load_weights(model, weights)
            rows += timed(name, model, options.threads, options.rounds)
    show(rows, options.threads)
    if options.out:
        given = {
            "--resnet20 resnet20.safetensors": options.resnet20,
            "--mobilenet mobilenet_v2.safetensors": options.mobilenet,
        }
        words = " ".join([*(words for words, file in given.items() if file), f"--threads {options.threads}"])
        document = {
            "command": f"python benchmarks/latency_budget.py {words} --rounds {options.rounds}",
            "machine": asdict(this_machine()),
            "limit": LIMIT,
            "rows": [asdict(row) | ({} if row.refused else row.verdict()) for row in rows],
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
