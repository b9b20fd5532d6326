"""Permuting a network's channels, which changes nothing that it computes, so that groups keep more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flexgroup._errors import FlexgroupError
from flexgroup.groups import BUDGETS, Groups, Selection, select
from flexgroup.pruning._criteria import Criterion, find_criterion
from flexgroup.pruning._evaluate import in_mode
from flexgroup.pruning._schedules import check_sparsity
from flexgroup.pruning._scoring import check_scores, layer_scores
from flexgroup.pruning._swaps import Side, descend, exchange
from flexgroup.pruning._targets import PYTORCH_ORDER, Layer, check_layers, find_layers, listed
from flexgroup.pruning._wires import Exchange, exchanges

Indices = npt.NDArray[np.int64]
Scores = dict[str, npt.NDArray[np.float64]]
SWEEPS = 20  # of one set of channels; a handful is enough to stand still where all pairs are tried
KICKED = 8  # one channel in so many is exchanged at random to leave a local optimum


@dataclass(frozen=True)
class Permuted:
    """The share of all scores that groups keep before and after; how many channels changed their places."""

    before: float
    after: float
    moved: int


def permute(
    model: nn.Module,
    example: tuple[Tensor, ...],
    groups: Groups,
    sparsity: float,
    *,
    budget: str = "global",
    criterion: str | Criterion | dict[str, Tensor] = "magnitude",
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    rounds: int = 2,
    kicks: int = 4,
    seed: int = 0,
) -> Permuted:
    """Permute the channels of ``model``, in place, so that ``groups`` keep a larger score at ``sparsity``.

    Rows of a layer, and the columns of all that reads them, move together; channels that are added, gated or normalised
    together move alike, and those whose order matters stay (see `exchanges`): the network computes the same. This is
    the strongest form of aligned groups, after Pool and Yu, "Channel permutations for N:M sparsity" (NeurIPS 2021): a
    local search by exchanges of two channels, here of the score above the price of a group, which is that of the exact
    selection, and random kicks where it stands still. Unaligned groups are searched for as if they were aligned; they
    keep more of the permuted network too. Call it before a `Pruner` or an optimizer is made.

    Groups along columns count columns in PyTorch's order: an input channel of a k x k convolution is a block of k * k
    columns, which move as one; so permuting changes something only where groups straddle blocks.

    Args:
        example: the model's inputs, for ``torch.export``; a batch of 2 or more.
        groups: blocks of a fixed size, with any alignment.
        sparsity, budget, criterion, targets, ignore: as they will be given to `Pruner`; the budget is ``"global"``,
            ``"layer"`` or ``"line"``. Criteria must need no training steps.
        rounds: how often prices are set and all sets of channels searched.
        kicks: how often a set of channels is disturbed and searched again; each takes as long as the first search, so
            0 for networks whose layers have many hundreds of channels.

    Raises:
        FlexgroupError: for groups that are not blocks of a fixed size, a model that is masked or cannot be exported,
            and as `Pruner`; nothing was changed then.
    """
    layers = find_layers(model, targets, ignore)
    _check(layers, groups, budget)
    check_layers(model, layers, groups)
    check_sparsity(sparsity)
    found_criterion = criterion if isinstance(criterion, dict) else find_criterion(criterion)
    if isinstance(found_criterion, dict):
        check_scores(found_criterion, layers)
    scores = {
        name: matrix.double().numpy() for name, matrix in layer_scores(found_criterion, layers, averages={}).items()
    }
    with in_mode(model, training=False):
        sets = [entry for entry in exchanges(model, example) if _matters(entry, layers, groups)]
    grid = Groups(groups.size)
    priced = _selected(scores, layers, grid, sparsity, budget)
    before = best_score = _selected(scores, layers, groups, sparsity, budget).score
    orders = best = [np.arange(entry.count) for entry in sets]
    lying = scores
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        orders = list(orders)
        for index, entry in enumerate(sets):
            change = _improved(entry, lying, layers, grid, priced, kicks, random)
            orders[index] = orders[index][change]
            lying = _permuted(lying, entry, change)
        priced = _selected(lying, layers, grid, sparsity, budget)
        score = priced.score if groups == grid else _selected(lying, layers, groups, sparsity, budget).score
        if score > best_score:
            best, best_score = orders, score
    with torch.no_grad():
        stored = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for entry, order in zip(sets, best, strict=True):
            for use, places in zip(entry.uses, entry.places, strict=True):
                value = stored[use.name]
                moved_in = torch.from_numpy(_spread(places, order, len(use.wires), use.width)).to(value.device)
                value.copy_(value.index_select(use.axis, moved_in))
    total = sum(float(matrix.sum()) for matrix in scores.values()) or 1.0
    moved = sum(int((order != np.arange(len(order))).sum()) for order in best)
    return Permuted(before / total, best_score / total, moved)


def _check(layers: Sequence[Layer], groups: Groups, budget: str) -> None:
    if not isinstance(groups, Groups) or groups.is_symbolic or groups.n_of_m:
        raise FlexgroupError(f"groups {groups} are not blocks of a fixed size, and permuting is for those alone")
    if budget not in BUDGETS or budget == "band":
        raise FlexgroupError(f"budget={budget!r} is not known here; use one of 'line', 'layer', 'global'")
    odd = [layer.name for layer in layers if parametrize.is_parametrized(layer.module)]
    if odd:
        raise FlexgroupError(f"the weights of {listed(odd)} are parametrized; permute before the Pruner is made")


def _selected(scores: Scores, layers: Sequence[Layer], groups: Groups, sparsity: float, budget: str) -> Selection:
    parts: Scores = {}
    for layer in layers:
        split = layer.split(torch.from_numpy(scores[layer.name]), PYTORCH_ORDER)
        parts |= {name: part.numpy() for name, part in split.items()}
    return select(parts, groups, keep=1.0 - sparsity, budget=budget)


def _axes(entry: Exchange, layers: Sequence[Layer], groups: Groups) -> list[tuple[Layer, int, int, Indices]]:
    """(layer, axis of the weight matrix, entries a channel, places) where groups join several channels."""
    named = {f"{layer.name}.weight" if layer.name else "weight": layer for layer in layers if layer.conv_groups == 1}
    axes = []
    for use, places in zip(entry.uses, entry.places, strict=True):
        layer = named.get(use.name)
        if layer is None:
            continue
        width = layer.shape[use.axis] // len(use.wires)
        extent = groups.rows if use.axis == 0 else groups.cols
        if extent > 1 and width % extent:  # else a channel is whole groups, wherever it is
            axes.append((layer, use.axis, width, places))
    return axes


def _matters(entry: Exchange, layers: Sequence[Layer], groups: Groups) -> bool:
    return bool(_axes(entry, layers, groups))


def _improved(
    entry: Exchange,
    scores: Scores,
    layers: Sequence[Layer],
    groups: Groups,
    chosen: Selection,
    kicks: int,
    random: np.random.Generator,
) -> Indices:
    """A better order of one set of channels for the prices of ``chosen``, from how they lie in ``scores``."""
    prices = chosen.price
    sides = [
        Side(
            _blocked(scores[layer.name], axis, width, groups),
            groups.rows if axis == 0 else groups.cols,
            prices if isinstance(prices, float) else prices[layer.name],
            places,
        )
        for layer, axis, width, places in _axes(entry, layers, groups)
    ]
    order = np.arange(entry.count)
    descend(sides, order, SWEEPS, random)
    for _ in range(kicks):
        trial, disturbed = order.copy(), [side.copy() for side in sides]
        for _ in range(max(1, entry.count // KICKED)):
            exchange(disturbed, trial, *random.choice(entry.count, 2, replace=False))
        descend(disturbed, trial, SWEEPS, random)
        if sum(side.value for side in disturbed) > sum(side.value for side in sides):
            sides, order = disturbed, trial
    return order


def _blocked(matrix: npt.NDArray[np.float64], axis: int, width: int, groups: Groups) -> npt.NDArray[np.float64]:
    """(channels, width, others): scores along an axis, summed over the groups' extent on the other axis."""
    lines = matrix if axis == 0 else matrix.T
    extent = groups.cols if axis == 0 else groups.rows
    whole = lines.shape[1] // extent
    summed = lines[:, : whole * extent].reshape(len(lines), whole, extent).sum(2)
    return np.ascontiguousarray(summed.reshape(-1, width, whole))


def _permuted(scores: Scores, entry: Exchange, order: Indices) -> Scores:
    """The scores as they lie when a set of channels is in another order."""
    result = dict(scores)
    for use, places in zip(entry.uses, entry.places, strict=True):
        layer = use.name.removesuffix("weight").removesuffix(".")
        if use.name.endswith("weight") and layer in result:
            width = result[layer].shape[use.axis] // len(use.wires)
            result[layer] = result[layer].take(_spread(places, order, len(use.wires), width), use.axis)
    return result


def _spread(places: Indices, order: Indices, channels: int, width: int) -> Indices:
    """Which entry comes to each place along an axis of ``channels * width`` entries."""
    index = np.arange(channels)
    index[places] = places[order]
    return (index[:, None] * width + np.arange(width)).reshape(-1)
