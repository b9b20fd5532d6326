"""Optimizers by name: any of torch.optim that takes gradients as ``backward()`` leaves them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from flexgroup._errors import FlexgroupError

UNFIT = {"lbfgs": "it evaluates the loss several times a step", "sparseadam": "it wants sparse gradients"}


def optimizer_names() -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizers of this torch by their name in small letters, without those that a training step cannot serve."""
    found = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    return {name: kind for name, kind in found.items() if name not in UNFIT}


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    name: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    options: dict[str, Any],
) -> torch.optim.Optimizer:
    """The optimizer of that name (capitals do not matter); ``options`` are further arguments of its class.

    Weight decay is for matrices and kernels only, not for biases and norms; ``momentum`` is for those that call it so,
    and is Nesterov's where they have it. Raises `FlexgroupError` for unknown names and options.
    """
    kinds = optimizer_names()
    low = name.lower()
    if low in UNFIT:
        raise FlexgroupError(f"optimizer {name!r} does not fit this training: {UNFIT[low]}; use sgd or adamw")
    if low not in kinds:
        near = difflib.get_close_matches(low, kinds, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(kinds))}"
        raise FlexgroupError(f"optimizer {name!r} is not in torch.optim; {hint}")
    kind = kinds[low]
    known = inspect.signature(kind).parameters
    unknown = sorted(set(options) - set(known) | set(options) & {"lr", "params"})
    if unknown:
        takes = ", ".join(key for key in known if key not in ("params", "lr"))
        raise FlexgroupError(f"optimizer {low!r} takes no option {unknown[0]!r} here; it takes {takes}")
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise FlexgroupError("the model has no parameter that requires a gradient; nothing would train")
    decay = options.get("weight_decay", weight_decay)
    groups: list[dict[str, Any]] = [{"params": [parameter for parameter in trained if parameter.ndim > 1]}]
    groups.append({"params": [parameter for parameter in trained if parameter.ndim <= 1]})
    if "weight_decay" in known:
        for group, value in zip(groups, (decay, 0.0), strict=True):
            group["weight_decay"] = value
    given: dict[str, Any] = {"lr": lr}
    if "momentum" in known:
        given["momentum"] = momentum
    if "nesterov" in known and "momentum" in known:
        given["nesterov"] = options.get("momentum", momentum) > 0
    try:
        return kind([group for group in groups if group["params"]], **{**given, **options})
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FlexgroupError(f"optimizer {low!r} does not take these options: {reason}") from error
