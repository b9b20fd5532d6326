"""Pruned weights do not revive, whatever the optimizer remembers; kept weights do train."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flexgroup import Cubic, Groups, OneShot, Pruner
from flexgroup.pruning import finalize, weight_matrices

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizer] = {
    "momentum and decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("made", ["before", "after"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_zero_and_kept_ones_train(make_net, train, name: str, made: str) -> None:
    model = make_net()
    if made == "before":
        optimizer = OPTIMIZERS[name](list(model.parameters()))
    train(model, optimizer if made == "before" else OPTIMIZERS[name](list(model.parameters())), 3)  # gather momentum
    pruner = Pruner(model, Groups("4x1", "rows"), 0.8, schedule=OneShot(at=2))
    if made == "after":
        optimizer = OPTIMIZERS[name](list(model.parameters()))
    train(model, optimizer, 2, pruner)
    chosen, before = pruner.masks, {layer: matrix.clone() for layer, matrix in weight_matrices(model).items()}
    train(model, optimizer, 6, pruner)
    now = weight_matrices(model)
    for layer, mask in chosen.items():
        assert not now[layer][~mask].any()
        assert (now[layer] != before[layer])[mask].float().mean() > 0.9
    pruner.finalize()
    for layer, mask in chosen.items():
        assert torch.equal(model.get_submodule(layer).weight.reshape(mask.shape), now[layer])


def test_an_optimizer_holds_the_same_parameters_before_during_and_after(make_net) -> None:
    model = make_net()
    weight = model.hidden.weight
    pruner = Pruner(model, Groups("1x1"), 0.5)
    assert model.hidden.parametrizations.weight.original is weight
    pruner.finalize()
    assert model.hidden.weight is weight


@pytest.mark.parametrize("begun", [0, 6])
def test_an_average_of_the_weights_has_the_same_zeros(make_net, train, begun: int) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("4x1", "rows"), 0.9, schedule=Cubic(0, 4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, begun, pruner)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(8):
        train(model, optimizer, 1, pruner)
        average.update_parameters(model)
    finalize(average.module)
    for layer, mask in pruner.masks.items():
        weight = average.module.get_submodule(layer).weight.reshape(mask.shape)
        assert torch.equal(weight != 0, mask)
    assert type(model.hidden) is not nn.Linear  # the model itself is still in training
    train(model, optimizer, 1, pruner)


def test_a_plain_average_of_masked_weights_stays_zero_once_the_pattern_is_frozen(make_net, train) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("4x1", "rows"), 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = {layer: matrix.clone() for layer, matrix in weight_matrices(model).items()}
    for _ in range(4):
        train(model, optimizer, 1, pruner)
        for layer, matrix in weight_matrices(model).items():
            average[layer].lerp_(matrix, 0.1)
    assert all(not average[layer][~mask].any() for layer, mask in pruner.masks.items())
