"""One run of the experiment, from the pretrained network to a file of results; killed and started again, it goes on."""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _cifar10_networks import network_of, permute_for
from _cifar10_runs import Dense, Pruned, Run
from torch import Tensor, nn

import flexgroup
from flexgroup.pruning import (
    Cubic,
    OneShot,
    Pruner,
    accuracy,
    crop_and_flip,
    finetune,
    prune,
    reestimate_batch_norm,
    refit,
    training_steps,
    weight_matrices,
)
from flexgroup.report import this_machine
from flexgroup.zoo import ImageData, load_data, load_weights, save_weights, write_atomically

VALIDATION_IMAGES = 5_000  # the last of the training set
STATISTICS_IMAGES = 2_560  # for batch norm
REFIT_IMAGES = 512
SCHEMA = 1


@dataclass(frozen=True)
class Recipe:
    """How every network is trained: the same for all patterns.

    ``gradual``: the pretrained network is pruned along a cubic over ``share`` of the steps, in choices every ``every``
    steps; pruned weights are lost. Else it is pruned at once, before the first step. The dense pretrained network
    teaches all (``distill``). Dense networks start from random weights and train ``dense_epochs``.
    """

    epochs: int
    dense_epochs: int
    gradual: bool = True
    every: int = 40
    share: float = 0.6
    lr: float = 0.05
    batch_size: int = 128
    weight_decay: float = 5e-4
    distill: float = 0.7
    temperature: float = 2.0

    @property
    def name(self) -> str:
        return "gradual, distilled" if self.gradual else "one-shot, distilled"


@dataclass(frozen=True)
class Splits:
    """The data, as uint8 pixels: training without the validation images, validation, and the data set itself."""

    images: Tensor
    labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    data: ImageData

    def normalised(self, count: int) -> Tensor:
        """The first training images, as the network takes them."""
        return self.data.normalise(self.images[:count])


def read_splits(data: str) -> Splits:
    """The last `VALIDATION_IMAGES` of the training set are for validation; the test set is not looked at."""
    loaded = load_data(data)
    cut = len(loaded.train_labels) - VALIDATION_IMAGES
    images, labels = loaded.train_images, loaded.train_labels
    return Splits(images[:cut], labels[:cut], images[cut:], labels[cut:], loaded)


def train(
    run: Run,
    recipe: Recipe,
    splits: Splits,
    weights: Path,
    results: Path,
    work: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train one network; write ``results/NAME.json`` at the end, and keep its weights and checkpoints in ``work/NAME``.

    Returns the record. The test images are classified once, after the last epoch. Raises `FlexgroupError` for what is
    wrong with the input.
    """
    began = time.perf_counter()
    name = run.name if recipe.gradual else f"{run.name}-oneshot"
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    model = network_of(run)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "kind": "dense" if isinstance(run, Dense) else "pruned",
        "network": f"resnet{6 * run.blocks + 2}, width {run.width}" if isinstance(run, Dense) else "resnet20",
        "recipe": "from random weights" if isinstance(run, Dense) else recipe.name,
        "epochs": recipe.dense_epochs if isinstance(run, Dense) else recipe.epochs,
        "seed": run.seed,
        "accuracy": {},
        "training": asdict(recipe),
    }
    pruner, teacher = None, None
    if isinstance(run, Pruned):
        load_weights(model, weights)
        teacher = copy.deepcopy(model).to(_device())
        record |= {"groups": "filter" if run.groups == "1xK" else run.groups, "alignment": run.alignment}
        record |= {"sparsity": run.sparsity, "budget": run.budget}
        permute_for(run, model)
        record |= one_shot(run, model, splits)
        pruner = _pruner(run, recipe, model, splits)
    model = model.to(_device())
    history = finetune(
        model,
        splits.images.to(_device()),
        splits.labels,
        splits.validation_images,
        splits.validation_labels,
        epochs=record["epochs"],
        batch_size=recipe.batch_size,
        lr=recipe.lr if pruner is not None else 2 * recipe.lr,
        weight_decay=recipe.weight_decay,
        precision="auto",
        teacher=teacher,
        distill=recipe.distill if teacher is not None else 0.0,
        temperature=recipe.temperature,
        pruner=pruner,
        seed=run.seed,
        normalise=splits.data.normalise,
        augment=crop_and_flip,
        checkpoints=folder / "checkpoints",
        checkpoint_every=100,
        resume=True,
        on_message=lambda text: say(f"{name}: {text}"),
        on_epoch=lambda epoch: say(f"{name}: epoch {epoch.epoch}, {epoch.validation_accuracy:.2f} %"),
    )
    if pruner is not None:
        pruner.finalize()
        record["measured_sparsity"] = pruner.sparsity
        record["layers"] = {name: int(mask.sum()) for name, mask in pruner.masks.items()}
    record["precision"] = history.precision
    record["curve"] = [round(epoch.validation_accuracy, 2) for epoch in history.epochs]
    data = splits.data
    test = accuracy(model, data.test_images, data.test_labels, normalise=data.normalise)
    record["accuracy"] |= {"validation": history.accuracy, "test": test}
    record["seconds"] = round(sum(epoch.seconds for epoch in history.epochs), 1)
    record["versions"] = {"flexgroup": flexgroup.__version__, "torch": torch.__version__}
    record["versions"] |= {"python": platform.python_version()}
    record["machine"] = asdict(this_machine())
    record["command"] = (
        "python experiments/cifar10.py run --data cifar10:DATA --weights resnet20.safetensors "
        f"--epochs {recipe.epochs} --dense-epochs {recipe.dense_epochs}{'' if recipe.gradual else ' --one-shot'}"
    )
    save_weights(model.cpu(), folder / "model.safetensors", {"format": "pt", "run": name})
    write_atomically(results / f"{name}.json", (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    say(f"{name}: {record['accuracy']['test']:.2f} % of the test images, {time.perf_counter() - began:.0f} s")
    return record


def _pruner(run: Pruned, recipe: Recipe, model: nn.Module, splits: Splits) -> Pruner:
    steps = training_steps(len(splits.labels), recipe.batch_size, recipe.epochs)
    # 2:4 keeps half of every four weights, in no other share: there is nothing gradual about it.
    gradual = recipe.gradual and run.groups != "2:4"
    schedule = Cubic(0, round(recipe.share * steps), recipe.every) if gradual else OneShot()
    return Pruner(model, run.spec, run.sparsity, budget=run.budget, schedule=schedule, regrowth="none")


def one_shot(run: Pruned, model: nn.Module, splits: Splits) -> dict[str, Any]:
    """The pattern without training: validation accuracy as pruned, with batch norm measured again, and re-fitted."""
    pruned = copy.deepcopy(model)
    prune(pruned, run.spec, run.sparsity, budget=run.budget)
    before, after = weight_matrices(model), weight_matrices(pruned)
    kept = sum(float(matrix.abs().sum()) for matrix in after.values())
    validation = splits.data.normalise(splits.validation_images), splits.validation_labels
    result = {"one_shot": accuracy(pruned, *validation)}
    refitted = copy.deepcopy(pruned)
    reestimate_batch_norm(pruned, splits.normalised(STATISTICS_IMAGES))
    result["one_shot_reestimated"] = accuracy(pruned, *validation)
    refit(refitted, splits.normalised(REFIT_IMAGES), model)
    reestimate_batch_norm(refitted, splits.normalised(STATISTICS_IMAGES))
    result["one_shot_refit"] = accuracy(refitted, *validation)
    return {
        "accuracy": result,
        "kept_magnitude": kept / sum(float(matrix.abs().sum()) for matrix in before.values()),
    }


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
