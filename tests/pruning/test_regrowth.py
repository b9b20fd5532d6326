"""What pruned weights do until the next choice, and that nothing revives them after the last one."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flexgroup import Cubic, FlexgroupError, Groups, OneShot, Pruner
from flexgroup.pruning import Constant, finalize, weight_matrices

GROUPS = Groups("2x1", "rows")
OPTIMIZERS = {
    "momentum and decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def originals(model: nn.Module, pruner: Pruner) -> dict[str, Tensor]:
    """The dense values under the masks, as weight matrices."""
    layers = {name: model.get_submodule(name).parametrizations.weight.original for name in pruner.layers}
    return {name: weight.detach().reshape(len(weight), -1) for name, weight in layers.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("regrowth", ["memory", "none", "straight-through"])
def test_after_the_last_choice_nothing_revives(make_net, train, regrowth: str, optimizer: str) -> None:
    model = make_net()
    pruner = Pruner(model, GROUPS, 0.8, schedule=Cubic(0, 6, 2), regrowth=regrowth)
    steps = OPTIMIZERS[optimizer](model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(12):
        train(model, steps, 1, pruner)
        average.update_parameters(model)
        if pruner.steps == 6:
            chosen = pruner.masks
    assert all(torch.equal(mask, pruner.masks[name]) for name, mask in chosen.items())
    if regrowth != "memory":
        assert all(not dense[~chosen[name]].any() for name, dense in originals(model, pruner).items())
    pruner.finalize()
    finalize(average.module)
    for network in (model, average.module):
        for name, matrix in weight_matrices(network).items():
            assert torch.equal(matrix != 0, chosen[name])
            assert not torch.signbit(matrix[~chosen[name]]).any()


def test_without_regrowth_pruned_weights_are_zero_at_every_step(make_net, train) -> None:
    model = make_net()
    optimizer = OPTIMIZERS["momentum and decay"](model.parameters())
    train(model, optimizer, 3)  # gather momentum
    pruner = Pruner(model, GROUPS, 0.8, schedule=Cubic(0, 8, 2, initial=0.3), regrowth="none")
    once = dict.fromkeys(pruner.layers, torch.tensor(False))
    for _ in range(10):
        lost = {name: ~mask for name, mask in pruner.masks.items()}
        assert all(not dense[lost[name]].any() for name, dense in originals(model, pruner).items())
        once = {name: once[name] | mask for name, mask in lost.items()}
        train(model, optimizer, 1, pruner)
    for name, matrix in weight_matrices(model).items():
        assert not (pruner.masks[name] & once[name] & (matrix != 0)).any()


def test_straight_through_gives_pruned_weights_the_gradient_of_a_zero(make_net, images, labels) -> None:
    model = make_net()
    pruner = Pruner(model, GROUPS, 0.8, schedule=Constant(0, 2, 1), regrowth="straight-through")
    plain = copy.deepcopy(model)
    finalize(plain)
    assert torch.equal(model(images), plain(images))
    for network in (model, plain):
        nn.functional.cross_entropy(network(images), labels).backward()
    for name in pruner.layers:
        gradient = model.get_submodule(name).parametrizations.weight.original.grad
        assert torch.equal(gradient, plain.get_submodule(name).weight.grad)
        assert gradient.reshape(pruner.masks[name].shape)[~pruner.masks[name]].any()
    pruner.step()
    pruner.step()  # frozen from here on
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    gradient = model.hidden.parametrizations.weight.original.grad
    assert not gradient[~pruner.masks["hidden"]].any()


def test_straight_through_lets_the_pattern_move_where_memory_does_not() -> None:
    def run(regrowth: str) -> list[bool]:
        layer = nn.Linear(4, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 0.9, 0.2, 0.1]]))
        pruner = Pruner(layer, Groups("1x1"), 0.5, schedule=Constant(0, 5, 1), targets=["*"], regrowth=regrowth)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
        for _ in range(5):
            optimizer.zero_grad()
            (layer(torch.tensor([0.0, 0.0, 0.0, 1.0])) - 2).square().sum().backward()
            optimizer.step()
            pruner.step()
        return pruner.masks[""][0].tolist()

    assert run("memory") == [True, True, False, False]
    assert run("straight-through") == [True, False, False, True]


@pytest.mark.parametrize("parts", [1, 3])
def test_shrink_is_added_to_the_gradient_of_pruned_weights_once_a_step(make_net, images, labels, parts: int) -> None:
    model = make_net()
    pruner = Pruner(
        model, GROUPS, 0.8, schedule=Constant(0, 9, 1), regrowth="straight-through", shrink=0.5, ignore=["grouped"]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    for _ in range(parts):
        (nn.functional.cross_entropy(model(images), labels) / parts).backward()
    weight = model.hidden.parametrizations.weight.original
    before, gradient, kept = weight.detach().clone(), weight.grad.clone(), pruner.masks["hidden"]
    other.step()
    assert torch.equal(weight.grad, gradient)
    optimizer.step()
    expected = before - 0.1 * (gradient + torch.where(kept, 0.0, 0.5 * before))
    assert torch.allclose(weight, expected, atol=1e-7)
    pruner.finalize()
    gradient = weight.grad.clone()
    optimizer.step()
    assert torch.equal(weight.grad, gradient)


def test_shrinking_ends_with_the_pruner(make_net) -> None:
    hooks = _global_optimizer_pre_hooks
    before = len(hooks)
    pruner = Pruner(make_net(), GROUPS, 0.5, shrink=0.1)
    assert len(hooks) == before + 1
    del pruner
    gc.collect()
    assert len(hooks) == before


def test_a_resumed_run_has_the_gradients_of_its_step(make_net, images, labels) -> None:
    def make(steps: int) -> tuple[nn.Module, Pruner]:
        model = make_net()
        pruner = Pruner(model, GROUPS, 0.8, schedule=Constant(0, 3, 1), regrowth="straight-through")
        for _ in range(steps):
            pruner.step()
        return model, pruner

    for steps in (2, 3):
        _, stopped = make(steps)
        model, resumed = make(0)
        resumed.load_state_dict(stopped.state_dict())
        nn.functional.cross_entropy(model(images), labels).backward()
        reached = model.hidden.parametrizations.weight.original.grad[~resumed.masks["hidden"]]
        assert bool(reached.any()) == (steps < 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"regrowth": "ste"}, r"regrowth='ste' is not known; use one of 'memory', 'none', 'straight-through'"),
        ({"shrink": -1.0}, r"shrink=-1.0 is not a decay rate; use a number of at least 0, such as 0.0002"),
        ({"shrink": 0.1, "regrowth": "none"}, r"shrink=0.1 has nothing to shrink: .* use regrowth='straight-through'"),
    ],
)
def test_bad_regrowth_is_refused_and_changes_nothing(make_net, options: dict[str, object], text: str) -> None:
    model = make_net()
    with pytest.raises(FlexgroupError, match=text):
        Pruner(model, GROUPS, 0.5, schedule=OneShot(at=2), **options)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
