"""The loss of a training step: cross entropy, and what the dense network says beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError


def training_loss(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    taught: Tensor | None = None,
    distill: float = 0.0,
    temperature: float = 4.0,
) -> Tensor:
    """The mean loss of (N, classes) ``logits``; ``labels`` (N,); ``taught`` are the dense network's logits.

    ``(1 - distill) * cross_entropy + distill * T**2 * KL(softmax(taught / T) || softmax(logits / T))``: Hinton, Vinyals
    and Dean, "Distilling the Knowledge in a Neural Network" (2015, arXiv 1503.02531), whose T**2 keeps the
    gradients' size when T changes.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if taught is None:
        return loss
    own, wanted = F.log_softmax(logits / temperature, 1), F.log_softmax(taught.float() / temperature, 1)
    divergence = F.kl_div(own, wanted, reduction="batchmean", log_target=True)
    return (1.0 - distill) * loss + distill * temperature**2 * divergence


def check_teacher(teacher: nn.Module | None, distill: float, temperature: float, device: torch.device) -> None:
    """Raise `FlexgroupError` unless there is a teacher where distillation is asked for, on the model's device."""
    if not 0.0 <= distill <= 1.0:
        raise FlexgroupError(f"distill={distill!r} is not a share of the loss, 0 to 1")
    if not 0.0 < temperature < float("inf"):
        raise FlexgroupError(f"temperature={temperature!r} is not a number above 0; 4 is usual")
    if distill and teacher is None:
        raise FlexgroupError(f"distill={distill:g} without a teacher; give teacher=, a copy of the dense network")
    if teacher is None:
        return
    where = next((parameter.device for parameter in teacher.parameters()), device)
    if where != device:
        raise FlexgroupError(f"the teacher is on {where}, the model on {device}; move the teacher there")
