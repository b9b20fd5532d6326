"""The demo's work: one small network, trained, pruned in three patterns at three sparsities, and measured."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flexgroup._errors import FlexgroupError
from flexgroup.cli._demo_measure import (
    ONNXRUNTIME,
    OURS,
    TORCH,
    Candidate,
    compile_and_verify,
    time_all,
)
from flexgroup.cli._output import Progress
from flexgroup.groups import Groups
from flexgroup.report import MaskPicture, Report, Run, engine_label, headline, this_machine, torch_threads

if TYPE_CHECKING:
    from torch import nn

    from flexgroup.zoo import ImageData

FEATURED = "4x1 unaligned rows"
PATTERNS = {
    "4x1 aligned": Groups("4x1"),
    FEATURED: Groups("4x1", unaligned="rows"),
    "fine-grained": Groups("1x1"),
}
CROP = 32
TRAINING_THREADS = 1  # more than one is slower on networks this small, and its sums depend on how many there are


@dataclass(frozen=True)
class DemoSettings:
    """How much work the demo does; ``threads`` is for latencies only. Raises `FlexgroupError` for nonsense."""

    seed: int = 0
    threads: int = 1
    train_epochs: int = 8
    prune_epochs: int = 6
    batch_size: int = 64
    train_lr: float = 0.1
    prune_lr: float = 0.05
    rounds: int = 40
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise FlexgroupError(f"--threads {self.threads} is too small; give at least 1")
        if not 0 <= self.seed < 2**63:
            raise FlexgroupError(f"--seed {self.seed} is not a seed; give a whole number from 0")

    def quick(self) -> DemoSettings:
        """The same in a few seconds: one sparsity, less training, less certain latencies."""
        return replace(self, train_epochs=3, prune_epochs=3, rounds=3, sparsities=(0.9,))


def run_demo(settings: DemoSettings, folder: Path, progress: Progress) -> Report:
    """Train, prune, compile, verify and time; write the networks' weights into ``folder``.

    The same seed gives the same networks on the same machine; only the latencies vary. Raises `FlexgroupError`
    if a compiled network's logits differ from PyTorch's.
    """
    from flexgroup.zoo import load_data, save_weights

    data = load_data("digits")
    with torch_threads(TRAINING_THREADS):
        dense = _train(settings, data, progress)
        pruned = [
            _prune(dense, pattern, sparsity, settings, data, progress)
            for pattern in PATTERNS
            for sparsity in settings.sparsities
        ]
        for candidate in (dense, *pruned):
            save_weights(candidate.network, folder / str(candidate.run.file))
        progress.stage("compiling, and comparing with PyTorch")
        compiled = []
        for candidate in (dense, *pruned):
            compiled.append(compile_and_verify(candidate, data, settings.threads))
            progress.step(len(compiled), 1 + len(pruned))
    progress.stage("timing")
    example = data.test()[0][:1].contiguous()
    runs = time_all(compiled, example, settings.threads, settings.rounds, progress)
    report = Report(
        title="flexgroup demo: handwritten digits",
        model=f"digits_net, a residual network with {_convolution_weights(dense.network):,} convolution weights",
        data=f"scikit-learn's digits, {len(data.train_images):,} training and {len(data.test_images)} test "
        "images of 8x8 pixels",
        test_images=len(data.test_images),
        machine=this_machine(),
        engine=engine_label(OURS, settings.threads),
        baselines=tuple(engine_label(name, settings.threads) for name in (ONNXRUNTIME, TORCH)),
        dense=runs[0],
        runs=runs[1:],
        featured=FEATURED,
        masks=_masks(pruned, settings.sparsities[len(settings.sparsities) // 2]),
        method=_method(settings, runs),
        notes=_notes(settings, runs),
        created=datetime.date.today().isoformat(),
    )
    chosen = headline(report)
    shown = [compiled[0]] + ([compiled[runs.index(chosen.run)]] if chosen else [])
    return replace(report, profiles=tuple(one.profile(example) for one in shown))


def weights_files(settings: DemoSettings) -> frozenset[str]:
    """The names of the weights files that `run_demo` writes."""
    pruned = (_file(pattern, sparsity) for pattern in PATTERNS for sparsity in settings.sparsities)
    return frozenset(("dense.safetensors", *pruned))


def _train(settings: DemoSettings, data: ImageData, progress: Progress) -> Candidate:
    import torch

    from flexgroup.pruning import finetune
    from flexgroup.zoo import digits_net

    progress.stage("training the dense network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = digits_net()
    history = finetune(
        network,
        *data.train(),
        *data.test(),
        epochs=settings.train_epochs,
        batch_size=settings.batch_size,
        lr=settings.train_lr,
        seed=settings.seed,
        on_step=progress.step,
    )
    network.eval()
    progress.line(f"dense: {history.accuracy:.2f} % of the test images right")
    return Candidate(network, Run("dense", 0.0, 0.0, history.accuracy, file="dense.safetensors"))


def _prune(
    dense: Candidate, pattern: str, sparsity: float, settings: DemoSettings, data: ImageData, progress: Progress
) -> Candidate:
    """Prune a copy of the dense network along a cubic schedule, then train on with the pattern frozen."""
    from flexgroup import Cubic, Pruner
    from flexgroup.pruning import finetune, training_steps

    label = f"{pattern}, {100 * sparsity:g} %"
    progress.stage(f"pruning: {label}")
    one_shot, kept = _one_shot(dense.network, PATTERNS[pattern], sparsity, data)
    network = copy.deepcopy(dense.network)
    steps = training_steps(len(data.train_images), settings.batch_size, settings.prune_epochs)
    schedule = Cubic(begin=0, end=max(1, round(0.6 * steps)), every=max(1, steps // 24))
    pruner = Pruner(network, PATTERNS[pattern], sparsity, schedule=schedule)
    history = finetune(
        network,
        *data.train(),
        *data.test(),
        epochs=settings.prune_epochs,
        batch_size=settings.batch_size,
        lr=settings.prune_lr,
        pruner=pruner,
        seed=settings.seed,
        on_step=progress.step,
    )
    pruner.finalize()
    network.eval()
    progress.line(f"{label}: {history.accuracy:.2f} % of the test images right ({one_shot:.2f} % before fine-tuning)")
    run = Run(
        pattern,
        sparsity,
        pruner.sparsity,
        history.accuracy,
        one_shot_accuracy=one_shot,
        magnitude_kept=kept,
        file=_file(pattern, sparsity),
    )
    return Candidate(network, run)


def _one_shot(dense: nn.Module, groups: Groups, sparsity: float, data: ImageData) -> tuple[float, float]:
    """Accuracy in % right after pruning, and the share of the layers' total magnitude that is left."""
    from flexgroup.pruning import accuracy, prune, reestimate_batch_norm, weight_matrices

    network = copy.deepcopy(dense)
    before = sum(float(weight.abs().sum()) for weight in weight_matrices(network).values())
    prune(network, groups, sparsity)
    after = sum(float(weight.abs().sum()) for weight in weight_matrices(network).values())
    reestimate_batch_norm(network, data.train()[0])
    return accuracy(network, *data.test()), after / before


def _masks(pruned: list[Candidate], sparsity: float) -> tuple[MaskPicture, ...]:
    """The same corner of the same layer in every pattern: of the layer nearest to the sparsity asked for."""
    from flexgroup.pruning import weight_matrices

    pictured = {c.run.pattern: weight_matrices(c.network) for c in pruned if c.run.sparsity_asked == sparsity}
    large = {name: weight for name, weight in pictured[FEATURED].items() if min(weight.shape) >= CROP}

    def distance(name: str) -> float:
        return abs(float((large[name][:CROP, :CROP] == 0).float().mean()) - sparsity)

    layer = min(large, key=distance)
    return tuple(
        MaskPicture(
            pattern=pattern,
            layer=layer,
            shape=(matrices[layer].shape[0], matrices[layer].shape[1]),
            group_rows=PATTERNS[pattern].rows,
            first_column=0,
            rows=tuple("".join("#" if w else "." for w in row[:CROP].tolist()) for row in matrices[layer][:CROP]),
        )
        for pattern, matrices in pictured.items()
    )


def _method(settings: DemoSettings, runs: Sequence[Run]) -> tuple[str, ...]:
    timings = [timing for run in runs for timing in run.latency.values()]
    return (
        f"Training: {settings.train_epochs} epochs from scratch with SGD. That network is the start of all others, "
        f"each pruned and fine-tuned for {settings.prune_epochs} epochs by the same schedule: gradually (cubic) "
        "in the first 60 % of the steps, then with the pattern frozen.",
        "Pruned: all convolutions but the first; that one and the classifier stay dense. Weights are chosen by "
        "magnitude, with one budget over the whole network.",
        f"Latency: batch 1, float32, {engine_label('', settings.threads).strip(', ')}, medians of "
        f"{min(timing.calls for timing in timings):,} calls or more in {settings.rounds} rounds, "
        "in which all networks and engines take turns; called from Python, as a user would.",
    )


def _notes(settings: DemoSettings, runs: Sequence[Run]) -> tuple[str, ...]:
    difference = max(run.max_difference or 0.0 for run in runs)
    equal = all(run.accuracy == run.engine_accuracy for run in runs)
    notes = [
        f"Checked: on all test images the compiled networks' logits differ from PyTorch's by at most {difference:.1e}"
        + (", and the accuracies are equal." if equal else "."),
        f"Seed {settings.seed}; the same seed gives the same networks on the same machine.",
    ]
    if len(runs[0].latency) < 3:
        notes.append("ONNX Runtime was not installed; pip install 'flexgroup[bench]' adds it to the comparison.")
    return tuple(notes)


def _convolution_weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.ndim == 4)


def _file(pattern: str, sparsity: float) -> str:
    return f"{pattern.replace(' ', '-')}-{100 * sparsity:g}.safetensors"
