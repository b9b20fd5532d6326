"""Iterative pruning goes back to the weights of an earlier step after every choice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError, Groups, Pruner
from flexgroup.pruning import Iterative

GROUPS = Groups("2x1", "rows")


@pytest.mark.parametrize("rewind", [0, 2])
def test_all_weights_and_statistics_go_back_after_every_round(make_net, train, rewind: int) -> None:
    model = make_net()
    pruner = Pruner(model, GROUPS, 0.75, schedule=Iterative(2, every=4, rewind=rewind), regrowth="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, rewind, pruner)
    then = copy.deepcopy({**dict(model.named_parameters()), **dict(model.named_buffers())})
    for sparsity in (0.5, 0.75):
        train(model, optimizer, 3 - pruner.steps % 4, pruner)
        assert pruner.sparsity < sparsity - 0.1
        moved = model.hidden.parametrizations.weight.original.detach().clone()
        train(model, optimizer, 1, pruner)
        assert pruner.sparsity == pytest.approx(sparsity, abs=1e-3)
        assert not torch.equal(model.hidden.weight, moved)
        now = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, value in now.items():
            if value.is_floating_point():
                layer = name.removesuffix(".parametrizations.weight.original")
                mask = pruner.masks.get(layer) if layer != name else None
                kept = then[name] if mask is None else torch.where(mask.reshape(value.shape), then[name], 0.0)
                assert torch.equal(value, kept), name


def test_without_rewinding_the_weights_stay(make_net, train) -> None:
    model = make_net()
    pruner = Pruner(model, GROUPS, 0.75, schedule=Iterative(3, every=2))
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3, pruner)
    before = model.hidden.parametrizations.weight.original.detach().clone()
    pruner.step()
    assert torch.equal(model.hidden.parametrizations.weight.original, before)
    assert pruner.state_dict()["remembered"] == {}


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_resumed_run_rewinds_to_the_same_weights(make_net, train, stop: int) -> None:
    def start() -> tuple[nn.Module, Pruner, torch.optim.Optimizer]:
        model = make_net()
        pruner = Pruner(model, GROUPS, 0.75, schedule=Iterative(2, every=4, rewind=2))
        return model, pruner, torch.optim.SGD(model.parameters(), lr=0.1)

    model, pruner, optimizer = start()
    train(model, optimizer, stop, pruner)
    saved, state = {key: value.clone() for key, value in model.state_dict().items()}, pruner.state_dict()
    train(model, optimizer, 9 - stop, pruner)
    other, resumed, other_optimizer = start()
    other.load_state_dict(saved)
    resumed.load_state_dict(state)
    train(other, other_optimizer, 9 - stop, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_weights_of_another_model_are_not_rewound_to(make_net, train) -> None:
    def start() -> Pruner:
        return Pruner(make_net(), GROUPS, 0.75, schedule=Iterative(2, every=4, rewind=0))

    state, pruner = start().state_dict(), start()
    pruner.step()
    state["remembered"]["stem.bias"] = torch.zeros(9)
    with pytest.raises(FlexgroupError, match=r"the weights to rewind to are of another model: 'stem.bias' differs"):
        pruner.load_state_dict(state)
    assert pruner.steps == 1
