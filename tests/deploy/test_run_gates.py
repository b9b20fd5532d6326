"""Objects with activations, gates, resizing and shuffles compute what torch computes, on every processor."""

from __future__ import annotations

import platform

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup.deploy import export
from tests.deploy.test_run_objects import images, runs_as_torch, runs_as_torch_in_webassembly


class Gates(nn.Module):
    """One of everything; every activation works on channels of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 18, 3, 2, 1)
        self.depthwise = nn.Conv2d(18, 18, 5, padding=2, groups=18)
        self.down, self.up, self.head = nn.Conv2d(18, 5, 1), nn.Conv2d(5, 18, 1), nn.Conv2d(18, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.stem(x))
        tanh = [F.gelu(x[:, 4:6]), F.gelu(x[:, 6:8], approximate="tanh"), torch.tanh(x[:, 8:10])]
        x = torch.cat([torch.sigmoid(x[:, :2]), F.mish(x[:, 2:4]), *tanh, F.leaky_relu(x[:, 10:], 0.1)], 1)
        x = F.softplus(self.depthwise(x)).log()
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        x = F.channel_shuffle(x * F.hardsigmoid(gate), 2)
        x = x * torch.sigmoid(x.mean(1, keepdim=True))
        y = F.interpolate(F.interpolate(x, size=(7, 5), mode="bilinear"), size=x.shape[2:])
        return F.interpolate(self.head(x + y), scale_factor=2, mode="bilinear", align_corners=True)


@pytest.fixture(scope="module")
def gates() -> nn.Module:
    return Gates().eval()


@pytest.mark.parametrize("target", ["host", "x86-64"])
def test_on_this_machine(run_objects, gates, tmp_path, target):
    x = images(3, 21, 34)
    files = export(gates, (x[0],), tmp_path / "out", target=target, name="gates")
    runs_as_torch(run_objects, platform.machine(), files, gates, x)


def test_on_aarch64(run_objects, gates, tmp_path):
    x = images(3, 21, 34)
    files = export(gates, (x[0],), tmp_path / "out", target="aarch64-android", name="gates")
    runs_as_torch(run_objects, "aarch64", files, gates, x)


def test_as_webassembly(gates, zig_tool, tmp_path):
    x = images(3, 21, 34)
    files = export(gates, (x[0],), tmp_path / "out", target="wasm32", name="small")
    runs_as_torch_in_webassembly(zig_tool, tmp_path, files, gates, x)
