"""A training in progress: its steps, epochs and checkpoints."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._accelerate import distribute
from flexgroup.pruning._batches import Batches, Normalise, orders, shares
from flexgroup.pruning._checkpoints import Checkpoint, write_checkpoint
from flexgroup.pruning._distillation import training_loss
from flexgroup.pruning._distributed import is_sharded, mean_over_ranks, rank, ranks, sum_over_ranks
from flexgroup.pruning._evaluate import count_right, device_of, full_batches, in_mode
from flexgroup.pruning._metrics import Epoch, Metrics
from flexgroup.pruning._precision import Arithmetic
from flexgroup.pruning._pruner import Pruner
from flexgroup.pruning._rates import find_rate, rewound_places
from flexgroup.pruning._settings import Settings, check_same, settings_record
from flexgroup.pruning._training_state import (
    check_model,
    put_model,
    put_optimizer,
    put_pruner,
    put_random,
    take_model,
    take_optimizer,
    take_pruner,
    take_random,
)


class Training:
    """What changes from step to step, and how; everything that decides it is in ``settings`` and the data.

    Between two steps, all of it is: the model, the optimizer, the pruner, torch's generators, and the fields below.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        settings: Settings,
        accelerator: Any,
        optimizer: torch.optim.Optimizer,
        pruner: Pruner | None,
        batches: Batches,
        steps: int,
        arithmetic: Arithmetic,
        teacher: nn.Module | None = None,
    ) -> None:
        _, self._part = shares(len(images), settings.batch_size, settings.accumulate, ranks())
        self._model, self._pruner, self._teacher = model, pruner, teacher
        self._settings, self._arithmetic = settings, arithmetic
        self._record = settings_record(settings, labels, images, ranks(), _describe(pruner))
        self._batches, self._samples, self.steps = batches, len(images), steps
        self._accelerator = accelerator
        self._running = distribute(accelerator, model)
        self._plain = optimizer
        self._optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._device = device_of(model)
        self._metrics: Metrics | None = None
        self.step = 0
        self.epoch = 0
        self.batch = 0  # of the epoch, the next one
        self.skipped = 0  # steps that fp16 left out
        self.records: list[Epoch] = []
        self._seconds = 0.0
        self._forget_totals()

    def run(
        self,
        validation: tuple[Tensor, Tensor, Normalise | None],
        *,
        checkpoints: Path | None,
        checkpoint_every: int | None,
        metrics: Metrics | None,
        on_step: Callable[[int, int], None] | None,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> None:
        """Train to the end, from wherever it is."""
        self._rate = self._rates()
        self._metrics = metrics
        permutations = orders(self._samples, self._settings.seed, self.epoch)
        while self.epoch < self._settings.epochs:
            indices = full_batches(next(permutations), self._settings.batch_size)
            while self.batch < len(indices):
                self._one_step(indices[self.batch])
                if on_step is not None:
                    on_step(self.step, self.steps)
                due = checkpoint_every is not None and self.step % checkpoint_every == 0
                if due and checkpoints is not None and self.batch < len(indices):
                    self._save(checkpoints)
            record = self._end_epoch(validation)
            if metrics is not None:
                metrics.add_epoch(record)
            self._accelerator.log(_numbers(record), step=record.step)
            if on_epoch is not None:
                on_epoch(record)
            if checkpoints is not None:
                self._save(checkpoints)
        if self._pruner is not None and self._pruner.steps < self._pruner.schedule.last:
            raise FlexgroupError(
                f"fp16 left out {self.skipped} steps, so that the schedule, which ends at step "
                f"{self._pruner.schedule.last}, did not; end it {self.skipped} steps earlier, or use bf16"
            )

    def _rates(self) -> Callable[[], float]:
        """The share of the highest learning rate that the next step has; what was rewound goes by the pruner's steps.

        Steps that fp16 left out are none of the pruner's, which rewinds when it chooses.
        """
        settings = self._settings
        places = rewound_places(self._pruner, self.step - self.skipped, self.steps, settings.rewind_lr)
        steps = self.steps if places is None else max(places) + 1
        falling = find_rate(settings.lr_schedule, steps, settings.lr_options, settings.warm_up)
        if places is None:
            return lambda: falling(self.step)
        return lambda: falling(places[self.step - self.skipped])

    def _one_step(self, indices: Tensor) -> None:
        began = time.perf_counter()
        for group, peak in zip(self._plain.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self._rate()
        images, labels = self._batches.at(indices, self.step)
        self._optimizer.zero_grad()
        for batch, truth in zip(torch.split(images, self._part), torch.split(labels, self._part), strict=True):
            with self._accelerator.accumulate(self._running):
                with self._accelerator.autocast():
                    logits = self._running(batch)
                loss = self._loss(logits, batch, truth)
                self._accelerator.backward(loss)
            self._loss_sum += loss.detach() * len(truth)
            self._right += (logits.detach().argmax(1) == truth).sum()
        if self._settings.clip is not None:
            self._accelerator.clip_grad_norm_(self._model.parameters(), self._settings.clip)
        self._optimizer.step()
        if self._optimizer.step_was_skipped:
            self.skipped += 1
        elif self._pruner is not None:
            self._pruner.step()
        self._seen += len(indices)
        self.step += 1
        self.batch += 1
        self._seconds += time.perf_counter() - began

    def _loss(self, logits: Tensor, batch: Tensor, truth: Tensor) -> Tensor:
        taught = None
        if self._teacher is not None:
            with in_mode(self._teacher, training=False), torch.no_grad(), self._accelerator.autocast():
                taught = self._teacher(batch)
        settings = self._settings
        return training_loss(logits, truth, settings.label_smoothing, taught, settings.distill, settings.temperature)

    def _end_epoch(self, validation: tuple[Tensor, Tensor, Normalise | None]) -> Epoch:
        self._check_finite()
        self._agree()
        record = Epoch(
            epoch=self.epoch + 1,
            step=self.step,
            loss=float(sum_over_ranks(self._loss_sum)) / self._seen,
            train_accuracy=100.0 * float(sum_over_ranks(self._right)) / self._seen,
            validation_accuracy=self._validate(*validation),
            lr=float(self._plain.param_groups[0]["lr"]),
            sparsity=None if self._pruner is None else self._pruner.sparsity,
            seconds=self._seconds,
        )
        self.records.append(record)
        self.epoch, self.batch, self._seconds = self.epoch + 1, 0, 0.0
        self._forget_totals()
        return record

    def _validate(self, images: Tensor, labels: Tensor, normalise: Normalise | None) -> float:
        # a sharded model runs in all processes at once, so each must see as many batches
        share = slice(None) if any(is_sharded(p) for p in self._model.parameters()) else slice(rank(), None, ranks())
        right = count_right(self._model, images[share], labels[share], normalise=normalise)
        total = right if share == slice(None) else int(sum_over_ranks(torch.tensor(right, device=self._device)))
        return 100.0 * total / len(images)

    def _agree(self) -> None:
        """Batch norms saw other images in each process: all go on with the mean of their statistics."""
        if ranks() > 1:
            for buffer in self._model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(mean_over_ranks(buffer))

    def _forget_totals(self) -> None:
        self._loss_sum = torch.zeros((), device=self._device)
        self._right = torch.zeros((), device=self._device)
        self._seen = 0

    def _check_finite(self) -> None:
        mean = float(sum_over_ranks(self._loss_sum)) / self._seen
        if not math.isfinite(mean):
            raise FlexgroupError(
                f"the loss became {mean} in epoch {self.epoch + 1}; use a lower lr than {self._settings.lr:g}"
            )

    def _save(self, folder: Path) -> None:
        """Write a checkpoint; every process gives its part, the first one writes."""
        if self._seen:
            self._check_finite()
        moving, rest = take_optimizer(self._plain)
        pattern, pruner = take_pruner(self._pruner)
        totals = {"totals.loss": sum_over_ranks(self._loss_sum), "totals.right": sum_over_ranks(self._right)}
        tensors = {**take_model(self._model), **moving, **pattern, **take_random(self._device), **totals}
        if rank() != 0:
            return
        if self._metrics is not None:
            self._metrics.sync()
        state = {
            "run": self._record,
            **asdict(self._arithmetic),  # as it was measured, for all that follows
            "epoch": self.epoch,
            "batch": self.batch,
            "seen": self._seen,
            "seconds": self._seconds,
            "skipped": self.skipped,
            "records": [asdict(record) for record in self.records],
            "metrics_bytes": 0 if self._metrics is None else self._metrics.size,
            "optimizer": rest,
            "scaler": None if self._accelerator.scaler is None else self._accelerator.scaler.state_dict(),
            "pruner": pruner,
        }
        write_checkpoint(folder, self.step, tensors, state)

    def load(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint; raises `FlexgroupError`, and changes nothing, if it is of another training."""
        check_same(saved.state["run"], self._record, saved.file)
        check_model(self._model, saved.tensors, saved.file)
        state = saved.state
        if self._pruner is not None:
            put_pruner(self._pruner, saved.tensors, state["pruner"])
        put_model(self._model, saved.tensors)
        put_optimizer(self._plain, saved.tensors, state["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        put_random(saved.tensors, self._device)
        self.step, self.epoch, self.batch = saved.step, state["epoch"], state["batch"]
        self.skipped, self._seen, self._seconds = state["skipped"], state["seen"], state["seconds"]
        self.records = [Epoch(**record) for record in state["records"]]
        if rank() == 0:  # totals are of all processes
            self._loss_sum = saved.tensors["totals.loss"].to(self._device)
            self._right = saved.tensors["totals.right"].to(self._device)

    def start_trackers(self, names: Sequence[str]) -> None:
        """Trackers forget what they were told after the checkpoint, where they can."""
        resumed = {"tensorboard": {"purge_step": self.step + 1}} if self.step and "tensorboard" in names else {}
        config = {
            name: value if isinstance(value, (int, float, str)) else str(value) for name, value in self._record.items()
        }
        self._accelerator.init_trackers("flexgroup", config=config, init_kwargs=resumed)


def _describe(pruner: Pruner | None) -> str | None:
    if pruner is None:
        return None
    schedule = re.sub(r" at 0x[0-9a-f]+", "", repr(pruner.schedule))
    return f"{pruner.groups}, {pruner.budget}, {pruner.final_sparsity:g}, {schedule}"


def _numbers(record: Epoch) -> dict[str, float]:
    return {name: value for name, value in asdict(record).items() if value is not None}
