"""What counts as the same numbers as torch: a share of the largest output, or what rounding makes of small ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.engine._agreement import agrees, allowance, difference, rounding
from flexgroup.graph import GraphModule, from_torch
from flexgroup.kernels import F16, F32
from flexgroup.zoo import build


def cancelling(rest: float, seed: int = 0) -> nn.Sequential:
    """Outputs of about ``rest``, each the difference of two sums of about 1; a batch norm to be folded away."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(64, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        half = torch.randn(4, 32, 1, 1, generator=generator) / 6
        model[0].weight.copy_(torch.cat([half, -half * (1 - rest)], dim=1))
        model[1].weight.copy_(torch.rand(4, generator=generator) + 0.5)
    return model


def doubled(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x], dim=1)


X = (doubled(torch.randn(2, 32, 5, 7, generator=torch.Generator().manual_seed(0))),)


def test_what_cancels_to_little_is_compiled_and_its_difference_told():
    model = cancelling(1e-4)
    compiled = flexgroup.compile(model, X)
    assert 1e-4 < compiled.error < 1e-1
    with pytest.raises(FlexgroupError, match=r"more than tolerance=0.0001"):
        flexgroup.compile(model, X, tolerance=1e-4)


def test_a_relu_that_cuts_off_all_but_a_little_is_no_mistake():
    model = nn.Sequential(*cancelling(1.0), nn.Conv2d(4, 1, 1), nn.ReLU())
    with torch.no_grad():
        model[2].bias -= float(model[:3](X[0]).max()) - 1e-4
        assert 0 < float(model(X[0]).max()) < 2e-4
    assert flexgroup.compile(model, X).error < 0.1


def test_a_mistake_is_one_however_small_the_outputs():
    model = cancelling(1e-4)
    error = difference(model, cancelling(1e-4, seed=1), X)
    assert error > 0.1
    assert not agrees(error, None, model, X)
    tiny = cancelling(1.0)
    with torch.no_grad():
        tiny[1].weight *= 1e-6  # small, but nothing cancels
    assert agrees(0.9e-4, None, tiny, X)
    assert not agrees(1.1e-4, None, tiny, X)
    assert not agrees(float("nan"), None, model, X)


def test_rounding_grows_with_what_cancels_and_with_the_type():
    assert rounding(cancelling(1.0), X) < 1e-6
    assert 1e-5 < rounding(cancelling(1e-3), X) < 1e-2
    assert rounding(cancelling(1.0), X, F16) > 1000 * rounding(cancelling(1.0), X, F32)


def test_rounding_is_not_blamed_for_much():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("mobilenet_v2").eval()
        x = (torch.randn(1, 3, 64, 64),)
    assert not agrees(0.11, None, model, x, F16)
    assert not agrees(2e-3, None, model, x, F32)
    assert not agrees(0.11, None, cancelling(1e-6), X)


def test_a_graph_has_the_roundings_of_its_module():
    model = cancelling(1e-3)
    graph = GraphModule(from_torch(model, X))
    assert rounding(graph, X) == pytest.approx(rounding(model, X), rel=1.0)
    assert agrees(0.5 * allowance(model, X), None, graph, X)


def test_weights_that_a_hook_computes_are_the_models_own_afterwards():
    model = nn.Sequential(nn.Conv2d(64, 4, 1))
    nn.utils.prune.random_unstructured(model[0], "weight", 0.5)
    before = model[0].weight.clone()
    rounding(model, X)
    assert torch.equal(model[0].weight, before)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(64), nn.Dropout(), nn.Conv2d(64, 2, 1)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rounding(model, X)
    assert model.training
    assert model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
