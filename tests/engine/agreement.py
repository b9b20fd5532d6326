"""What every test of compiled networks asks: the same numbers as torch, run after run, and as the numpy twins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import flexgroup
from flexgroup.engine import plan_graph
from flexgroup.engine._agreement import agrees, difference
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import Target
from tests.engine.networks import prune
from tests.engine.twins import run_plan
from tests.kernels.here import HERE

RUNNABLE = list(HERE)


def agree(model: nn.Module, compiled: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    given = compiled(x)
    with torch.no_grad():
        assert given.shape == model(x).shape
    error = difference(model, lambda *_: given, (x,))
    assert agrees(error, None, model, (x,)), error


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
    agree(model, lambda *inputs: torch.from_numpy(np.stack([run_plan(plan, one.numpy())[0] for one in inputs[0]])), x)
