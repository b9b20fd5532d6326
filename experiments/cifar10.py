"""Flexible groups on real data: ResNet-20 on CIFAR-10, every group shape aligned, permuted and unaligned.

    python experiments/cifar10.py run --data cifar10:DATA --weights resnet20.safetensors [--workers 2] [--match 95]
    python experiments/cifar10.py measure --weights resnet20.safetensors
    python experiments/cifar10.py report

``run`` trains what is not done yet, the most telling first, and may be stopped and started again at any time: each run
goes on from its last checkpoint. ``measure`` times networks with the patterns of all runs side by side, on a quiet
machine. ``report`` makes the tables, the plots and docs/results.md. Each run is one file in results/cifar10/runs, times
are in results/cifar10/latency.json; weights and checkpoints are in build/cifar10.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer
from _cifar10_runs import Pruned, Run, all_runs
from rich.console import Console

from flexgroup import FlexgroupError

ROOT = Path(__file__).resolve().parents[1]
OUT, WORK = ROOT / "results" / "cifar10", ROOT / "build" / "cifar10"
EPOCHS, DENSE_EPOCHS = 3, 9

DataOption = Annotated[str, typer.Option("--data", help="cifar10:FOLDER.")]
WeightsOption = Annotated[Path, typer.Option("--weights", help="The pretrained ResNet-20, .safetensors.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
WorkOption = Annotated[Path, typer.Option("--work", help="Folder of weights and checkpoints.")]
SeedsOption = Annotated[int, typer.Option("--seeds", help="Seeds at 95 %.")]
MatchOption = Annotated[
    list[str] | None,
    typer.Option("--match", help="Only runs whose name matches this pattern; repeat to set their order."),
]

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console()


def _matching(seeds: int, patterns: list[str] | None) -> list[Run]:
    """The runs that match, in the order of the patterns."""
    chosen: list[Run] = []
    for pattern in patterns or ["*"]:
        runs = [run for run in all_runs(seeds) if fnmatch(run.name, pattern)]
        if not runs:
            raise FlexgroupError(f"--match {pattern!r} matches no run; see: python experiments/cifar10.py list")
        chosen += runs
    return list(dict.fromkeys(chosen))


@app.command("list")
def list_runs(seeds: SeedsOption = 3, match: MatchOption = None, out: OutOption = OUT) -> None:
    """Print the names of all runs, and which are done."""
    for run in _matching(seeds, match):
        done = (out / "runs" / f"{run.name}.json").is_file()
        print(f"{'done' if done else '    '}  {run.name}")


@app.command()
def run(
    data: DataOption,
    weights: WeightsOption,
    workers: Annotated[int, typer.Option("--workers", help="Trainings side by side, one thread each.")] = 2,
    seeds: SeedsOption = 3,
    match: MatchOption = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Of pruning and training.")] = EPOCHS,
    dense_epochs: Annotated[int, typer.Option("--dense-epochs", help="Of small dense networks.")] = DENSE_EPOCHS,
    gradual: Annotated[bool, typer.Option("--gradual/--one-shot", help="Prune while training, or before it.")] = True,
    out: OutOption = OUT,
    work: WorkOption = WORK,
) -> None:
    """Train everything that has no result yet."""
    from _cifar10_networks import check_weights
    from _cifar10_train import read_splits

    check_weights(weights)
    read_splits(data)
    if workers < 1:
        raise FlexgroupError(f"--workers {workers}: give at least 1")
    (out / "runs").mkdir(parents=True, exist_ok=True)
    ending = "" if gradual else "-oneshot"
    waiting = [one for one in _matching(seeds, match) if not (out / "runs" / f"{one.name}{ending}.json").is_file()]
    waiting = [one for one in waiting if gradual or isinstance(one, Pruned)]
    console.print(f"{len(waiting)} runs to do")
    options = ["--data", data, "--weights", str(weights), "--out", str(out), "--work", str(work)]
    options += ["--epochs", str(epochs), "--dense-epochs", str(dense_epochs), "--seeds", str(seeds)]
    options += ["--gradual" if gradual else "--one-shot"]
    running: list[tuple[Run, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt does: the workers end too
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                one = waiting.pop(0)
                command = [sys.executable, str(Path(__file__).resolve()), "one", one.name, *options]
                threads = os.environ | ({"OMP_NUM_THREADS": "1"} if workers > 1 else {})
                running.append((one, subprocess.Popen(command, env=threads)))
            time.sleep(0.5)
            for one, process in list(running):
                if process.poll() is not None:
                    running.remove((one, process))
                    failed += [one.name] if process.returncode else []
    finally:
        for _, process in running:
            process.terminate()
    if failed:
        raise FlexgroupError(
            f"{len(failed)} runs failed, see above: {', '.join(failed)}; start again to go on with them"
        )


@app.command(hidden=True)
def one(
    name: str,
    data: DataOption,
    weights: WeightsOption,
    epochs: Annotated[int, typer.Option()],
    dense_epochs: Annotated[int, typer.Option()],
    seeds: SeedsOption,
    out: OutOption,
    work: WorkOption,
    gradual: Annotated[bool, typer.Option("--gradual/--one-shot")] = True,
) -> None:
    """Train the run of that name; `run` starts this."""
    from _cifar10_train import Recipe, read_splits, train

    chosen = next(run for run in all_runs(seeds) if run.name == name)
    recipe = Recipe(epochs, dense_epochs, gradual)
    train(chosen, recipe, read_splits(data), weights, out / "runs", work, lambda text: print(text, flush=True))


@app.command()
def measure(
    weights: WeightsOption,
    seeds: SeedsOption = 3,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of every network.")] = 20,
    out: OutOption = OUT,
    work: WorkOption = WORK,
) -> None:
    """Time a network with the pattern of each run on one thread, interleaved; leave the machine alone meanwhile."""
    from _cifar10_latency import measure_latency
    from _cifar10_networks import check_weights

    check_weights(weights)
    times = measure_latency(all_runs(seeds), out, work, weights, rounds)
    for name, milliseconds in sorted(times.items(), key=lambda item: item[1]):
        print(f"{milliseconds:7.4f} ms  {name}")


@app.command()
def report(seeds: SeedsOption = 3, out: OutOption = OUT) -> None:
    """Make tables, plots and docs/results.md of the results."""
    from _cifar10_report import write_report

    page = ROOT / "docs" / "results.md" if out == OUT else None
    for path in write_report(out, page, [run.name for run in all_runs(seeds)]):
        print(path)


if __name__ == "__main__":
    try:
        app(standalone_mode=False)
    except FlexgroupError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        sys.exit(2)
