"""Curves are as exact as 32 bits allow, at the ends of the range too, and are code without calls on every target."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flexgroup.engine._objects import load, module_for, object_code
from flexgroup.engine._workers import address, aligned
from flexgroup.graph.ir import CURVES, leaky_relu, slope_of
from flexgroup.kernels import BASE_SHIFT, TARGETS, ElementwiseKernel
from tests.kernels.here import HERE, HOST

KINDS = [*CURVES, leaky_relu(0.01)]
LIBRARY = ("expf", "logf", "log1pf", "tanhf", "erff", "fmaf", "powf", "memcpy", "memset")

ULP = 2.0**-23


def torch_curve(kind: str, x: torch.Tensor) -> torch.Tensor:
    slope = slope_of(kind)
    if slope is not None:
        return F.leaky_relu(x, slope)
    meanings = {
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "hard_swish": F.hardswish,
        "tanh": torch.tanh,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "mish": F.mish,
        "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        "log": torch.log,
        "exp": torch.exp,
        "sqrt": torch.sqrt,
        "reciprocal": torch.reciprocal,
        "erf": torch.erf,
    }
    return meanings[kind](x)


def apply(kind: str, x: np.ndarray, target) -> np.ndarray:
    """The curve of ``x``, by a kernel that does nothing else."""
    kernel = ElementwiseKernel("affine", curve=kind)
    _engine, addresses = load([kernel], target)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(addresses[kernel.name])
    vectors = -(-len(x) // target.lanes(kernel.element))
    count = vectors * target.lanes(kernel.element)
    regions = {
        "first_inputs": np.zeros(1, np.int32),
        "second_inputs": np.zeros(1, np.int32),
        "outputs": np.full(1, 4 * count, np.int32),
        "scale": np.ones(1, np.float32),
        "shift": np.full(1, -0.0, np.float32),  # which leaves -0.0 what it is
        "mask": np.full(count, -1, np.int32),
        "arena": np.concatenate([x, np.zeros(2 * count - len(x))]).astype(np.float32),
    }
    memory = []
    for array in regions.values():
        memory.append(aligned(array.nbytes))
        memory[-1][:] = array.view(np.uint8)
    infinities = {"low": 0xFF800000, "high": 0x7F800000}
    numbers = {"vectors": vectors, "first": 0, "last": 1, **infinities}
    fields = {name: i << BASE_SHIFT for i, name in enumerate(regions)} | numbers
    bases = np.array([address(array) for array in memory], np.int64)
    arguments = np.array(kernel.signature.pack(fields), np.uint64)
    run(bases.ctypes.data, arguments.ctypes.data)
    return memory[-1].view(np.float32)[count : count + len(x)].copy()


@pytest.mark.parametrize("target", HERE.values(), ids=HERE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_curve_is_exact_to_a_few_units_in_the_last_place(kind, target):
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=20000) * spread for spread in (1e-30, 1e-3, 1, 5, 30, 1e4)]
    x = np.concatenate([*parts, np.linspace(-20, 20, 100_001)]).astype(np.float32)
    expected = torch_curve(kind, torch.from_numpy(x.astype(np.float64))).numpy()
    # 1 + erf(x) rounds to units of 1.
    scale = np.abs(expected) + (np.abs(x) if kind.startswith("gelu") else 0)
    given, narrow = apply(kind, x, target), expected.astype(np.float32)
    inside = np.isfinite(narrow)
    np.testing.assert_array_equal(given[~inside], narrow[~inside])
    error = np.abs(given - expected)[inside]
    units = 4 if kind == "erf" else 3  # a quotient of polynomials, on targets without fused multiply-add
    assert (error <= units * ULP * scale[inside] + 1e-35).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_the_range_are_those_of_torch(kind):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 88.72, -88.72, 1e-45, 103.0, -104.0], np.float32)
    given, expected = apply(kind, x, HOST), torch_curve(kind, torch.from_numpy(x).double()).float().numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-35)
    numbers = ~np.isnan(expected) & (expected != 0)
    assert (np.signbit(given) == np.signbit(expected))[numbers].all()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_curve_calls_a_library(target):
    kernels = tuple(ElementwiseKernel("affine", curve=kind) for kind in KINDS)
    code = object_code(module_for(kernels, target, runner=False), target)
    assert not [name for name in LIBRARY if name.encode() in code]


def test_slopes_are_part_of_the_name():
    assert slope_of(leaky_relu(0.25)) == 0.25
    assert slope_of("gelu") is None
    assert ElementwiseKernel("add", curve=leaky_relu(0.25)).name == "elementwise_f32_add_leaky_relu_3e800000"
    assert ElementwiseKernel("add").name == "elementwise_f32_add"
