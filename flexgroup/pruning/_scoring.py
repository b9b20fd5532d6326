"""The scores of all targeted layers at one moment, the same on every rank, as selection takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError
from flexgroup.groups import Groups
from flexgroup.pruning._criteria import Averaged, Criterion, check_finite, score
from flexgroup.pruning._distributed import mean_over_ranks, whole
from flexgroup.pruning._mask import dense_original
from flexgroup.pruning._targets import Layer, as_matrix, listed


def layer_scores(
    criterion: Criterion | Mapping[str, Tensor], layers: Sequence[Layer], averages: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """(M, K) scores by layer name, on the CPU. Collective where weights are sharded or several ranks train.

    ``averages`` are those of an `Averaged` criterion. Raises `FlexgroupError` for weights that are not finite and for
    criteria that do not give scores.
    """
    scores = {}
    for layer in layers:
        dense = dense_original(layer.module)
        weight = as_matrix(whole(dense))
        if isinstance(criterion, Mapping):
            check_finite(weight, layer.name)
            scores[layer.name] = criterion[layer.name].detach().cpu()
            continue
        gradient = average = None
        if isinstance(criterion, Averaged):
            if layer.name in averages:
                average = as_matrix(mean_over_ranks(whole(averages[layer.name])))
        elif dense.grad is not None:
            gradient = as_matrix(whole(dense.grad))
        scores[layer.name] = score(criterion, weight, gradient, layer.name, average).cpu()
    return _raised(scores) if may_be_negative(criterion) else scores


def may_be_negative(criterion: Criterion | Mapping[str, Tensor]) -> bool:
    if isinstance(criterion, Mapping):
        return any(bool((matrix < 0).any()) for matrix in criterion.values())
    return isinstance(criterion, Averaged) and criterion.signed


def check_signed(criterion: Criterion | Mapping[str, Tensor], groups: Groups, budget: str, cost: object) -> None:
    """Raise `FlexgroupError` where scores of either sign would be compared between groups of unequal size or cost.

    Selection wants scores of at least 0, so a constant is added to all. That changes no choice of a fixed number of
    groups of equal size, and would favour the larger ones otherwise.
    """
    if budget == "global" and may_be_negative(criterion) and (groups.is_symbolic or cost is not None):
        what = "have a cost" if cost is not None else f"of {groups.size} differ in size between layers"
        raise FlexgroupError(
            f"scores of either sign (movement) cannot be compared where groups {what}; "
            f"use budget='layer', or a criterion without signs such as 'taylor'"
        )


def check_scores(scores: Mapping[str, Tensor], layers: Sequence[Layer]) -> None:
    """Raise `FlexgroupError` unless ``scores`` has an (M, K) tensor of numbers for every layer."""
    missing = [layer.name for layer in layers if layer.name not in scores]
    if missing:
        raise FlexgroupError(
            f"criterion: it has no scores for {listed(missing)}; give an (M, K) tensor for every layer to prune"
        )
    for layer in layers:
        matrix = scores[layer.name]
        if not isinstance(matrix, Tensor) or tuple(matrix.shape) != layer.shape:
            got = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise FlexgroupError(f"layer {layer.name!r}: its scores are {got}, they must be a tensor of {layer.shape}")
        if not bool(torch.isfinite(matrix).all()):
            raise FlexgroupError(f"layer {layer.name!r}: its scores are not all finite")


def _raised(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    lowest = min(float(matrix.min()) for matrix in scores.values())
    return {name: matrix.double() - min(lowest, 0.0) for name, matrix in scores.items()}
