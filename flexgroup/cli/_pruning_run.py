"""One pruning run: all is checked, then done, and each figure is on disk as soon as it is known."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError
from flexgroup.cli._network import check_classifies, load_network
from flexgroup.cli._output import Progress
from flexgroup.cli._prune_before import find_scores, permute_channels
from flexgroup.cli._prune_config import PruneConfig
from flexgroup.cli._prune_latency import find_budget, latency_record, write_budget
from flexgroup.cli._run_folder import CHECKPOINTS, CONFIG, LATENCY, TRACKED, check_free, run_folder, unfinished

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from flexgroup.pruning import Epoch, Metrics, Pruner
    from flexgroup.zoo import ImageData

REESTIMATE_IMAGES = 5_000  # on CIFAR-10, 2,000 and 30,000 give the same to two digits
POINTS = ("dense", "pruned", "refitted", "reestimated", "finetuned")


def run_prune(
    config: PruneConfig,
    out: Path,
    *,
    force: bool = False,
    resume: bool = False,
    checkpoint_every: int | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    warned: Sequence[str] = (),
) -> dict[str, Any]:
    """Prune and fine-tune as ``config`` says; write the folder ``out``, return what its ``run.json`` says.

    ``resume``: go on with an unfinished run into ``out``; one that is finished is only returned. ``warned`` is a list
    that fills with the warnings of the run. Under ``torchrun`` all processes call this; the first one writes.
    Raises `FlexgroupError` before anything is written if the input is wrong; and if the training diverges, after
    which the partial folder remains.
    """
    import torch

    from flexgroup.pruning import Pruner
    from flexgroup.pruning._accelerate import joined_processes
    from flexgroup.report import torch_threads
    from flexgroup.zoo import load_data, normalisation

    progress = progress or Progress()
    began = time.perf_counter()
    partial = _to_resume(config, out.resolve(), force) if resume else None
    if isinstance(partial, dict):
        progress.line(f"{out} is finished")
        return partial
    out = check_free(out, force)
    device = _device()
    with joined_processes(device), torch_threads(config.threads or torch.get_num_threads()):
        torch.manual_seed(config.seed)
        network = load_network(config.model, None if config.weights is None else Path(config.weights))
        progress.stage(f"reading {config.data}")
        data = load_data(config.data, normalisation(config.model))
        check_classifies(network, config.model, data, config.data)
        data, validation = _split(config, data)
        permuted = permute_channels(config, network, data, progress) if config.permute else None
        progress.stage("planning")
        latency = find_budget(config, network, data.image_shape, partial, is_main=main_process())
        if latency is not None:
            progress.line(f"budget: {latency}")
        network.to(device)
        run = _Run(config, data, validation, copy.deepcopy(network), network, progress)
        progress.stage("choosing groups")
        selecting = time.perf_counter()
        run.pruner = Pruner(
            network,
            config.make_groups(),
            **({"sparsity": config.sparsity, "budget": config.budget} if latency is None else latency.options),
            schedule=config.make_schedule(len(data.train_labels)),
            criterion=find_scores(config, network, data),
            targets=config.targets,
            ignore=config.ignore,
            regrowth=config.regrowth,
            shrink=config.shrink,
        )
        selected = time.perf_counter()
        run.check(checkpoint_every, trackers)
        with _shared_folder(out, force, partial) as folder:
            if latency is not None and main_process():
                write_budget(folder, latency)
            run.measure_all(folder, partial is not None, checkpoint_every, trackers)
            run.pruner.finalize()
            record = run.record(warned)
            record["permuted"] = permuted
            if latency is not None and main_process():
                progress.stage("measuring the latency")
                record["latency"] = latency_record(latency, network)
            done = time.perf_counter()
            record["seconds"] = {"choosing": selected - selecting, "total": done - began}
            if main_process():
                _write(folder, network, config, record)
        if main_process():
            for name in (CONFIG, LATENCY):
                (out / name).unlink(missing_ok=True)
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return record


def main_process() -> bool:
    """Whether this process writes and prints: the only one, or the first of those that were launched together."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class _Run:
    """The networks and the data of a run, and what has been measured of them: accuracies in percent."""

    config: PruneConfig
    data: ImageData
    validation: tuple[Tensor, Tensor] | None
    dense: nn.Module
    network: nn.Module
    progress: Progress
    pruner: Pruner = field(init=False)
    measured: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(POINTS))
    tested: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(POINTS))
    precision: str | None = None
    channels_last: bool | None = None

    def check(self, checkpoint_every: int | None, trackers: Sequence[str]) -> None:
        """Raise `FlexgroupError` for what would stop the training before its first step."""
        from flexgroup.pruning._accelerate import check_installed
        from flexgroup.pruning._finetune import check_checkpoints, check_training

        if self.config.epochs:
            check_installed(trackers, Path(TRACKED))
            check_checkpoints(Path(CHECKPOINTS), checkpoint_every, resume=False)
            check_training(self.network, len(self.data.train_labels), self.config.training(), self.pruner, self.dense)

    def measure_all(self, folder: Path, resumed: bool, checkpoint_every: int | None, trackers: Sequence[str]) -> None:
        """Measure, re-estimate or fine-tune, measure; the test images are read last where there are others."""
        from flexgroup.pruning import Metrics, reestimate_batch_norm, refit
        from flexgroup.zoo import write_atomically

        config, data = self.config, self.data
        with contextlib.ExitStack() as stack:
            metrics = None
            if main_process():
                write_atomically(folder / CONFIG, (json.dumps(asdict(config), indent=2) + "\n").encode())
                resumed = resumed and any((folder / CHECKPOINTS).glob("step-*.json"))
                metrics = stack.enter_context(Metrics(folder / "metrics.jsonl", resume=resumed))
            known = _measured_before(folder / "metrics.jsonl") if resumed and main_process() else {}
            self._measure("dense", self.dense, metrics, known)
            if config.schedule == "oneshot":
                self._measure("pruned", self.network, metrics, known)
            if config.refit:
                self.progress.stage("fitting the kept weights")
                refit(self.network, data.normalise(data.train_images[: config.refit]), self.dense, seed=config.seed)
                self._measure("refitted", self.network, metrics, known)
            if config.reestimate:
                self.progress.stage("measuring batch-norm statistics")
                images = data.normalise(data.train_images[:REESTIMATE_IMAGES])
                reestimate_batch_norm(self.network, images, config.batch_size)
                self._measure("reestimated", self.network, metrics, known)
            if config.epochs:
                self._finetune(folder, metrics, checkpoint_every, trackers)
                self.measured["finetuned"] = self._accuracy(self.network, test=False)
            if self.validation is None:
                self.tested = self.measured
            else:
                self.progress.stage("classifying the test images")
                last = [point for point in POINTS if self.measured[point] is not None][-1]
                for point, model in (("dense", self.dense), (last, self.network)):
                    self.tested[point] = self._accuracy(model, test=True)
                if metrics is not None:
                    metrics.add(event="test", **self.tested)

    def _measure(self, point: str, model: nn.Module, metrics: Metrics | None, known: dict[str, float]) -> None:
        if point in known:
            self.measured[point] = known[point]
            return
        self.progress.stage(f"measuring the accuracy ({point})")
        value = self.measured[point] = self._accuracy(model, test=False)
        if metrics is not None:
            sparsity = 0.0 if model is self.dense else self.pruner.sparsity
            metrics.add(event=point, accuracy=value, sparsity=sparsity)
        self.progress.line(f"{point}: {value:.2f} %")

    def _accuracy(self, model: nn.Module, test: bool) -> float:
        from flexgroup.pruning import accuracy

        images, labels = self._validation(test)
        return accuracy(model, images, labels, normalise=self.data.normalise)

    def _validation(self, test: bool = False) -> tuple[Tensor, Tensor]:
        if test or self.validation is None:
            return self.data.test_images, self.data.test_labels
        return self.validation

    def _finetune(
        self, folder: Path, metrics: Metrics | None, checkpoint_every: int | None, trackers: Sequence[str]
    ) -> None:
        from flexgroup.pruning import crop_and_flip, finetune

        config, data, progress = self.config, self.data, self.progress

        def on_epoch(epoch: Epoch) -> None:
            progress.line(
                f"epoch {epoch.epoch} of {config.epochs}: loss {epoch.loss:.3f}, "
                f"{epoch.validation_accuracy:.2f} %"
                f" at {100 * (epoch.sparsity or 0):.1f} % zeros, {epoch.seconds:.1f} s"
            )

        progress.stage("fine-tuning")
        device = next(self.network.parameters()).device
        history = finetune(
            self.network,
            *(data.train_images.to(device), data.train_labels.to(device)),
            *self._validation(),
            **vars(config.training()),
            teacher=self.dense,
            pruner=self.pruner,
            normalise=data.normalise,
            augment=crop_and_flip if config.data.startswith("cifar10") else None,
            checkpoints=folder / CHECKPOINTS,
            checkpoint_every=checkpoint_every,
            resume=True,
            trackers=trackers,
            tracker_folder=folder / TRACKED,
            on_step=progress.step,
            on_epoch=on_epoch,
            on_message=progress.line,
            metrics=metrics,
        )
        self.precision, self.channels_last = history.precision, history.channels_last

    def record(self, warned: Sequence[str]) -> dict[str, Any]:
        """All that the run found, as JSON."""
        from flexgroup.report import this_machine

        matrices = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        nonzeros = sum(int(matrix.count_nonzero()) for matrix in matrices)
        masks = self.pruner.masks
        return {
            "command": "prune",
            "config": asdict(self.config),
            "machine": asdict(this_machine()),
            "precision": self.precision,
            "channels_last": self.channels_last,
            "accuracy": self.tested,
            "validation": None if self.validation is None else self.measured,
            "sparsity": {
                "asked": self.config.sparsity,
                "targeted": self.pruner.sparsity,
                "all": 1.0 - nonzeros / sum(matrix.numel() for matrix in matrices),
            },
            "layers": [
                {"name": name, "shape": list(mask.shape), "kept": int(mask.sum())} for name, mask in masks.items()
            ],
            "latency": None,
            "warnings": list(warned),
        }


def _to_resume(config: PruneConfig, out: Path, force: bool) -> Path | dict[str, Any]:
    """The folder to go on in, or the record of a run that is finished; raises `FlexgroupError` if there is neither.

    An unfinished run beside a finished one was begun with ``force``, and goes on with it.
    """
    finished, partial = out / "run.json", unfinished(out)
    done = finished.is_file() and not force
    if not done and partial is None:
        raise FlexgroupError(
            f"--resume: there is no unfinished run {out}.partial and none in {out}; leave out --resume to begin one"
        )
    file = finished if done or partial is None else partial / CONFIG
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        config.check_same(file, saved["config"] if done else saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FlexgroupError):
            raise
        raise FlexgroupError(f"--resume: {file} is damaged ({error}); remove its folder and begin anew") from error
    return saved if done or partial is None else partial


def _split(config: PruneConfig, data: ImageData) -> tuple[ImageData, tuple[Tensor, Tensor] | None]:
    """Training data, and the images held out of it for validation, if any."""
    if config.epochs or config.reestimate or config.refit:
        data.check_trains()
    if not config.validation:
        return data, None
    data, images, labels = data.hold_out(config.validation)
    return data, (images, labels)


def _device() -> torch.device:
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


@contextlib.contextmanager
def _shared_folder(out: Path, force: bool, partial: Path | None) -> Iterator[Path]:
    """`run_folder` for all processes; only the first one makes and renames it."""
    from flexgroup.pruning._distributed import text_from_first_rank

    if main_process():
        with run_folder(out, force, partial) as folder:
            text_from_first_rank(str(folder))
            yield folder
    else:
        yield Path(text_from_first_rank(""))


def _measured_before(file: Path) -> dict[str, float]:
    """The accuracies that an interrupted run has written already; its last line may be torn."""
    known = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("event") in POINTS:
                known[str(entry["event"])] = float(entry["accuracy"])
    return known


def _write(folder: Path, network: nn.Module, config: PruneConfig, record: dict[str, Any]) -> None:
    import flexgroup
    from flexgroup.zoo import save_weights, write_atomically

    metadata = {
        "format": "pt",
        "flexgroup": flexgroup.__version__,
        "model": config.model,
        "groups": str(config.make_groups()),
        "sparsity": f"{record['sparsity']['targeted'] if config.sparsity is None else config.sparsity:g}",
    }
    save_weights(network, folder / "model.safetensors", metadata)
    write_atomically(folder / "run.json", (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
