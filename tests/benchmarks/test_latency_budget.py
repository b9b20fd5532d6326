"""The benchmark of budgets in time compares like with like: one predicted latency, and what each keeps at it."""

from __future__ import annotations

import latency_budget
import pytest
import torch

from flexgroup.kernels import host_target
from flexgroup.pruning import latency_budget as find_budget
from flexgroup.pruning import weight_matrices
from flexgroup.pruning._latency_network import Network
from flexgroup.pruning._targets import find_layers
from flexgroup.zoo import build, input_shape


def test_another_kind_of_sparsity_is_predicted_to_take_as_long(monkeypatch):
    monkeypatch.setenv("FLEXGROUP_COSTS", "default")
    torch.manual_seed(0)
    model, example = build("digits_net").eval(), (torch.zeros(1, *input_shape("digits_net")),)
    network = Network(model, example, find_layers(model), target=host_target(), threads=1)

    def clock(plans):
        return {name: 2 * network.seconds(plan) for name, plan in plans.items()}

    budget = find_budget(model, example, latency_budget.GROUPS, speedup=1.5, measure=clock)
    options = latency_budget.equally_slow(model, network, budget, "layer")
    assert 0 < options["sparsity"] < 1
    row = latency_budget.Row("digits_net", "1.5x", "layer")
    case = latency_budget.case(model, network, budget, options, row)
    assert case.row.predicted_ms == pytest.approx(1e3 * budget.seconds, rel=0.02)
    assert case.row.zeros == pytest.approx(options["sparsity"], abs=0.01)
    assert 1 - options["sparsity"] < case.row.magnitude < 1
    assert case.call().shape == (1, 10)
    assert all((matrix != 0).all() for matrix in weight_matrices(model).values())


def test_a_difference_is_a_share_of_what_was_measured():
    row = latency_budget.Row("net", "2x", "time", predicted_ms=1.2, ms=1.0, p10_ms=0.8)
    assert row.difference == pytest.approx(0.2)
    assert row.verdict() == {"difference": row.difference, "quiet_difference": pytest.approx(0.5), "agrees": False}
    assert latency_budget.Row("net", "2x", "time", predicted_ms=0.9, ms=1.0).agrees
