"""How much each weight matters: a criterion is a function of weights and gradients, or an average over steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError

ScoreFunction = Callable[[Tensor, "Tensor | None"], Tensor]
"""``criterion(weight, gradient or None) -> scores``: all (rows, columns); scores are non-negative."""


def magnitude(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``|w|``: a group's score is the sum of its weights' magnitudes (Han et al. 2015, arXiv 1506.02626)."""
    return weight.abs()


def squared(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """``w**2``: a group's score is its squared L2 norm. Large weights count for more than in `magnitude`."""
    return weight.square()


@dataclass(frozen=True)
class Averaged:
    """A criterion that averages something over training steps: `Taylor`, `Fisher`, `Movement` or `Wanda`.

    ``decay`` in [0, 1): what is left of a step's share in the average after one more step; 0.98 looks back over about
    50 steps. The first ``1 / (1 - decay)`` steps count equally.
    """

    decay: float = 0.98

    name: ClassVar[str]
    signed: ClassVar[bool] = False  # whether scores may be negative
    of_inputs: ClassVar[bool] = False  # whether it averages over layers' inputs; over gradients otherwise

    def __post_init__(self) -> None:
        number = isinstance(self.decay, (int, float)) and not isinstance(self.decay, bool)
        if not number or not 0.0 <= self.decay < 1.0:
            raise FlexgroupError(f"{type(self).__name__}(decay={self.decay!r}): decay is a number in [0, 1)")

    def values(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """What one step adds to the averages: new tensors, shaped like the weights."""
        raise NotImplementedError

    def score(self, weight: Tensor, average: Tensor) -> Tensor:
        """The scores of an (M, K) weight matrix from its average."""
        return average


@dataclass(frozen=True)
class Taylor(Averaged):
    """``E|w g|``: how much the loss changes to first order without the weight, a training step at a time.

    Molchanov et al., "Importance estimation for neural network pruning" (2019, arXiv 1906.10771), with the magnitude
    taken weight by weight and step by step, so that the scores of a group's weights add up without cancelling.
    """

    name: ClassVar[str] = "taylor"

    def values(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        products = list(torch._foreach_mul(weights, gradients))
        torch._foreach_abs_(products)
        return products


@dataclass(frozen=True)
class Fisher(Averaged):
    """``w**2 E[g**2] / 2``: how much the loss rises to second order, with the diagonal of the empirical Fisher matrix.

    Theis et al., "Faster gaze prediction with dense networks and Fisher pruning" (2018, arXiv 1801.05787). ``g`` is the
    gradient of a whole batch, as training has it: a batch of N has about 1/N of the variance of single samples,
    which is the same factor for every weight.
    """

    name: ClassVar[str] = "fisher"

    def values(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        return list(torch._foreach_mul(gradients, gradients))

    def score(self, weight: Tensor, average: Tensor) -> Tensor:
        return weight.square() * average / 2


@dataclass(frozen=True)
class Movement(Averaged):
    """``-E[w g]``: positive for weights that training moves away from zero.

    Sanh et al., "Movement pruning" (2020, arXiv 2005.07683), with an average where they have a sum. Scores may be
    negative. Selection takes non-negative ones, so the lowest score of all layers is subtracted from every weight's;
    as many groups of equal size stay whatever is subtracted, so the choice is the same. Groups whose size differs
    between layers (``1xK``) are therefore refused under a global budget.
    """

    name: ClassVar[str] = "movement"
    signed: ClassVar[bool] = True

    def values(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        products = list(torch._foreach_mul(weights, gradients))
        torch._foreach_neg_(products)
        return products


@dataclass(frozen=True)
class Wanda(Averaged):
    """``|w| sqrt(E[x**2])``, x the inputs that the weight multiplies: what the output loses without the weight.

    Sun et al., "A simple and effective pruning approach for large language models" (2023, arXiv 2306.11695). Their
    norm of a column of inputs is ours times a constant. In training, inputs are those of a batch's first 16 images.
    """

    name: ClassVar[str] = "wanda"
    of_inputs: ClassVar[bool] = True

    def score(self, weight: Tensor, average: Tensor) -> Tensor:
        """``average`` has one row a convolution group: the mean squares of its columns' inputs."""
        rows = len(weight) // len(average)
        return weight.abs() * average.sqrt().repeat_interleave(rows, dim=0)


Criterion: TypeAlias = ScoreFunction | Averaged
CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "magnitude": magnitude,
        "squared": squared,
        "taylor": Taylor(),
        "fisher": Fisher(),
        "movement": Movement(),
        "wanda": Wanda(),
    }
)


def find_criterion(criterion: str | Criterion) -> Criterion:
    """Return the criterion of that name, or the criterion itself; raise `FlexgroupError` if it is neither."""
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise FlexgroupError(f"criterion {criterion!r} is not known; use one of {sorted(CRITERIA)} or a function")
        return CRITERIA[criterion]
    if not callable(criterion) and not isinstance(criterion, Averaged):
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


def score(
    criterion: Criterion, weight: Tensor, gradient: Tensor | None, layer: str, average: Tensor | None = None
) -> Tensor:
    """Return the scores of one (rows, columns) weight matrix, in float32 or float64, on the weight's device.

    ``average`` is what an `Averaged` criterion gathered for this layer. Half-precision weights are scored in float32,
    so that sums over groups do not depend on how they are rounded. Raises `FlexgroupError` if a weight is NaN or
    infinite, if nothing was gathered, or if the scores have another shape. (That scores are finite and non-negative
    is checked where groups are selected.)
    """
    check_finite(weight, layer)
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        if isinstance(criterion, Averaged):
            if average is None:
                raise FlexgroupError(
                    f"layer {layer!r}: criterion {criterion.name!r} has gathered no "
                    f"{'inputs' if criterion.of_inputs else 'gradients'} before the first choice; use a schedule that "
                    f"chooses after some training steps, or criterion=flexgroup.pruning.sensitivities(...)"
                )
            scores = criterion.score(weight.to(wide), average.to(wide))
        else:
            scores = criterion(weight.to(wide), None if gradient is None else gradient.to(wide))
    if not isinstance(scores, Tensor) or scores.shape != weight.shape:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise FlexgroupError(
            f"layer {layer!r}: the criterion gave {got}, it must give a tensor of {tuple(weight.shape)}"
        )
    return scores.detach().to(wide)
