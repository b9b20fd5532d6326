"""Linear layers on one vector skip zeros: any shape, any pattern of zeros, threads and target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flexgroup
from flexgroup.engine import plan_graph
from flexgroup.engine._steps_linear import SIZES, LinearChoice, choose_linear
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import TARGETS
from flexgroup.kernels.sparse_linear import UNROLL, group_count, pack_groups
from tests.engine.agreement import RUNNABLE, agree
from tests.engine.networks import prune, randomise
from tests.engine.twins import run_plan

FORMS = [(form, size) for form in ("columns", "rows") for size in SIZES]


@st.composite
def matrices(draw) -> np.ndarray:
    """A matrix with any share of zeros, whole rows and columns of them among these."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    rows, columns = draw(st.integers(1, 70)), draw(st.integers(16, 70))
    matrix = rng.standard_normal((rows, columns)).astype(np.float32)
    matrix *= rng.random(matrix.shape) < draw(st.sampled_from([0.0, 0.02, 0.2, 0.7]))
    matrix *= rng.random((rows, 1)) < draw(st.sampled_from([0.5, 1.0]))
    matrix *= rng.random((1, columns)) < draw(st.sampled_from([0.5, 1.0]))
    return matrix


def layer(matrix: np.ndarray, activation: nn.Module | None = None) -> nn.Module:
    model = nn.Sequential(nn.Linear(matrix.shape[1], matrix.shape[0]), activation or nn.Hardtanh(-1.5, 2.5))
    randomise(model, 0)
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(matrix))
    return model


def force(monkeypatch, form: str, size: int) -> None:
    def choose(weight, lanes, *, sparse):
        return LinearChoice(1.0, form, size, group_count(weight != 0, form, size)[0]), 2.0

    monkeypatch.setenv("FLEXGROUP_CACHE", "off")
    monkeypatch.setattr("flexgroup.engine._steps_linear.choose_linear", choose)


@pytest.mark.parametrize(("form", "size"), FORMS)
def test_every_form_agrees_with_torch_and_is_the_same_for_any_thread_count(form, size, monkeypatch):
    force(monkeypatch, form, size)

    @settings(max_examples=15, deadline=None)
    @given(matrices(), st.sampled_from(RUNNABLE))
    def check(matrix, target):
        model = layer(matrix)
        x = torch.randn(3, matrix.shape[1])
        outputs = []
        for threads in (1, 2, 3):
            compiled = flexgroup.compile(model, (x[:1],), target=target, threads=threads)
            if not matrix.all():
                assert (
                    compiled.plan.steps[1].kernel.name
                    == f"linear_f32_{f'{size}x1' if form == 'columns' else f'1x{size}'}"
                )
            agree(model, compiled, x)
            outputs.append(compiled(x))
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])

    check()


@pytest.mark.parametrize(("form", "size"), FORMS)
def test_every_form_means_the_same_to_its_numpy_twin(form, size, monkeypatch):
    force(monkeypatch, form, size)

    @settings(max_examples=15, deadline=None)
    @given(matrices(), st.sampled_from(sorted(TARGETS)), st.integers(1, 3), st.booleans())
    def check(matrix, target, threads, curved):
        model = layer(matrix, nn.GELU() if curved else None)
        x = torch.randn(1, matrix.shape[1])
        plan = plan_graph(optimize(from_torch(model, (x,))), TARGETS[target], threads=threads)
        (given,) = run_plan(plan, x[0].numpy())
        np.testing.assert_allclose(given, model(x)[0].detach().numpy(), atol=1e-5)

    check()


@pytest.mark.parametrize("pattern", ["8x1 rows", "1x8 cols"])
def test_an_activation_function_is_part_of_the_layer(pattern):
    model = nn.Sequential(nn.Linear(256, 320), nn.GELU())
    randomise(model, 0)
    prune(model, pattern, 0.1)
    x = torch.randn(3, 256)
    compiled = flexgroup.compile(model, (x[:1],), threads=2)
    assert [step.kernel.name for step in compiled.plan.steps][1].endswith("_gelu")
    agree(model, compiled, x)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from(FORMS))
def test_packed_groups_are_the_matrix(matrix, form_and_size):
    form, size = form_and_size
    packed = pack_groups(matrix, form, size)
    groups, lines = group_count(matrix != 0, form, size)
    assert len(packed.starts) == len(packed.ends) == lines
    assert len(packed.weights) >= groups
    assert (np.diff(packed.ends, prepend=0) % UNROLL == 0).all()
    again = np.zeros((matrix.shape[0] + size, matrix.shape[1] + size), np.float32)
    for line, row in enumerate(packed.starts):
        for group in range(packed.ends[line - 1] if line else 0, packed.ends[line]):
            column, weights = packed.inputs[group], packed.weights[group]
            if form == "columns":
                again[row : row + size, column] += weights
            else:
                assert column + size <= matrix.shape[1], "no group reads beyond the input"
                again[row, column : column + size] += weights
    np.testing.assert_array_equal(again[: matrix.shape[0], : matrix.shape[1]], matrix)


@pytest.mark.parametrize(
    ("pattern", "kernel"),
    [("8x1 rows", "linear_f32_8x1"), ("1x8 cols", "linear_f32_1x8"), ("4x1 rows", "linear_f32_4x1")],
)
def test_the_groups_of_a_pruned_layer_are_found(pattern, kernel):
    model = nn.Sequential(nn.Linear(256, 320))
    randomise(model, 0)
    prune(model, pattern, 0.1)
    (row,) = flexgroup.compile(model, (torch.randn(1, 256),)).explain().layers
    assert row.kernel == kernel
    assert "100% full: predicted" in row.reason
    assert row.sparsity == pytest.approx(0.9, abs=0.01)
    assert row.macs < 0.15 * row.dense_macs


def test_layers_that_would_not_get_faster_stay_dense():
    model = nn.Sequential(nn.Linear(256, 320))
    randomise(model, 0)
    x = torch.randn(1, 256)
    assert flexgroup.compile(model, (x,)).explain().layers[0].reason == "no zeros to skip"
    prune(model, "1x1", 0.9)
    (row,) = flexgroup.compile(model, (x,)).explain().layers
    assert row.kernel.startswith("linear_f32_t")
    assert row.reason == "too few zeros, or zeros too scattered, to be faster than dense"
    prune(model, "8x1 rows", 0.1)
    (row,) = flexgroup.compile(model, (x,), sparse=False).explain().layers
    assert row.kernel.startswith("linear_f32_t"), "the baseline ignores zeros"


def test_a_layer_without_any_weight_left_gives_its_bias():
    model = nn.Sequential(nn.Linear(40, 30))
    with torch.no_grad():
        model[0].weight.zero_()
    x = torch.randn(2, 40)
    compiled = flexgroup.compile(model, (x,))
    assert torch.equal(compiled(x), model(x).detach())
    assert choose_linear(model[0].weight.detach().numpy(), 16, sparse=True)[0].groups == 0
