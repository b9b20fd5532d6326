"""Networks give the same results on an OpenCL device as in torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup import Groups, gpu
from flexgroup.zoo import resnet20

Compare = Callable[..., gpu.GpuModel]
Prune = Callable[[nn.Module, Groups, float], nn.Module]


class Everything(nn.Module):
    """Every operator that the kernel families serve, in one small network."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 12, 5, padding=2)
        self.depthwise = nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 18, 3, padding=1, groups=3)
        self.dilated = nn.Conv2d(18, 18, 3, padding=2, dilation=2, bias=False)
        self.norm = nn.BatchNorm2d(18)
        self.project = nn.Conv2d(36, 10, 1)
        self.head = nn.Linear(10 * 4 * 5, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.depthwise(F.relu(self.wide(x))))
        x = self.grouped(x)
        x = F.relu(self.norm(x) + self.dilated(x))
        x = torch.cat([F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)], 1)
        x = F.pad(self.project(x), (1, 0, 0, 1))[:, :, 1:, :5]
        return self.head(torch.flatten(x, 1))


@pytest.mark.parametrize(
    ("groups", "keep"),
    [
        (None, 1.0),
        (Groups("1x1"), 0.1),
        (Groups("4x1"), 0.1),
        (Groups("4x1", unaligned="rows"), 0.1),
    ],
    ids=["dense", "fine-grained", "aligned", "unaligned"],
)
def test_resnet20_agrees_with_torch(groups: Groups | None, keep: float, same_as_torch: Compare, prune: Prune) -> None:
    model = resnet20()
    compiled = same_as_torch(prune(model, groups, keep) if groups else model, torch.randn(1, 3, 32, 32))
    assert compiled.error <= 1e-4


def test_every_operator_agrees_with_torch(same_as_torch: Compare) -> None:
    model = Everything()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2.0)
    compiled = same_as_torch(model, torch.randn(1, 3, 13, 18))
    families = {type(kernel).__name__ for kernel in compiled.plan.kernels()}
    assert families == {"ConvKernel", "CopyKernel", "ElementwiseKernel", "LinearKernel", "PoolKernel"}


def test_global_means_and_sums_of_vectors_agree_with_torch(same_as_torch: Compare) -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 30), nn.Linear(6, 30)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            means = x.mean((2, 3))
            return F.relu(self.first(means) + F.relu6(self.second(means)))

    compiled = same_as_torch(Gate(), torch.randn(1, 6, 7, 9))
    assert "MeanKernel" in {type(kernel).__name__ for kernel in compiled.plan.kernels()}


def test_several_inputs_and_outputs_keep_their_order(device: gpu.Device) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 5, 3, padding=1)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.conv(a)
            return y + b, y.mean((2, 3))

    model, inputs = Two().eval(), (torch.randn(2, 2, 6, 5), torch.randn(2, 5, 6, 5))
    given = gpu.compile(model, inputs, device=device)(*inputs)
    for have, want in zip(given, model(*inputs), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)


def test_numpy_in_gives_numpy_out_and_an_empty_batch_is_empty(device: gpu.Device) -> None:
    model, x = nn.Conv2d(3, 4, 3).eval(), torch.randn(2, 3, 8, 8)
    compiled = gpu.compile(model, (x,), device=device)
    given = compiled(x.numpy())
    assert isinstance(given, np.ndarray)
    np.testing.assert_array_equal(given, compiled(x).numpy())
    assert compiled(x[:0]).shape == (0, 4, 6, 6)


def test_a_nan_stays_a_nan_through_clamps_and_pools(device: gpu.Device) -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)).eval()
    x = torch.arange(32.0).reshape(1, 2, 4, 4) - 16
    compiled = gpu.compile(model, (x,), device=device)
    x[0, 1, 0, 0] = float("nan")
    torch.testing.assert_close(compiled(x), model(x), equal_nan=True)
