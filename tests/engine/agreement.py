"""What every test of compiled networks asks: the same numbers as torch, run after run, and as the numpy twins."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import flexgroup
from flexgroup.engine import plan_graph
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import Target, host_target
from tests.engine.networks import prune
from tests.engine.twins import run_plan

HOST = host_target()
NAMES = ["x86-64-avx512", "x86-64-avx2", "x86-64"]
RUNNABLE = NAMES[NAMES.index(HOST.name) :] if HOST.name in NAMES else ["host"]


def agree(model: nn.Module, compiled: flexgroup.CompiledModel, x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = model(x)
    given = compiled(x)
    assert given.shape == expected.shape
    scale = max(float(expected.abs().max()), 1e-3)
    assert float((given - expected).abs().max()) <= 1e-4 * scale


def agrees_run_after_run(
    model: nn.Module,
    shape: tuple[int, ...],
    pattern: str,
    keep: float,
    *,
    target: str,
    threads: int,
    batch: int,
    examples: int = 2,
) -> None:
    """Pruned and compiled on ``examples`` images of ``shape``, the model agrees with torch on two batches."""
    prune(model, pattern, keep)
    compiled = flexgroup.compile(model, (torch.randn(examples, *shape),), target=target, threads=threads)
    for _ in range(2):
        agree(model, compiled, torch.randn(batch, *shape))


def twins_agree(
    model: nn.Module, shape: tuple[int, ...], pattern: str, keep: float, *, target: Target, threads: int
) -> None:
    """Pruned and planned for any target, the model means the same to the numpy twins as to torch."""
    prune(model, pattern, keep)
    x = torch.randn(1, *shape)
    plan = plan_graph(optimize(from_torch(model, (x,))), target, threads=threads)
    with torch.no_grad():
        expected = model(x)[0].numpy()
    (given,) = run_plan(plan, x[0].numpy())
    np.testing.assert_allclose(given, expected, atol=1e-4 * max(1e-3, np.abs(expected).max()))
