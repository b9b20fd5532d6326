"""ADMM pulls weights to groups: its steps are those of the published method, and pruning then costs little."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from flexgroup import FlexgroupError, Groups, select
from flexgroup.pruning import ADMM, OneShot

GROUPS = Groups("2x1", "rows")


def nearest(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    mask = select({"": weight.double().square().numpy()}, GROUPS, keep=1 - sparsity).masks[""]
    return torch.where(torch.from_numpy(mask), weight, 0.0)


def test_every_step_is_that_of_the_method() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    twin = copy.deepcopy(model)
    admm = ADMM(model, GROUPS, 0.75, end=6, every=2, rho=0.3, targets=["0"])
    x, y = torch.randn(16, 6), torch.randn(16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = twin[0].weight
    z, u = nearest(w.detach(), 0.75), torch.zeros_like(w)
    for step in range(1, 9):
        for network in (model, twin):
            network.zero_grad()
            (network(x) - y).square().mean().backward()
        optimizer.step()
        admm.step()
        with torch.no_grad():
            if step <= 6:
                w.grad += 0.3 * (w - z + u)
            for parameter in twin.parameters():
                gradient = parameter.grad
                if step > 6 and parameter is w:
                    gradient = torch.where(w != 0, gradient, 0.0)
                parameter -= 0.1 * gradient
            if step == 6:
                w.copy_(nearest(w, 0.75))
            elif step % 2 == 0 and step < 6:
                z = nearest(w + u, 0.75)
                u += w - z
        assert torch.allclose(model[0].weight, w, atol=1e-6), step
    admm.finalize()
    assert admm.sparsity == pytest.approx(0.75)


def test_weights_come_nearer_to_groups(make_net, train) -> None:
    def distance(rho: float) -> float:
        model = make_net()
        admm = ADMM(model, GROUPS, 0.7, end=1000, every=5, rho=rho)
        train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 150, admm)
        return admm.distance

    assert distance(0.01) < 0.5 * distance(1e-9)


@pytest.mark.parametrize("stop", [3, 7])
def test_a_resumed_run_ends_with_the_same_weights(make_net, train, stop: int) -> None:
    def start() -> tuple[nn.Module, ADMM, torch.optim.Optimizer]:
        model = make_net()
        admm = ADMM(model, GROUPS, 0.7, end=6, every=2, rho=0.1)
        return model, admm, torch.optim.SGD(model.parameters(), lr=0.1)

    model, admm, optimizer = start()
    train(model, optimizer, stop, admm)
    saved, state = {key: value.clone() for key, value in model.state_dict().items()}, admm.state_dict()
    train(model, optimizer, 9 - stop, admm)
    other, resumed, other_optimizer = start()
    other.load_state_dict(saved)
    resumed.load_state_dict(state)
    train(other, other_optimizer, 9 - stop, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    del state["duals"]["hidden"]
    with pytest.raises(FlexgroupError, match=r"this is not the state of this ADMM: its duals are missing or of other"):
        resumed.load_state_dict(state)


def test_the_pull_ends_with_the_pruner(make_net) -> None:
    before = len(_global_optimizer_pre_hooks)
    admm = ADMM(make_net(), GROUPS, 0.5, end=2, every=1)
    assert len(_global_optimizer_pre_hooks) == before + 1
    del admm
    gc.collect()
    assert len(_global_optimizer_pre_hooks) == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rho": 0.0}, r"ADMM\(rho=0.0\): rho is a number above 0, such as 0.001"),
        ({"every": 0}, r"ADMM\(end=6, every=0\): both are steps, and 1 <= every <= end"),
        ({"every": 7}, r"ADMM\(end=6, every=7\)"),
        ({"budget": "band"}, r"budget='band' is not known here; use one of 'global', 'layer', 'line'"),
        ({"schedule": OneShot()}, r"ADMM takes no schedule: it prunes once, at step end"),
        ({"groups": Groups("32x1")}, r"groups of 32x1 do not fit"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(make_net, options: dict[str, object], text: str) -> None:
    model, before = make_net(), len(_global_optimizer_pre_hooks)
    with pytest.raises(FlexgroupError, match=text):
        ADMM(model, **{"groups": GROUPS, "sparsity": 0.5, "end": 6, "every": 2, **options})
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
    assert len(_global_optimizer_pre_hooks) == before
