"""The state of a pruner as one file beside a trainer's checkpoint; a checkpoint's weights as plain weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError
from flexgroup.pruning import Pruner
from flexgroup.pruning._training_state import put_pruner, take_pruner
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


def write_pruner(pruner: Pruner, path: Path | None) -> None:
    """Write the pruner's state as safetensors, what is no tensor as JSON in the header; whole or not at all.

    All ranks must call it, because sharded weights are gathered; those without a path write nothing.
    """
    tensors, rest = take_pruner(pruner)
    if path is not None:
        write_atomically(path, safetensors.torch.save(tensors, {"pruner": json.dumps(rest)}))


def load_pruner(pruner: Pruner, path: Path) -> None:
    """Let ``pruner`` go on from where `write_pruner` wrote it; its model already has the weights of that moment.

    Raises `FlexgroupError`, and changes nothing, where the file is missing, damaged or another pruner's, and where
    its pattern is not that of the masks that came with the weights.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            rest = json.loads((file.metadata() or {})["pruner"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is no mapping)
        before = pruner.state_dict()
        put_pruner(pruner, tensors, rest)
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
    masks = pruner.state_dict()["masks"]
    if any(not torch.equal(mask, masks[name]) for name, mask in before["masks"].items()):
        pruner.load_state_dict(before)
        raise FlexgroupError(
            f"{path} is of another pattern than the weights that the trainer loaded; "
            f"name their folder with PruningCallback(..., resume_from=FOLDER)"
        )
