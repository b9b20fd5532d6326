"""Budgets by the size of a layer, and relaxed choices, in the pruner."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexgroup import Groups
from flexgroup.pruning import Iterative, Pruner
from flexgroup.pruning._erdos_renyi import erdos_renyi
from flexgroup.pruning._targets import find_layers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 16, 3),
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(32, 64, 1),
        nn.Conv2d(64, 64, 3, groups=2),
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_densities_follow_the_rule_and_sum_to_the_budget(sparsity: float) -> None:
    layers = find_layers(network())
    shares = erdos_renyi(layers, sparsity)
    sizes = {layer.name: layer.shape[0] * layer.shape[1] for layer in layers}
    assert sum(shares[name] * size for name, size in sizes.items()) == pytest.approx(
        (1 - sparsity) * sum(sizes.values())
    )
    rule = {"1": (8 + 16 + 6) / (8 * 16 * 9), "2": (16 + 32 + 6) / (16 * 32 * 9), "3": (32 + 64 + 2) / (32 * 64)}
    rule["4"] = (32 + 32 + 6) / (32 * 32 * 9)
    ratios = {name: shares[name] / rule[name] for name in shares if shares[name] < 1}
    assert max(ratios.values(), default=1) == pytest.approx(min(ratios.values(), default=1))
    scale = max(ratios.values(), default=0)
    assert all(rule[name] * scale >= 1 - 1e-9 for name in shares if shares[name] == 1 and ratios)


@pytest.mark.parametrize("budget", ["erdos-renyi", "erdos-renyi-line"])
def test_small_layers_keep_more(budget: str) -> None:
    pruner = Pruner(network(), Groups("4x1", unaligned="rows"), 0.9, budget=budget)
    kept = {name: float(mask.float().mean()) for name, mask in pruner.masks.items()}
    assert pruner.sparsity == pytest.approx(0.9, abs=0.005)
    assert kept["1"] > 2 * kept["2"] > 2 * kept["4"]


def test_relaxed_rounds_keep_more_places_open_and_the_last_is_exact() -> None:
    rounds = Iterative(rounds=2, every=1)
    groups = Groups("4x1", unaligned="rows")
    pruner = Pruner(network(), groups, 0.9, budget="layer", schedule=rounds, regrowth="none", relaxed=True)
    pruner.step()
    first = pruner.masks
    assert pruner.sparsity == pytest.approx(1 - 0.1**0.5, abs=0.01)
    runs = [_runs(mask) for mask in first.values()]
    assert any(length % 4 for layer in runs for length in layer)  # windows overlap
    pruner.step()
    assert pruner.sparsity == pytest.approx(0.9, abs=0.001)
    for name, mask in pruner.masks.items():
        assert all(length % 4 == 0 for length in _runs(mask))
        assert float((mask & first[name]).sum()) >= 0.8 * float(mask.sum())


def _runs(mask: torch.Tensor) -> list[int]:
    """Lengths of the runs of kept weights down every column."""
    lengths = []
    for column in mask.T.tolist():
        length = 0
        for kept in [*column, False]:
            if kept:
                length += 1
            elif length:
                lengths.append(length)
                length = 0
    return lengths
