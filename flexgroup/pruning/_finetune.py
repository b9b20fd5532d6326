"""A compact training loop on images in memory, for the command line and the demo."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._evaluate import accuracy, check_images, device_of, full_batches, in_mode
from flexgroup.pruning._pruner import Pruner

Augment = Callable[[Tensor, torch.Generator], Tensor]
WARM_UP = 0.05  # share of the steps over which the learning rate rises


@dataclass(frozen=True)
class Epoch:
    """One epoch: accuracies in percent (in training, over augmented batches), ``seconds`` of training alone.

    ``step`` is the number of steps so far, ``loss`` the epoch's mean, ``lr`` that of its last step;
    ``sparsity`` is None without a pruner.
    """

    epoch: int
    step: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    lr: float
    sparsity: float | None
    seconds: float


@dataclass(frozen=True)
class History:
    """What `finetune` measured, one `Epoch` after the other."""

    epochs: tuple[Epoch, ...]

    @property
    def accuracy(self) -> float:
        """The last validation accuracy, in percent."""
        return self.epochs[-1].validation_accuracy


def finetune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    validation_images: Tensor,
    validation_labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    pruner: Pruner | None = None,
    seed: int = 0,
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
    bf16: bool | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    metrics: Path | None = None,
) -> History:
    """Train ``model`` in place: SGD with Nesterov momentum, a short warm-up, then a cosine down to zero.

    ``images`` (N, C, H, W) are normalised and floating-point, ``labels`` (N,) integers. The model stays on
    its device; batches are moved there. With a ``pruner`` (made on this model) every step is one of its
    steps; it is not finalized here. Without one, the zeros of a pruned model would fill up again. Weight
    decay is for matrices and kernels only, not for biases and batch norms. ``augment(images, generator)``
    changes each batch, `crop_and_flip` for example. ``bf16=True`` runs in bfloat16 autocast and
    channels-last, about twice as fast on CPUs.

    ``on_step(step, steps)`` and ``on_epoch(epoch)`` are called after each. ``metrics`` names a file to which
    each epoch is written, one JSON object a line, as soon as it ends. The same seed gives the same weights on
    the same machine with the same number of threads; torch's global random state is left as it was.

    Raises `FlexgroupError` for data of the wrong shape, a schedule that does not end within the training, and
    a loss that is not finite.
    """
    check_images(images, labels)
    check_images(validation_images, validation_labels)
    steps = training_steps(len(images), batch_size, epochs)
    if pruner is not None and pruner.schedule.last > pruner.steps + steps:
        raise FlexgroupError(
            f"the schedule ends at step {pruner.schedule.last}, but the training ends at step "
            f"{pruner.steps + steps} ({epochs} epochs of {steps // epochs}); "
            f"train longer, or end the schedule earlier"
        )
    device = device_of(model)
    optimizer = _optimizer(model, lr, momentum, weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    generator = torch.Generator().manual_seed(seed)
    records: list[Epoch] = []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        torch.manual_seed(seed)
        stack.enter_context(in_mode(model, training=True))
        log = None if metrics is None else stack.enter_context(metrics.open("w", encoding="utf-8"))
        for epoch in range(1, epochs + 1):
            began = time.perf_counter()
            loss_sum, right, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
            for index in full_batches(torch.randperm(len(images), generator=generator), batch_size):
                batch, truth = images[index], labels[index].to(device)
                batch = (batch if augment is None else augment(batch, generator)).to(device)
                if bf16:
                    batch = batch.contiguous(memory_format=torch.channels_last)
                rate = optimizer.param_groups[0]["lr"]
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(bf16)):
                    logits = model(batch)
                loss = F.cross_entropy(logits.float(), truth, label_smoothing=label_smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
                if pruner is not None:
                    pruner.step()
                loss_sum += loss.detach() * len(index)
                right += (logits.detach().argmax(1) == truth).sum()
                seen += len(index)
                if on_step is not None:
                    on_step(scheduler.last_epoch, steps)
            seconds = time.perf_counter() - began
            mean_loss = float(loss_sum) / seen
            if not math.isfinite(mean_loss):
                raise FlexgroupError(f"the loss became {mean_loss} in epoch {epoch}; use a lower lr than {lr}")
            record = Epoch(
                epoch=epoch,
                step=scheduler.last_epoch,
                loss=mean_loss,
                train_accuracy=100.0 * float(right) / seen,
                validation_accuracy=accuracy(model, validation_images, validation_labels),
                lr=rate,
                sparsity=None if pruner is None else pruner.sparsity,
                seconds=seconds,
            )
            records.append(record)
            if log is not None:
                log.write(json.dumps(asdict(record)) + "\n")
                log.flush()
            if on_epoch is not None:
                on_epoch(record)
    return History(tuple(records))


def training_steps(samples: int, batch_size: int, epochs: int) -> int:
    """Return how many steps `finetune` takes: an epoch leaves out a last batch that is not full."""
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        if not isinstance(value, int) or value < 1:
            raise FlexgroupError(f"{name}={value!r} is not a positive integer")
    return max(1, samples // batch_size) * epochs


def crop_and_flip(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Shift each image by up to ``pad`` pixels, filling with zeros (the mean colour); mirror half of them.

    ``images`` (N, C, H, W); the result has the same shape, in channels-last memory. All randomness comes from
    ``generator`` (on the CPU).
    """
    count, _, height, width = images.shape
    shifts = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = shifts[0] + torch.arange(height)
    cols = shifts[1] + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    picked = padded[torch.arange(count)[:, None, None], rows[:, :, None], cols[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _optimizer(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _rate(step: int, steps: int) -> float:
    """The share of the learning rate at ``step``: a linear rise over 5 % of the steps, then a cosine to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
