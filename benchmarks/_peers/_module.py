"""The network as a torch module again, for the engines that start from one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _peers._engine import Files

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[2]


def module_of(files: Files) -> torch.nn.Module:
    """The network in evaluation mode; its environment needs torch and safetensors, not flexgroup."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from flexgroup.zoo import build, load_weights

    model = build(_document(files)["network"]).eval()
    load_weights(model, files.case / "weights.safetensors")
    return model


def channels_last(model: torch.nn.Module) -> torch.nn.Module:
    """The same module, its weights laid out as PyTorch's CPU convolutions run fastest."""
    import torch

    convert: Any = model.to
    return convert(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def sparsity_of(files: Files) -> float:
    """The share of zeros in the layers that were pruned."""
    return float(_document(files)["sparsity"])


def rows_of(files: Files) -> int:
    """Of a group of the layers that were pruned."""
    return int(_document(files).get("rows", 4))  # files of earlier versions do not say


def _document(files: Files) -> dict[str, Any]:
    return json.loads((files.case / "case.json").read_text())  # type: ignore[no-any-return]
