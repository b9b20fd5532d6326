"""Standard augmentation of images, on whole batches of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""``augment(images, generator) -> images``: (N, C, H, W), normalised; all randomness comes from the generator (CPU)."""


def crop_and_flip(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Shift each image by up to ``pad`` pixels, filling with zeros (the mean colour); mirror half of them.

    ``images`` (N, C, H, W) on any device; the result has the same shape, in channels-last memory. All randomness comes
    from ``generator`` (on the CPU).
    """
    count, _, height, width = images.shape
    shifts = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = shifts[0] + torch.arange(height)
    cols = shifts[1] + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    rows, cols, which = rows.to(images.device), cols.to(images.device), torch.arange(count, device=images.device)
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    picked = padded[which[:, None, None], rows[:, :, None], cols[:, None, :]]
    return picked.permute(0, 3, 1, 2)
