"""How much each weight matters: a criterion is a function of a weight matrix and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError

Criterion = Callable[[Tensor, "Tensor | None"], Tensor]
"""``criterion(weight, gradient or None) -> scores``: all (rows, columns); scores are non-negative."""


def magnitude(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``|w|``: a group's score is the sum of its weights' magnitudes (Han et al. 2015, arXiv 1506.02626)."""
    return weight.abs()


def squared(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``w**2``: a group's score is its squared L2 norm. Large weights count for more than in `magnitude`."""
    return weight.square()


CRITERIA = MappingProxyType({"magnitude": magnitude, "squared": squared})


def find_criterion(criterion: str | Criterion) -> Criterion:
    """Return the criterion of that name, or the function itself; raise `FlexgroupError` if it is neither."""
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise FlexgroupError(f"criterion {criterion!r} is not known; use one of {sorted(CRITERIA)} or a function")
        return CRITERIA[criterion]
    if not callable(criterion):
        raise FlexgroupError(
            f"criterion {criterion!r} is not a function of (weight, gradient); "
            f"use one of {sorted(CRITERIA)} or a function"
        )
    return criterion


def check_finite(weight: Tensor, layer: str) -> None:
    """Raise `FlexgroupError` if a weight is NaN or infinite."""
    bad = int((~torch.isfinite(weight)).sum())
    if bad:
        raise FlexgroupError(
            f"layer {layer!r}: {bad} of its {weight.numel()} weights are NaN or infinite; "
            f"nothing was changed, go back to weights from before the training diverged"
        )


def score(criterion: Criterion, weight: Tensor, gradient: Tensor | None, layer: str) -> Tensor:
    """Return the scores of one (rows, columns) weight matrix, in float32 or float64, on the weight's device.

    Half-precision weights are scored in float32, so that sums over groups do not depend on how they are
    rounded. Raises `FlexgroupError` if a weight is NaN or infinite, or if the scores have another shape.
    (That scores are finite and non-negative is checked where groups are selected.)
    """
    check_finite(weight, layer)
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        scores = criterion(weight.to(wide), None if gradient is None else gradient.to(wide))
    if not isinstance(scores, Tensor) or scores.shape != weight.shape:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FlexgroupError(
            f"layer {layer!r}: the criterion gave {got}, it must give a tensor of {tuple(weight.shape)}"
        )
    return scores.detach().to(wide)
