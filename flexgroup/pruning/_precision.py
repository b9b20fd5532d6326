"""In which precision a network trains fastest on this machine: measured, because CPUs differ."""

from __future__ import annotations

import copy
import os
import time
from statistics import median

import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._accelerate import PRECISIONS
from flexgroup.pruning._distillation import training_loss
from flexgroup.pruning._distributed import is_sharded

ROUNDS = 3
MARGIN = 1.1  # less gain than this is not worth another precision


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `FlexgroupError` for an unknown precision, and for fp16 where it cannot be."""
    if precision != "auto" and precision not in PRECISIONS:
        raise FlexgroupError(f"precision {precision!r} is not known; use auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise FlexgroupError("precision 'fp16' needs a GPU; on a CPU use bf16, or auto")


def layout(precision: str) -> torch.memory_format:
    """The order of images in memory that goes with a precision."""
    return torch.contiguous_format if precision == "fp32" else torch.channels_last


def faster_precision(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[str, str]:
    """fp32, or bf16 with channels-last where that trains ``images`` at least 1.1 times as fast; and a line of why.

    Some steps of copies are timed, in turns; the model and torch's random state stay as they are. A precision chosen
    for ``accelerate launch`` is taken without measuring, and sharded models stay in fp32.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched in ("bf16", "fp16"):
        return launched, f"precision {launched}, as launched"
    if any(is_sharded(parameter) for parameter in model.parameters()):
        return "fp32", "precision fp32: parameters are sharded"
    device = images.device
    choices = ("fp32", "bf16")
    times: dict[str, list[float]] = {precision: [] for precision in choices}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copies = {precision: _without_hooks(copy.deepcopy(model)) for precision in choices}
        for turn in range(ROUNDS + 1):
            for precision in choices:
                seconds = _step(copies[precision], images, labels, precision)
                if turn:
                    times[precision].append(seconds)
    slow, fast = median(times["fp32"]), median(times["bf16"])
    chosen = "bf16" if slow > MARGIN * fast else "fp32"
    return chosen, f"precision {chosen}: a step takes {1e3 * slow:.3g} ms in fp32, {1e3 * fast:.3g} ms in bf16"


def _step(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> float:
    images = images.contiguous(memory_format=layout(precision))
    _wait(images.device)
    began = time.perf_counter()
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
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
