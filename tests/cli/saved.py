"""What tests ask of weights that a command saved."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch


def zeros_share(path: Path) -> float:
    """The share of zeros in the convolutions that are pruned."""
    weights = safetensors.torch.load_file(path)
    pruned = [weights[key] for key in weights if weights[key].ndim == 4 and not key.startswith("stem")]
    return sum(int((weight == 0).sum()) for weight in pruned) / sum(weight.numel() for weight in pruned)
