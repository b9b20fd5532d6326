"""What a training consists of between two steps, as tensors and JSON: taken, and put back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._distributed import rank, ranks, shared_like, whole
from flexgroup.pruning._pruner import Pruner

Tensors = dict[str, Tensor]


def take_model(model: nn.Module) -> Tensors:
    """The model's tensors; collective where they are sharded."""
    return {f"model.{name}": whole(tensor) for name, tensor in model.state_dict().items()}


def check_model(model: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raise `FlexgroupError` if a checkpoint is of another network; nothing is changed."""
    own = {f"model.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("model.")}
    for name in [*own, *saved]:
        if own.get(name) != saved.get(name):
            is_, was = (
                "absent" if shape is None else "x".join(map(str, shape)) or "a scalar"
                for shape in (own.get(name), saved.get(name))
            )
            raise FlexgroupError(
                f"checkpoint {file} is of another network: {name.removeprefix('model.')} is {was} there and "
                f"{is_} in this one; give the same network and pruner, or start anew"
            )


def put_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(shared_like(tensors[f"model.{name}"], tensor))


def take_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, list[dict[str, Any]]]:
    """Its state by the parameters' numbers: tensors, and the rest; collective where parameters are sharded."""
    tensors, rest = Tensors(), []
    state = optimizer.state_dict()["state"]
    for number, _ in enumerate(_parameters(optimizer)):
        values = {}
        for key, value in state.get(number, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = whole(value)
            else:
                values[key] = value
        rest.append(values)
    return tensors, rest


def put_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: list[dict[str, Any]]) -> None:
    """The groups' settings stay as the optimizer was made: they are the run's configuration."""
    state: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(_parameters(optimizer)):
        values: dict[str, Any] = dict(rest[number])
        prefix = f"optimizer.{number}."
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                same = tensor.shape == parameter.shape
                value = torch.empty_like(parameter, dtype=tensor.dtype) if same else torch.empty_like(tensor)
                values[name.removeprefix(prefix)] = value.copy_(shared_like(tensor, value))
        if values:
            state[number] = values
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def take_pruner(pruner: Pruner | None) -> tuple[Tensors, dict[str, Any] | None]:
    """The pruner's state: values that are tensors, or tensors by name, and the rest, which is JSON."""
    if pruner is None:
        return {}, None
    tensors, rest = Tensors(), dict[str, Any]()
    nested: list[str] = []
    for key, value in pruner.state_dict().items():
        if isinstance(value, Tensor):
            tensors[f"pruner.{key}"] = value
        elif isinstance(value, Mapping) and value and all(isinstance(entry, Tensor) for entry in value.values()):
            nested.append(key)
            tensors |= {f"pruner.{key}.{name}": tensor for name, tensor in value.items()}
        else:
            rest[key] = value
    return tensors, {"values": rest, "nested": nested}


def put_pruner(pruner: Pruner, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    state: dict[str, Any] = {**saved["values"], **{key: {} for key in saved["nested"]}}
    for name, tensor in tensors.items():
        if name.startswith("pruner."):
            key, _, entry = name.removeprefix("pruner.").partition(".")
            if key in saved["nested"]:
                state[key][entry] = tensor
            else:
                state[key] = tensor
    pruner.load_state_dict(state)


def take_random(device: torch.device) -> Tensors:
    """The states of torch's generators in every process; collective."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    everywhere: list[dict[str, Tensor] | None] = [None] * ranks()
    if ranks() > 1:
        dist.all_gather_object(everywhere, states)
    else:
        everywhere = [states]
    return {
        f"random.{number}.{kind}": state for number, one in enumerate(everywhere) for kind, state in (one or {}).items()
    }


def put_random(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors[f"random.{rank()}.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"random.{rank()}.cuda"], device)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
