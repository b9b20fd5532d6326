"""The state of a pruner as one file beside a trainer's checkpoint; a checkpoint's weights as plain weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError
from flexgroup.zoo import write_atomically

_ORIGINAL, _KEPT = ".parametrizations.weight.original", ".parametrizations.weight.0.kept"


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``state_dict`` of a model that is being pruned, as that of the plain model, pruned weights 0.

    Checkpoints that a trainer writes during training hold a pruned layer's dense weight and its mask. A state
    without masks comes back as it is. Tensors that do not change are not copied.
    """
    plain = {}
    for key, tensor in state.items():
        layer = key.removesuffix(_ORIGINAL)
        if key.endswith(_KEPT) and key.removesuffix(_KEPT) + _ORIGINAL in state:
            continue
        if layer != key and layer + _KEPT in state:
            plain[f"{layer}.weight"] = torch.where(state[layer + _KEPT], tensor, 0.0)
        else:
            plain[key] = tensor
    return plain


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write `Pruner.state_dict` as safetensors, what is no tensor as JSON in the header; whole or not at all.

    Every value is a tensor, a dict of tensors by layer name, or JSON.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[name] = value.contiguous()
        elif isinstance(value, Mapping) and value and all(isinstance(entry, Tensor) for entry in value.values()):
            tensors |= {f"{name}/{layer}": tensor.contiguous() for layer, tensor in value.items()}
        else:
            values[name] = value
    write_atomically(path, safetensors.torch.save(tensors, {"values": json.dumps(values)}))


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; raises `FlexgroupError` where the file is missing, damaged or another's."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            state: dict[str, Any] = json.loads((file.metadata() or {})["values"])
            for key in file.keys():  # noqa: SIM118 (the file is no mapping)
                name, slash, layer = key.partition("/")
                tensor = file.get_tensor(key)
                if slash:
                    state.setdefault(name, {})[layer] = tensor
                else:
                    state[name] = tensor
            return state
    except FileNotFoundError as error:
        raise FlexgroupError(
            f"the pruner's state {path} is missing, so the checkpoint cannot be resumed; "
            f"name the folder it lies in with PruningCallback(..., resume_from=FOLDER), or resume from an earlier one"
        ) from error
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise FlexgroupError(
            f"the pruner's state {path} is damaged or not a pruner's ({str(error).splitlines()[0]}); "
            f"resume from an earlier checkpoint"
        ) from error
