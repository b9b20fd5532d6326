"""Networks in fp16 agree with torch in fp32, and closely with the numpy twins, which round where memory does."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.engine import CompiledModel, _chains, plan_graph
from flexgroup.engine._agreement import allowance
from flexgroup.engine._costs import Costs
from flexgroup.engine._precision import element_for, in_words, with_conversions
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import F16, F16_IN_F32, F32, TARGETS, Target
from flexgroup.zoo import build
from tests.engine.networks import PATTERNS, examples, networks, prune, randomise
from tests.engine.networks_gates import gated_networks
from tests.engine.networks_tokens import transformers
from tests.engine.twins import run_plan
from tests.kernels.here import HOST

pytestmark = pytest.mark.skipif(not HOST.half, reason="this machine has no instructions for fp16 numbers")

ABLE = sorted(name for name, target in TARGETS.items() if target.half)
LARGE = 1e4  # beyond it, sums inside of a network may overflow
CLOSE = 1.5e-2  # of the largest output: what is added in another order may round to another number
NEAR = 3e-2  # to fp32


def here(target: Target) -> Target:
    """This machine's instructions, with the vectors and registers of ``target``."""
    return replace(HOST, vector_bytes=target.vector_bytes, vector_registers=target.vector_registers)


def agrees(model, shape, pattern: str, keep: float, target: Target, accumulate: str | None, threads: int = 1) -> bool:
    """The network's plan for ``target`` means the same to this machine, to the numpy twins and to torch.

    False where numbers are beyond what fp16 can tell apart, and nothing is compared.
    """
    prune(model, pattern, keep)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(x)
    largest = float(expected.abs().max())
    if not 1e-2 < largest < LARGE:
        return False
    element = element_for(target, "fp16", accumulate)
    plan = plan_graph(optimize(from_torch(model, (x,))), target, threads=threads, element=element)
    with np.errstate(over="ignore", invalid="ignore"):
        (twin,) = run_plan(plan, x[0].numpy())
    if not np.isfinite(twin).all():
        return False
    compiled = CompiledModel(replace(plan, target=here(target)), 0.0)
    try:
        compiled(torch.randn(1, *shape))
        given_ = compiled(x)[0].numpy()
    finally:
        compiled.close()
    scale = max(largest, float(np.abs(twin).max()))
    assert given_.dtype == np.float32
    rounds = allowance(model, (x,), element) * largest  # what cancels to little has its last bits only
    np.testing.assert_allclose(given_, twin.reshape(given_.shape), rtol=0, atol=max(CLOSE * scale, rounds))
    assert float(np.abs(given_ - expected[0].numpy()).max()) <= max(NEAR * scale, rounds)
    return True


CASES = {
    "max_examples": examples(5),
    "deadline": None,
}


@settings(**CASES)
@given(networks(), st.sampled_from(PATTERNS), st.sampled_from(ABLE), st.sampled_from([None, "fp32"]), st.integers(1, 3))
def test_any_network_in_fp16(case, pattern, target, accumulate, threads):
    assume(agrees(*case, pattern, 0.5, TARGETS[target], accumulate, threads))


@settings(**CASES)
@given(gated_networks(), st.sampled_from(PATTERNS), st.sampled_from(ABLE), st.sampled_from([None, "fp32"]))
def test_any_network_of_gates_in_fp16(case, pattern, target, accumulate):
    assume(agrees(*case, pattern, 0.4, TARGETS[target], accumulate))


@settings(**CASES)
@given(transformers(), st.sampled_from(PATTERNS), st.sampled_from(ABLE), st.sampled_from([None, "fp32"]))
def test_any_transformer_in_fp16(case, pattern, target, accumulate):
    assume(agrees(*case, pattern, 0.3, TARGETS[target], accumulate))


def resnet(pattern: str = "4x1 rows") -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet20").eval()
    prune(model, pattern, 0.3)
    return model


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_resnet_takes_half_the_memory_and_says_how_far_it_is_from_fp32(threads, sparse):
    model = resnet()
    single = flexgroup.compile(model, (X,), threads=threads, sparse=sparse)
    half = flexgroup.compile(model, (X,), threads=threads, sparse=sparse, precision="fp16")
    assert (single.precision, half.precision) == ("fp32", "fp16")
    assert half.memory.activations < 0.62 * single.memory.activations  # borders are as wide
    assert half.memory.constants < 0.75 * single.memory.constants
    with torch.no_grad():
        want = model(X)
    given_ = half(X)
    assert given_.dtype == torch.float32
    assert half.error == pytest.approx(float((given_ - want).abs().max() / want.abs().max()), rel=1e-5)
    assert 1e-5 < half.error < 1e-2
    assert single.error < 1e-5
    np.testing.assert_array_equal(half(X.numpy()), given_.numpy())


def test_results_are_the_same_for_any_number_of_threads():
    model = resnet()
    one, two = (flexgroup.compile(model, (X,), threads=threads, precision="fp16") for threads in (1, 2))
    assert torch.equal(one(X), two(X))


def test_explain_says_what_is_computed_in_which_precision():
    half = flexgroup.compile(resnet(), (X,), precision="fp16", accumulate="fp32")
    text = str(half.explain())
    assert f"precision: {in_words(F16_IN_F32, HOST)}; differs from torch by {half.error:.1e} of the largest" in text
    assert "conv_f16_in_f32" in text
    assert half.explain().error == half.error
    assert in_words(F32, HOST) == "fp32"
    assert "added in 16 bits; long sums" in in_words(F16, TARGETS["aarch64-linux"])
    assert in_words(F16_IN_F32, TARGETS["aarch64-linux"]).endswith("added in 32")
    assert in_words(F16_IN_F32, TARGETS["x86-64-avx2"]).endswith("in 32, as x86-64-avx2 has no fp16 arithmetic")


@pytest.mark.parametrize(
    ("target", "accumulate", "element"),
    [
        ("x86-64-avx2", None, F16_IN_F32),
        ("x86-64-avx512", "fp32", F16_IN_F32),
        ("x86-64-avx512-fp16", None, F16),
        ("aarch64-linux", None, F16),
        ("aarch64-ios", "fp16", F16),
        ("aarch64-android", "fp32", F16_IN_F32),
    ],
)
def test_what_numbers_are_added_in(target, accumulate, element):
    assert element_for(TARGETS[target], "fp16", accumulate) == element
    assert element_for(TARGETS[target], "fp32") == F32


@pytest.mark.parametrize(
    ("target", "precision", "accumulate", "message"),
    [
        ("x86-64-avx2", "bf16", None, "precision='bf16' is unknown; choose fp32 or fp16"),
        ("x86-64-avx2", "fp16", "fp64", "accumulate='fp64' is unknown; choose fp32 or fp16, or leave it out"),
        ("x86-64-avx2", "fp32", "fp16", "accumulate='fp16' is for precision='fp16'; fp32 numbers are added in fp32"),
        ("x86-64", "fp16", None, "target x86-64 has no instructions for fp16 numbers; use precision='fp32', or one of"),
        ("wasm32", "fp16", None, "target wasm32 has no instructions for fp16 numbers"),
        ("x86-64-avx2", "fp16", "fp16", "target x86-64-avx2 has no fp16 arithmetic, only conversions; leave"),
    ],
)
def test_what_a_target_cannot_do_is_refused(target, precision, accumulate, message):
    with pytest.raises(FlexgroupError, match=re.escape(message)):
        element_for(TARGETS[target], precision, accumulate)


def test_all_weights_beyond_fp16_are_named_at_once():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(36, 2))
    randomise(model, 0)
    with torch.no_grad():
        model[0].weight[0, 0] = 7e4
        model[4].bias[1] = -1e6
    message = r"of these layers are beyond 65504, the largest of fp16: 0 \(7e\+04\), 4 \(1e\+06\); use precision='fp32'"
    with pytest.raises(FlexgroupError, match=message):
        flexgroup.compile(model, (torch.ones(1, 3, 5, 5),), precision="fp16")


def test_activations_beyond_fp16_are_noticed():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(6e3)
    x = torch.full((1, 1, 4, 4), 1e3)
    with pytest.raises(FlexgroupError, match=r"more than tolerance=0.02; fp16 has 11 bits .* beyond that"):
        flexgroup.compile(model, (x,), precision="fp16")


def test_a_tolerance_of_ones_own_is_heeded():
    with pytest.raises(FlexgroupError, match=r"more than tolerance=1e-07; fp16 has 11 bits"):
        flexgroup.compile(resnet(), (X,), precision="fp16", tolerance=1e-7)


def test_long_sums_are_kept_in_32_bits():
    """2^11 ones and more are no longer counted in 16 bits."""

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4096, 8, bias=False)
            nn.init.ones_(self.linear.weight)

        def forward(self, x):
            return x.mean((2, 3)), self.linear(x.flatten(1)) / 4096

    x = torch.ones(1, 1, 64, 64)
    model = Sums().eval()
    target = TARGETS["aarch64-linux"]
    plan = plan_graph(optimize(from_torch(model, (x,))), target, element=F16)
    mean, linear = CompiledModel(replace(plan, target=here(target)), 0.0)(x)
    assert torch.equal(mean, torch.ones(1, 1))
    assert torch.equal(linear, torch.ones(1, 8))


def test_conversions_cost_something_where_there_are_any():
    costs = Costs()
    assert with_conversions(costs, F32) == costs == with_conversions(costs, F16)
    assert with_conversions(costs, F16_IN_F32).aligned_load > costs.aligned_load


def test_kernels_are_cut_to_the_vectors_that_numbers_are_computed_in():
    assert [TARGETS["aarch64-linux"].lanes(element) for element in (F32, F16, F16_IN_F32)] == [4, 8, 4]
    assert [TARGETS["x86-64-avx512-fp16"].lanes(element) for element in (F32, F16, F16_IN_F32)] == [16, 32, 16]


@pytest.mark.parametrize("target", ["x86-64-avx512", "aarch64-linux"])
@pytest.mark.parametrize("threads", [1, 2])
def test_layers_that_run_band_by_band(target, threads, monkeypatch):
    monkeypatch.setattr(_chains, "WORTH", 1.0)  # chains wherever they promise anything
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6()),
        *(nn.Conv2d(16, 24, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(24, 8, 3, padding=1), nn.Hardswish()),
    )
    randomise(model, 5)
    small = replace(TARGETS[target], cache_bytes=48 << 10)
    x = torch.randn(1, 3, 61, 75)
    element = element_for(small, "fp16")
    plan = plan_graph(optimize(from_torch(model, (x,))), small, threads=threads, element=element)
    assert max(step.chain for step in plan.steps) >= 0
    assert {step.kernel.element for step in plan.steps} <= {F32, element}
    assert agrees(model, (3, 61, 75), "dense", 1.0, small, None, threads)
