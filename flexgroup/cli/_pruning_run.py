"""One pruning run: all is checked, then done, and each figure is on disk as soon as it is known."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError
from flexgroup.cli._network import check_classifies, load_network
from flexgroup.cli._options import check_at_least
from flexgroup.cli._output import Progress
from flexgroup.cli._run_folder import check_free, run_folder

if TYPE_CHECKING:
    from torch import nn

    from flexgroup.pruning import Epoch, Pruner, Schedule
    from flexgroup.zoo import ImageData

SCHEDULES = ("cubic", "oneshot")
CUBIC_SHARE = 0.6  # of the steps; the rest trains the final pattern
CUBIC_CHOICES = 40
REESTIMATE_IMAGES = 5_000  # on CIFAR-10, 2,000 and 30,000 give the same to two digits


@dataclass(frozen=True)
class PruneConfig:
    """Everything that determines the result of a run; ``threads`` 0 leaves the number to PyTorch.

    Raises `FlexgroupError` for what is wrong whatever the model and the data are.
    """

    model: str
    weights: str | None
    data: str
    groups: str
    unaligned: str | None
    sparsity: float
    budget: str
    criterion: str
    targets: tuple[str, ...] | None
    ignore: tuple[str, ...]
    epochs: int
    schedule: str
    lr: float
    batch_size: int
    bf16: bool
    reestimate: bool
    seed: int
    threads: int

    def __post_init__(self) -> None:
        from flexgroup.groups import Groups

        Groups(self.groups, self.unaligned)
        check_at_least(self.epochs, 0, "--epochs")
        check_at_least(self.batch_size, 1, "--batch-size")
        check_at_least(self.seed, 0, "--seed")
        check_at_least(self.threads, 0, "--threads")
        if not 0 < self.lr < float("inf"):
            raise FlexgroupError(f"--lr {self.lr:g} is not a learning rate; give a number above 0, such as 0.05")
        if self.schedule not in SCHEDULES:
            raise FlexgroupError(f"--schedule {self.schedule!r} is unknown; choose {' or '.join(SCHEDULES)}")
        if self.schedule == "cubic" and not self.epochs:
            raise FlexgroupError("--schedule cubic prunes while it trains; give --epochs 1 or more, or oneshot")


def run_prune(
    config: PruneConfig,
    out: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    warned: Sequence[str] = (),
) -> dict[str, Any]:
    """Prune and fine-tune as ``config`` says; write the folder ``out``, return what its ``run.json`` says.

    ``warned`` is a list that fills with the warnings of the run. Raises `FlexgroupError` before anything is
    written if the input is wrong; and if the training diverges, after which the partial folder remains.
    """
    import torch

    from flexgroup.pruning import Pruner
    from flexgroup.report import torch_threads
    from flexgroup.zoo import load_data

    progress = progress or Progress()
    began = time.perf_counter()
    out = check_free(out, force)
    with torch_threads(config.threads or torch.get_num_threads()):
        torch.manual_seed(config.seed)
        network = load_network(config.model, None if config.weights is None else Path(config.weights))
        progress.stage(f"reading {config.data}")
        data = load_data(config.data)
        check_classifies(network, config.model, data, config.data)
        dense = copy.deepcopy(network)
        progress.stage("choosing groups")
        selecting = time.perf_counter()
        pruner = Pruner(
            network,
            _groups(config),
            config.sparsity,
            budget=config.budget,
            schedule=_schedule(config, len(data.train_labels)),
            criterion=config.criterion,
            targets=config.targets,
            ignore=config.ignore,
        )
        selected = time.perf_counter()
        with run_folder(out, force) as folder, Metrics(folder / "metrics.jsonl") as metrics:
            accuracy = _measure(config, dense, network, pruner, data, metrics, progress)
            pruner.finalize()
            record = _record(config, network, pruner, accuracy, warned)
            done = time.perf_counter()
            record["seconds"] = {"choosing": selected - selecting, "total": done - began}
            _write(folder, network, config, record)
    return record


class Metrics:
    """A file of JSON objects, one a line; each is on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Metrics:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()


def _measure(
    config: PruneConfig,
    dense: nn.Module,
    network: nn.Module,
    pruner: Pruner,
    data: ImageData,
    metrics: Metrics,
    progress: Progress,
) -> dict[str, float | None]:
    """Fine-tune; the test accuracy at each point in percent, None for what was left out."""
    from flexgroup.pruning import accuracy, crop_and_flip, finetune, reestimate_batch_norm

    test_images, test_labels = data.test()
    result: dict[str, float | None] = dict.fromkeys(("dense", "pruned", "reestimated", "finetuned"))

    def measure(key: str, model: nn.Module) -> None:
        progress.stage(f"measuring the accuracy ({key})")
        value = result[key] = accuracy(model, test_images, test_labels)
        metrics.add(key, accuracy=value, sparsity=0.0 if model is dense else pruner.sparsity)
        progress.line(f"{key}: {value:.2f} %")

    measure("dense", dense)
    if config.schedule == "oneshot":
        measure("pruned", network)
    if config.reestimate:
        progress.stage("measuring batch-norm statistics")
        reestimate_batch_norm(network, data.normalise(data.train_images[:REESTIMATE_IMAGES]), config.batch_size)
        measure("reestimated", network)
    if config.epochs:

        def on_epoch(epoch: Epoch) -> None:
            metrics.add("epoch", **asdict(epoch))
            progress.line(
                f"epoch {epoch.epoch} of {config.epochs}: loss {epoch.loss:.3f}, "
                f"{epoch.validation_accuracy:.2f} %"
                f" at {100 * (epoch.sparsity or 0):.1f} % zeros, {epoch.seconds:.1f} s"
            )

        progress.stage("fine-tuning")
        history = finetune(
            network,
            *data.train(),
            test_images,
            test_labels,
            epochs=config.epochs,
            batch_size=config.batch_size,
            lr=config.lr,
            pruner=pruner,
            seed=config.seed,
            augment=crop_and_flip if config.data.startswith("cifar10") else None,
            precision="bf16" if config.bf16 else "fp32",
            on_step=progress.step,
            on_epoch=on_epoch,
        )
        result["finetuned"] = history.accuracy
    return result


def _groups(config: PruneConfig) -> Any:
    from flexgroup.groups import Groups

    return Groups(config.groups, config.unaligned)


def _schedule(config: PruneConfig, images: int) -> Schedule:
    from flexgroup.pruning import Cubic, OneShot, training_steps

    if config.schedule == "oneshot":
        return OneShot()
    end = max(1, round(CUBIC_SHARE * training_steps(images, config.batch_size, config.epochs)))
    return Cubic(begin=0, end=end, every=max(1, end // CUBIC_CHOICES))


def _record(
    config: PruneConfig,
    network: nn.Module,
    pruner: Pruner,
    accuracy: dict[str, float | None],
    warned: Sequence[str],
) -> dict[str, Any]:
    from flexgroup.report import this_machine

    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    nonzeros = sum(int(matrix.count_nonzero()) for matrix in matrices)
    return {
        "command": "prune",
        "config": asdict(config),
        "machine": asdict(this_machine()),
        "accuracy": accuracy,
        "sparsity": {
            "asked": config.sparsity,
            "targeted": pruner.sparsity,
            "all": 1.0 - nonzeros / sum(matrix.numel() for matrix in matrices),
        },
        "layers": [
            {"name": name, "shape": list(mask.shape), "kept": int(mask.sum())} for name, mask in pruner.masks.items()
        ],
        "warnings": list(warned),
    }


def _write(folder: Path, network: nn.Module, config: PruneConfig, record: dict[str, Any]) -> None:
    import flexgroup
    from flexgroup.zoo import save_weights, write_atomically

    metadata = {
        "format": "pt",
        "flexgroup": flexgroup.__version__,
        "model": config.model,
        "groups": str(_groups(config)),
        "sparsity": f"{config.sparsity:g}",
    }
    save_weights(network, folder / "model.safetensors", metadata)
    write_atomically(folder / "run.json", (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
