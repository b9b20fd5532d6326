"""Going back to the weights of an earlier step: what is kept of a model, and putting it back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._distributed import whole
from flexgroup.pruning._regrowth import like


@torch.no_grad()
def remember(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters, whole where they are sharded, and of floating-point buffers, by name."""
    return {name: whole(value).detach().clone() for name, value in _values(model).items()}


@torch.no_grad()
def restore(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put remembered values back, in place. Raises `FlexgroupError`, and changes nothing, for another model's."""
    targets = _values(model)
    check_remembered(model, values)
    for name, target in targets.items():
        target.copy_(like(values[name].to(target.device), target))


def check_remembered(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Raise `FlexgroupError` unless ``values`` are of this model's names and shapes."""
    targets = _values(model)
    odd = sorted(set(values).symmetric_difference(targets))
    odd += [name for name in targets if name in values and values[name].shape != targets[name].shape]
    if odd:
        raise FlexgroupError(f"the weights to rewind to are of another model: {odd[0]!r} differs; give the same model")


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers such as running means; masks and counters are not floating-point."""
    buffers = {name: value for name, value in model.named_buffers() if value.is_floating_point()}
    return {**dict(model.named_parameters()), **buffers}
