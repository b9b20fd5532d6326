"""In which precision and layout a network trains fastest on this machine: measured, because CPUs differ."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._accelerate import PRECISIONS
from flexgroup.pruning._distillation import training_loss
from flexgroup.pruning._distributed import is_sharded

ROUNDS = 3
MARGIN = 1.1  # less gain than this is not worth another precision or layout
HOPELESS = 4.0  # what takes so many times as long as another choice, the first time, is not timed again


@dataclass(frozen=True)
class Arithmetic:
    """How a network computes in training: the precision, and the order of images in memory."""

    precision: str
    channels_last: bool

    @property
    def layout(self) -> torch.memory_format:
        """The order of images in memory."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        return self.precision + (" channels-last" if self.channels_last else "")


CHOICES = (Arithmetic("fp32", False), Arithmetic("fp32", True), Arithmetic("bf16", True))  # the first is the plain one


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `FlexgroupError` for an unknown precision, and for fp16 where it cannot be."""
    if precision != "auto" and precision not in PRECISIONS:
        raise FlexgroupError(f"precision {precision!r} is not known; use auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise FlexgroupError("precision 'fp16' needs a GPU; on a CPU use bf16, or auto")


def arithmetic(precision: str, channels_last: bool | None = None) -> Arithmetic:
    """That precision; images in planes in fp32 and channels-last otherwise, unless ``channels_last`` says it."""
    return Arithmetic(precision, precision != "fp32" if channels_last is None else channels_last)


def faster_arithmetic(
    model: nn.Module, images: Tensor, labels: Tensor, channels_last: bool | None = None
) -> tuple[Arithmetic, str]:
    """The fastest of `CHOICES` with that layout, if it trains ``images`` at least 1.1 times as fast as the first; why.

    Some steps of copies are timed, in turns; the model and torch's random state stay as they are. A precision chosen
    for ``accelerate launch`` is taken without measuring, and sharded models stay in fp32.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched in ("bf16", "fp16"):
        return arithmetic(launched, channels_last), f"precision {launched}, as launched"
    if any(is_sharded(parameter) for parameter in model.parameters()):
        return arithmetic("fp32", channels_last), "precision fp32: parameters are sharded"
    choices = [choice for choice in CHOICES if channels_last in (None, choice.channels_last)]
    if channels_last is False:
        choices.append(Arithmetic("bf16", False))
    times = {choice: median(taken) for choice, taken in _times(model, images, labels, choices).items()}
    best = min(choices, key=times.__getitem__)
    chosen = best if times[choices[0]] > MARGIN * times[best] else choices[0]
    told = ", ".join(f"{1e3 * times[choice]:.1f} ms in {choice}" for choice in choices)
    return chosen, f"precision {chosen}: a step takes {told}"


def _times(
    model: nn.Module, images: Tensor, labels: Tensor, choices: list[Arithmetic]
) -> dict[Arithmetic, list[float]]:
    """Seconds of some steps of each choice; of one, the first, where that is hopeless."""
    device = images.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copies = {choice: _without_hooks(copy.deepcopy(model)) for choice in choices}
        if device.type == "cuda":  # the first steps find algorithms and load kernels
            for choice in choices:
                _step(copies[choice], images, labels, choice)
        warm = {choice: _step(copies[choice], images, labels, choice) for choice in choices}
        worst = HOPELESS * min(warm.values())
        hopeless = {choice: [seconds] for choice, seconds in warm.items() if seconds > worst and choice != choices[0]}
        times: dict[Arithmetic, list[float]] = {choice: [] for choice in choices if choice not in hopeless}
        for _ in range(ROUNDS):
            for choice, taken in times.items():
                taken.append(_step(copies[choice], images, labels, choice))
    return times | hopeless


def _step(model: nn.Module, images: Tensor, labels: Tensor, choice: Arithmetic) -> float:
    images = images.contiguous(memory_format=choice.layout)
    _wait(images.device)
    began = time.perf_counter()
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=choice.precision == "bf16"):
        logits = model(images)
    training_loss(logits, labels).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    _wait(images.device)
    return time.perf_counter() - began


def _without_hooks(model: nn.Module) -> nn.Module:
    """Hooks of the original would see the copy's images."""
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return model


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
