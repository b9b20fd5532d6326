"""Budgets in time, with the cost model and a made-up clock: what they cost, what they keep, and what they refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flexgroup.report
from flexgroup import Cubic, FlexgroupError, Groups, Pruner
from flexgroup.engine import Machine, Plan
from flexgroup.groups import select
from flexgroup.kernels import host_target
from flexgroup.pruning import LatencyBudget, latency_budget, prune, weight_matrices
from flexgroup.pruning._latency_network import Network, measure
from flexgroup.pruning._latency_search import MOST_PLANS, TOLERANCE, Correction, largest
from flexgroup.pruning._targets import find_layers

MACHINE = Machine("made up", "host", 4, 100e9, 400e9, (), 1e10)
GROUPS = Groups("4x1", unaligned="rows")
EXAMPLE = (torch.zeros(1, 3, 16, 16),)


class Net(nn.Module):
    """Layers of the same size on images of different sizes: a group costs from 1 to 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.large = nn.Conv2d(32, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=2)
        self.small = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.last = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.stem, self.large, self.middle, self.small):
            x = torch.relu(layer(x))
        return self.last(x.mean((2, 3)))


@pytest.fixture(autouse=True)
def _costs_of_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXGROUP_COSTS", "default")


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def clock(plans: Mapping[str, Plan]) -> dict[str, float]:
    """A machine that takes 1.5 times what is predicted, and a microsecond for each call."""
    return {name: 1e-6 + 1.5 * predicted(plan) for name, plan in plans.items()}


def predicted(plan: Plan) -> float:
    """Seconds of a plan on `MACHINE`, one thread, spelt out."""
    return sum(step.slots for step in plan.steps) * 2 * plan.target.lanes(plan.element) / MACHINE.peak


def budget_of(model: nn.Module, **options: Any) -> Any:
    return latency_budget(model, EXAMPLE, GROUPS, **{"machine": MACHINE, "measure": clock} | options)


def network_of(model: nn.Module) -> Network:
    return Network(model, EXAMPLE, find_layers(model), target=host_target(), threads=1, machine=MACHINE)


def spent(pruner: Pruner, cost: Mapping[str, float]) -> tuple[float, float]:
    """What the pattern costs, and what all groups would."""
    masks = pruner.masks
    kept = sum(cost[name] * float(mask.sum()) / GROUPS.weights for name, mask in masks.items())
    return kept, sum(cost[name] * mask.numel() / GROUPS.weights for name, mask in masks.items())


@pytest.mark.parametrize("speedup", [1.2, 2.0, 4.0])
def test_the_pruned_network_costs_the_budget_and_takes_the_time(net, speedup):
    budget = budget_of(net, speedup=speedup)
    assert budget.measured
    assert budget.seconds == pytest.approx(budget.dense / speedup)
    pruner = Pruner(net, GROUPS, **budget.options)
    kept, everything = spent(pruner, budget.cost)
    allowed = (1 - budget.sparsity) * everything
    assert allowed - 1.001 * max(budget.cost.values()) < kept < 1.000001 * allowed
    pruner.finalize()
    check = budget.check(net)
    assert check.predicted == pytest.approx(budget.predicted, rel=1e-6)
    assert check.predicted <= check.budget
    assert check.measured == pytest.approx(check.budget, rel=0.02)
    assert check.speedup == pytest.approx(speedup, rel=0.02)
    assert abs(check.difference) < 0.02


def test_a_latency_in_seconds_is_the_same_as_its_speed_up(net):
    dense = clock({"": network_of(net).plan({}, sparse=False)})[""]
    budget = budget_of(net, latency=dense / 3)
    assert budget.seconds == dense / 3
    assert budget.sparsity == pytest.approx(budget_of(net, speedup=3).sparsity, abs=1e-6)


def test_costs_are_the_cost_models_slopes(net):
    """In the twin one layer at a time loses a third of its groups."""
    budget = budget_of(net, speedup=3)
    prune(net, GROUPS, **budget.options)
    network = network_of(net)
    before = network.seconds(network.plan({}))
    for name in ("large", "small"):
        weight = weight_matrices(net)[name].abs().numpy()
        groups = int((weight != 0).sum()) // GROUPS.weights
        fewer = select({name: weight}, GROUPS, keep=groups * 2 / 3 * GROUPS.weights / weight.size)
        saved = before - network.seconds(network.plan(fewer.masks))
        assert saved / (groups - fewer.kept[name]) == pytest.approx(budget.cost[name] * 1e-6, rel=0.2)


def test_dear_groups_are_pruned_further_than_cheap_ones(net):
    budget = budget_of(net, speedup=3, least=0.0)
    assert budget.cost["large"] > 2 * budget.cost["middle"] > 3 * budget.cost["small"]
    kept = {name: float(mask.float().mean()) for name, mask in Pruner(net, GROUPS, **budget.options).masks.items()}
    assert kept["large"] < kept["small"]


def test_the_same_score_takes_less_time_than_with_one_sparsity_for_all_layers(net):
    budget = budget_of(net, speedup=3, least=0.0)
    network = network_of(net)
    scores = {name: matrix.abs().numpy() for name, matrix in weight_matrices(net).items()}
    pruner = Pruner(copy.deepcopy(net), GROUPS, **budget.options)
    masks = {name: mask.numpy() for name, mask in pruner.masks.items()}
    ours = sum(float(scores[name][mask].sum()) for name, mask in masks.items())
    split = {part: scores[name][rows] for name, part, rows in PARTS}
    below, above = 0.0, 1.0
    for _ in range(30):
        middle = (below + above) / 2
        uniform = select(split, GROUPS, keep=middle, budget="layer")
        below, above = (middle, above) if uniform.score < ours else (below, middle)
    same = {"large": uniform.masks["large"], "small": uniform.masks["small"]}
    same["middle"] = np.concatenate([uniform.masks["middle[0]"], uniform.masks["middle[1]"]])
    assert network.seconds(network.plan(masks)) < 0.95 * network.seconds(network.plan(same))


PARTS = (
    ("large", "large", slice(None)),
    ("middle", "middle[0]", slice(0, 16)),
    ("middle", "middle[1]", slice(16, 32)),
    ("small", "small", slice(None)),
)


def test_every_layer_keeps_its_least_share(net):
    free = Pruner(copy.deepcopy(net), GROUPS, **budget_of(net, speedup=4, least=0.0).options).masks
    budget = budget_of(net, speedup=4, least=0.5)
    cost = {name: budget.cost[name] * mask.numel() for name, mask in free.items()}
    whole = sum(cost[name] for name in budget.whole)
    left = ((1 - budget.sparsity) * sum(cost.values()) - whole) / (sum(cost.values()) - whole)
    held = Pruner(net, GROUPS, **budget.options).masks
    for mask in held.values():
        groups = mask.numel() / GROUPS.weights
        assert float(mask.sum()) / GROUPS.weights >= 0.5 * left * groups - 2  # a convolution group each is rounded
    assert float(free["large"].float().mean()) < 0.5 * left < float(held["large"].float().mean()) + 2e-3


def test_a_pattern_that_training_moves_takes_as_long(net):
    budget = budget_of(net, speedup=3)
    pruner = Pruner(net, GROUPS, schedule=Cubic(0, 4, 1), **budget.options)
    for seed in range(4):
        with torch.no_grad():
            for parameter in net.parameters():
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                parameter += parameter.std() * noise if parameter.ndim > 1 else 0
        pruner.step()
    pruner.finalize()
    check = budget.check(net)
    assert check.measured == pytest.approx(check.budget, rel=0.05)


def test_a_layer_that_would_run_as_dense_code_stays_whole(net):
    budget = budget_of(net, speedup=1.15, least=0.0)
    assert budget.whole
    pruner = Pruner(net, GROUPS, **budget.options)
    assert all(bool(pruner.masks[name].all()) for name in budget.whole)
    assert 0.05 < pruner.sparsity < budget.sparsity
    assert "of them whole" in str(budget)


def test_the_model_is_left_as_it_is(net):
    before = copy.deepcopy(net.state_dict())
    net.train()
    budget_of(net, speedup=2)
    assert net.training
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_for_another_machine_there_are_predictions_only(net):
    def never(plans: Mapping[str, Plan]) -> dict[str, float]:
        raise AssertionError("measured what does not run here")

    budget = latency_budget(net, EXAMPLE, GROUPS, speedup=3, target="aarch64-android", measure=never)
    assert not budget.measured
    assert "predicted only: another machine" in str(budget)
    prune(net, GROUPS, **budget.options)
    check = budget.check(net)
    assert check.measured is None
    assert check.difference is None
    assert check.predicted == pytest.approx(budget.dense / 3, rel=0.01)
    assert str(check).endswith("; not measured: its code does not run on this machine")


def test_a_latency_on_another_machine_needs_the_machine(net):
    with pytest.raises(FlexgroupError, match=r"code for aarch64-android does not run on this machine.*machine=Machine"):
        latency_budget(net, EXAMPLE, GROUPS, latency=1e-3, target="aarch64-android")
    dense = latency_budget(net, EXAMPLE, GROUPS, speedup=2, target="aarch64-android", machine=MACHINE).dense
    budget = latency_budget(net, EXAMPLE, GROUPS, latency=dense / 2, target="aarch64-android", machine=MACHINE)
    assert budget.predicted == pytest.approx(dense / 2, rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either latency= in seconds or speedup= over dense code; give one"),
        ({"latency": 1e-3, "speedup": 2}, "either latency= in seconds or speedup= over dense code; give one"),
        ({"latency": 0}, "latency=0 is not a time; give seconds above 0"),
        ({"latency": float("nan")}, "latency=nan is not a time"),
        ({"speedup": 0.5}, "speedup=0.5 is not a speed-up; give a number of at least 1"),
        ({"speedup": 2, "threads": 0}, "threads=0; give the number of cores"),
        ({"speedup": 2, "least": 1.5}, "least=1.5 is not a share"),
        ({"speedup": 1e4}, r"speedup=10000 is out of reach, which is from .* ms \(nothing left in the pruned layers\)"),
        ({"speedup": 1e4}, r"to .* ms \(dense\) on 1 thread; ask for less than \d+\.\dx, or prune more layers"),
        ({"latency": 1.0}, r"latency 1000 ms is out of reach, .*; nothing needs to be pruned for it"),
        ({"speedup": 2, "target": "vax"}, "unknown target 'vax'"),
    ],
)
def test_budgets_that_cannot_be_are_refused(net, options, words):
    with pytest.raises(FlexgroupError, match=words):
        budget_of(net, **options)


@pytest.mark.parametrize("groups", [Groups("2:4"), Groups("1xK"), Groups("2x2", unaligned="free")])
def test_groups_without_a_price_are_refused(net, groups):
    with pytest.raises(FlexgroupError, match=r"take no budget in time.*use blocks of one size such as '4x1'"):
        latency_budget(net, EXAMPLE, groups, speedup=2)


def test_a_layer_that_does_not_run_is_named(net):
    net.add_module("idle", nn.Conv2d(32, 32, 3))
    with pytest.raises(FlexgroupError, match="Net does not run 'idle' on the example, so that it has no cost in time"):
        budget_of(net, speedup=2)
    assert budget_of(net, speedup=2, ignore=["idle"]).sparsity > 0


def test_scores_may_be_given_and_magnitudes_stand_in_for_averages(net):
    by_magnitude = budget_of(net, speedup=3, criterion="fisher").record()
    given_scores = {name: matrix.abs() for name, matrix in weight_matrices(net).items()}
    assert budget_of(net, speedup=3, criterion=given_scores).record() == by_magnitude
    del given_scores["middle"]
    with pytest.raises(FlexgroupError, match="criterion: it has no scores for 'middle'"):
        budget_of(net, speedup=3, criterion=given_scores)


def test_two_threads_are_predicted_with_their_barriers(net):
    budget = budget_of(net, speedup=2, threads=2)
    prune(net, GROUPS, **budget.options)
    assert "on 2 threads" in str(budget)
    network = Network(net, EXAMPLE, (), target=host_target(), threads=2, machine=MACHINE)
    assert budget.correction(network.seconds(network.plan({}))) == pytest.approx(budget.predicted, rel=1e-6)
    alone = network_of(net)
    assert network.seconds(network.plan({})) < alone.seconds(alone.plan({}))


def test_a_correction_goes_through_its_points():
    correction = Correction(((2.0, 3.0), (1.0, 2.0)))
    assert [correction(x) for x in (0.5, 1.0, 1.5, 2.0, 4.0)] == [1.0, 2.0, 2.5, 3.0, 6.0]
    assert Correction()(0.7) == 0.7


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=30), st.integers(0, 1500))
def test_the_search_stays_below_the_goal_and_near_it(steps, goal):
    heights = np.cumsum(steps).astype(float)
    calls = []

    def rising(x: float) -> float:
        calls.append(x)
        return float(np.interp(x, np.linspace(0, 1, len(heights)), heights))

    found = largest(rising, 0.0, 1.0, float(goal))
    assert len(calls) <= MOST_PLANS + 2
    grid = [x for x in np.linspace(0, 1, 501) if rising(x) <= goal]
    if not grid:
        assert found == 0.0
    elif len(grid) == 501:
        assert found == 1.0
    else:
        assert rising(found) <= goal
        near = rising(found) >= goal * (1 - TOLERANCE) - 1e-9
        assert near or grid[-1] - found < 2 ** -(MOST_PLANS // 2) + 0.002


def test_the_clock_is_the_reports_tenth_percentile_of_calls(net, monkeypatch):
    def timed(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, flexgroup.report.Timing]:
        assert all(call().shape == (1, 10) for call in calls.values())  # type: ignore[attr-defined]
        return {name: flexgroup.report.Timing(2.0, 1.0, 3.0, rounds) for name in calls}

    monkeypatch.setattr(flexgroup.report, "interleaved", timed)
    plan = network_of(net).plan({})
    assert measure({"a": plan, "b": plan}) == {"a": 1e-3, "b": 1e-3}


def test_a_budget_is_restored_from_its_record(net):
    budget = budget_of(net, speedup=2)
    record = json.loads(json.dumps(budget.record(), allow_nan=False))
    restored = LatencyBudget.restored(record, net, EXAMPLE, machine=MACHINE, measure=clock)
    assert restored.options == budget.options
    assert restored.record() == budget.record()
    prune(net, GROUPS, **restored.options)
    assert restored.check(net) == budget.check(net)
