"""The parametrization ``weight = original where kept, else 0``; how it is put on and taken off a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flexgroup._errors import FlexgroupError


class Mask(nn.Module):
    """Zero the pruned weights; the dense original stays behind, so that they may come back.

    A pruned weight gets no gradient, and whatever an optimizer's momentum or weight decay does to its dense
    original stays unseen. ``where`` rather than a product: it never gives -0.0, and a NaN under the mask
    stays there. While ``straight_through`` is set, a pruned weight gets the gradient that it would have unmasked
    at zero (Bengio et al. 2013, arXiv 1308.3432).
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)
        self.straight_through = False

    def forward(self, weight: Tensor) -> Tensor:
        if self.straight_through:
            # Exactly zero in value, and one in derivative.
            return torch.where(self.kept, weight, weight - weight.detach())
        return torch.where(self.kept, weight, 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning to the layer's weight sets the dense original."""
        return weight


def attach(module: nn.Module, mask: Tensor) -> Mask:
    """Parametrize ``module.weight`` by a bool (M, K) mask. The Parameter itself lives on as the original."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    parametrization = Mask(mask.to(weight.device).reshape(weight.shape))
    parametrize.register_parametrization(module, "weight", parametrization)
    return parametrization


def dense_original(module: nn.Module) -> Tensor:
    """The dense weight: under the mask where there is one."""
    entries = _parametrizations(module)
    weight = module.weight if entries is None else entries.original
    assert isinstance(weight, Tensor)
    return weight


def mask_of(module: nn.Module) -> Mask | None:
    """The mask on the module's weight, if there is one."""
    entries = _parametrizations(module)
    return next((entry for entry in entries or () if isinstance(entry, Mask)), None)


def is_masked(module: nn.Module) -> bool:
    return mask_of(module) is not None


def finalize(model: nn.Module) -> None:
    """Turn every masked weight of ``model`` into a plain parameter with exact zeros; without any, do nothing.

    `Pruner.finalize` does this for the pruner's own model. Use this one for copies of it: an average of the
    weights (EMA), or a `copy.deepcopy`. The Parameter objects, and so the optimizers that hold them, stay the
    same; but an optimizer's momentum would fill the zeros if training went on. Raises `FlexgroupError` if
    another parametrization was put on top of a mask.
    """
    masked = [(name, module) for name, module in model.named_modules() if is_masked(module)]
    for name, module in masked:
        entries = _parametrizations(module)
        if entries is not None and len(entries) > 1:
            raise FlexgroupError(
                f"layer {name!r}: another parametrization lies on top of its mask; remove that one before finalize()"
            )
    for _, module in masked:
        _detach(module)


def _parametrizations(module: nn.Module) -> parametrize.ParametrizationList | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    assert isinstance(module.parametrizations, nn.ModuleDict)
    entries = module.parametrizations["weight"]
    assert isinstance(entries, parametrize.ParametrizationList)
    return entries


def _detach(module: nn.Module) -> None:
    # A deepcopy shares the class that torch made for the original, and removing a parametrization deletes
    # the property `weight` from that class: without a class of its own, the copy would break the original.
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    # The weight was registered anew, behind the bias. Optimizer states and some exporters go by position.
    for name in [name for name in module._parameters if name != "weight"]:
        module._parameters[name] = module._parameters.pop(name)
