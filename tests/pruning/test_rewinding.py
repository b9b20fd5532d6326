"""Iterative pruning goes back to the weights of an earlier step after every choice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from flexgroup import FlexgroupError, Groups, Pruner, finetune
from flexgroup.pruning import Iterative, OneShot

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


def learning_rates(model: nn.Module, images: torch.Tensor, **options) -> list[float]:
    """Of every step of a training of twelve steps."""
    rates: list[float] = []
    labels = torch.arange(len(images)) % 4
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        finetune(
            model, images, labels, images, labels,
            epochs=4, batch_size=len(images) // 3, lr=1.0, lr_schedule="linear", warm_up=0.0, **options,
        )  # fmt: skip
    finally:
        hook.remove()
    return rates


def test_finetune_drives_the_learning_rate_as_from_the_step_that_weights_went_back_to(make_net, images) -> None:
    model = make_net()
    pruner = Pruner(model, GROUPS, 0.75, schedule=Iterative(2, every=4, rewind=1), regrowth="none")
    falling = [0.8, 0.6, 0.4, 0.2]
    assert learning_rates(model, images, pruner=pruner) == pytest.approx([1.0, *falling[:3], *falling, *falling])


def test_a_pruner_that_is_done_rewinds_no_more(make_net, images) -> None:
    model = make_net()
    pruner = Pruner(model, GROUPS, 0.75, schedule=Iterative(2, every=4, rewind=1))
    learning_rates(model, images, pruner=pruner)
    assert learning_rates(model, images, pruner=pruner) == pytest.approx([1 - i / 12 for i in range(12)])


@pytest.mark.parametrize("stop", [3, 4, 7, 9])
def test_a_resumed_training_has_the_same_learning_rates(make_net, images, tmp_path, stop: int) -> None:
    def rates(**options) -> list[float]:
        model = make_net()
        pruner = Pruner(model, GROUPS, 0.75, schedule=Iterative(2, every=4, rewind=1))
        return learning_rates(model, images, pruner=pruner, checkpoint_every=1, **options)

    class Killed(Exception):
        pass

    def kill(step: int, steps: int) -> None:
        if step == stop + 1:
            raise Killed

    whole = rates(checkpoints=tmp_path / "whole")
    with pytest.raises(Killed):
        rates(checkpoints=tmp_path / "killed", on_step=kill)
    rest = rates(checkpoints=tmp_path / "killed", resume=True)
    assert rest == whole[len(whole) - len(rest) :]
    assert len(rest) in (12 - stop, 12 - stop + 1)


def test_finetune_rewinds_the_learning_rate_alone_if_asked_to(make_net, images) -> None:
    def rates(**options) -> list[float]:
        model = make_net()
        pruner = Pruner(model, GROUPS, 0.75, schedule=Iterative(2, every=4))
        return learning_rates(model, images, pruner=pruner, **options)

    assert rates(rewind_lr=True) == pytest.approx([1.0, 0.75, 0.5, 0.25] * 3)
    assert rates() == pytest.approx([1 - i / 12 for i in range(12)])


def test_a_learning_rate_cannot_go_back_without_rounds(make_net, images) -> None:
    model = make_net()
    pruner = Pruner(model, GROUPS, 0.75, schedule=OneShot())
    with pytest.raises(FlexgroupError, match=r"rewind_lr=True goes back after each choice .* there is OneShot\(at=0\)"):
        learning_rates(model, images, pruner=pruner, rewind_lr=True)
    with pytest.raises(FlexgroupError, match="there is no pruner; use one, or leave rewind_lr out"):
        learning_rates(make_net(), images, rewind_lr=True)
