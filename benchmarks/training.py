"""What pruning adds to a training step of ResNet-20, and how long reading CIFAR-10 takes: beside their limits.

    python benchmarks/training.py [--data cifar10:FOLDER] [--threads 2] [--rounds 40] [--out results/training.json]

A step is batch (128 images, normalised, shifted and mirrored), forward, backward and SGD. Steps without and with a
pruner (4x1 groups unaligned along rows, 95 %, one budget for the network) take turns; medians are shown, and the median
of the ratios of neighbours. A choice of groups is timed alone and counted once in 50 steps. With one thread, processor
time is counted, which others on the machine disturb less than the clock. Without ``--data`` images are random and
nothing is read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from flexgroup import Cubic, Groups, Pruner
from flexgroup.pruning import crop_and_flip
from flexgroup.pruning._batches import Batches
from flexgroup.pruning._distillation import training_loss
from flexgroup.pruning._precision import CHOICES, Arithmetic
from flexgroup.report import this_machine
from flexgroup.zoo import load_data, resnet20

BATCH = 128
CHOICE_EVERY = 50
LIMITS = {"percent_added": 3.0, "read_seconds": 5.0}


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    call()
    return clock() - began


class Stepper:
    """A network, its optimizer and its images: one training step a call."""

    def __init__(self, images: Tensor, labels: Tensor, normalise: Callable[[Tensor], Tensor], how: Arithmetic) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = resnet20().train()
        self.pruner: Pruner | None = None
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self._batches = Batches(
            images,
            labels,
            torch.device("cpu"),
            seed=0,
            normalise=normalise,
            augment=crop_and_flip,
            memory_format=how.layout,
        )
        self._low = how.precision == "bf16"
        self._order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(BATCH)
        self._done = 0

    def prune(self, every: int) -> None:
        self.pruner = Pruner(
            self.model, Groups("4x1", "rows"), 0.95, schedule=Cubic(begin=0, end=10**9, every=every, initial=0.9)
        )

    def batch(self) -> tuple[Tensor, Tensor]:
        return self._batches.at(self._order[self._done % (len(self._order) - 1)], self._done)

    def __call__(self) -> None:
        self._done += 1
        images, labels = self.batch()
        self._optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._low):
            logits = self.model(images)
        training_loss(logits, labels).backward()
        self._optimizer.step()
        if self.pruner is not None:
            self.pruner.step()


def steps(data: tuple[Tensor, Tensor, Callable[[Tensor], Tensor]], how: Arithmetic, rounds: int) -> dict[str, Any]:
    """Seconds of a step without and with a pruner, of a choice, and of a batch alone."""
    plain, pruned, choosing = (Stepper(*data, how) for _ in range(3))
    pruned.prune(every=10**8)
    choosing.prune(every=1)
    times: dict[str, list[float]] = {"plain": [], "pruned": [], "choice": [], "batch": []}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    choosing()
    for number in range(-2, rounds):
        first, second = ("plain", plain), ("pruned", pruned)
        turn = [first, second] if number % 2 else [second, first]
        measured = {name: seconds(stepper, clock) for name, stepper in turn}
        assert choosing.pruner is not None
        measured["choice"], measured["batch"] = seconds(choosing.pruner.step, clock), seconds(plain.batch, clock)
        if number >= 0:
            for name, value in measured.items():
                times[name].append(value)
    middle = {name: median(values) for name, values in times.items()}
    masked = median(b / a for a, b in zip(times["plain"], times["pruned"], strict=True)) - 1.0
    choice = middle["choice"] / CHOICE_EVERY / middle["plain"]
    return {
        **asdict(how),
        "seconds": middle,
        "images_a_second": BATCH / middle["plain"],
        "images_a_second_pruned": BATCH / (middle["pruned"] + middle["choice"] / CHOICE_EVERY),
        "percent_added_by_masks": 100 * masked,
        "percent_added_by_choices": 100 * choice,
        "percent_added": 100 * (masked + choice),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="cifar10:FOLDER")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reading = None
    if options.data:
        reading = median(seconds(lambda: load_data(options.data)) for _ in range(3))
        read = load_data(options.data)
        data = (read.train_images, read.train_labels, read.normalise)
    else:
        pixels = torch.randint(0, 256, (20 * BATCH, 3, 32, 32), dtype=torch.uint8)
        data = (pixels, torch.arange(len(pixels)) % 10, lambda part: part.float().div_(255).sub_(0.5))
    results = [steps(data, how, options.rounds) for how in CHOICES]
    show(results, reading, options.threads)
    if options.out:
        words = f"python benchmarks/training.py{' --data cifar10:FOLDER' if options.data else ''}"
        document = {
            "machine": asdict(this_machine(("torch", "numpy", "numba"))),
            "command": f"{words} --threads {options.threads} --rounds {options.rounds}",
            "threads": options.threads,
            "clock": "processor time" if options.threads == 1 else "wall time",
            "limits": LIMITS,
            "steps": results,
            "read_seconds": reading,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def show(results: list[dict[str, Any]], reading: float | None, threads: int) -> None:
    table = Table(title=f"A training step of ResNet-20, batch {BATCH}, {threads} thread{'s' if threads > 1 else ''}")
    for column in ("", "images/s", "with pruner", "masks add", "choices add", "together", "limit", "batch"):
        table.add_column(column, justify="right" if column else "left")
    for row in results:
        table.add_row(
            str(Arithmetic(row["precision"], row["channels_last"])),
            f"{row['images_a_second']:.0f}",
            f"{row['images_a_second_pruned']:.0f}",
            f"{row['percent_added_by_masks']:+.2f} %",
            f"{row['percent_added_by_choices']:+.2f} %",
            f"{row['percent_added']:+.2f} %",
            f"{LIMITS['percent_added']:.0f} %",
            f"{1e3 * row['seconds']['batch']:.1f} of {1e3 * row['seconds']['plain']:.0f} ms",
        )
    console = Console(width=130)
    console.print(table)
    if reading is not None:
        console.print(f"Reading the data set: {reading:.2f} s (limit {LIMITS['read_seconds']:.0f} s)")


if __name__ == "__main__":
    main()
