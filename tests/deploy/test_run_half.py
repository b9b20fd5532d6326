"""Objects in fp16: with fp16 arithmetic they run on AArch64, with conversions on this machine, and agree with torch."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError, Groups
from flexgroup.deploy import export
from flexgroup.kernels import host_target
from flexgroup.pruning import prune
from flexgroup.zoo import build
from tests.deploy.test_object import ELF, UNDEFINED, read_elf
from tests.engine.networks import randomise

pytestmark = pytest.mark.skipif(not host_target().half, reason="this machine has no instructions for fp16 numbers")

SHAPE = (1, 3, 17, 11)
NEAR = 2e-2  # of the largest output, as what is exported is checked for


def images(*shape: int) -> list[torch.Tensor]:
    return list(torch.randn(3, 1, *shape, generator=torch.Generator().manual_seed(5)))


def differences(run_objects, machine: str, files, model: nn.Module, inputs: list[torch.Tensor]) -> list[float]:
    """Of every image, relative to the largest output; the first image gives the same at the end."""
    results = run_objects(machine, [files], [[x.numpy()] for x in (*inputs, inputs[0])])
    assert np.array_equal(results[0][0], results[-1][0])
    found = []
    for x, (given,) in zip(inputs, results, strict=False):
        want = model(x).detach().numpy()
        found.append(float(np.abs(given - want.reshape(given.shape)).max() / np.abs(want).max()))
    return found


@pytest.mark.parametrize(
    ("target", "accumulate"),
    [("aarch64-linux", None), ("aarch64-android", None), ("aarch64-linux", "fp32"), ("host", None)],
)
def test_a_small_network(run_objects, small_net, tmp_path, target, accumulate):
    options = {"precision": "fp16", "accumulate": accumulate}
    files = export(small_net, (torch.randn(SHAPE),), tmp_path / "out", target=target, name="small", **options)
    machine = platform.machine() if target == "host" else "aarch64"
    found = differences(run_objects, machine, files, small_net, images(*SHAPE[1:]))
    assert 1e-6 < max(found) < NEAR


class Everything(nn.Module):
    """A depthwise convolution, gates, resizing, attention, a norm and a shuffle: the other kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8 * 30, 9)

    def forward(self, x):
        x = torch.nn.functional.silu(self.depthwise(x))
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = torch.nn.functional.interpolate(x, size=(5, 6), mode="bilinear")
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])
        return torch.softmax(self.head(tokens.flatten(1)), -1)


def test_all_other_kernels_with_fp16_arithmetic(run_objects, tmp_path):
    model = Everything().eval()
    randomise(model, 4)
    files = export(
        model, (torch.randn(1, 8, 9, 12),), tmp_path / "out", target="aarch64-linux", name="all", precision="fp16"
    )
    assert max(differences(run_objects, "aarch64", files, model, images(8, 9, 12))) < NEAR


@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v1_025"])
def test_a_pruned_network_with_fp16_arithmetic(run_objects, tmp_path, network):
    torch.manual_seed(0)
    model = build(network).eval()
    prune(model, Groups("4x1", unaligned="rows"), 0.5)
    inputs = images(3, 32, 32)[:2]
    files = export(model, (inputs[0],), tmp_path / "out", target="aarch64-android", name="pruned", precision="fp16")
    assert files.macs < 0.85 * files.dense_macs
    found = differences(run_objects, "aarch64", files, model, inputs)
    assert max(found) < NEAR
    # What was measured here, where results are rounded one by one, is what the processor computes.
    assert files.error == pytest.approx(found[0], rel=0.3)


@pytest.mark.parametrize("target", [name for name in ELF if name not in ("x86-64", "wasm32")])
def test_no_symbol_is_missing(small_net, tmp_path, target):
    files = export(small_net, (torch.ones(SHAPE),), tmp_path / "out", target=target, name="small", precision="fp16")
    _, symbols = read_elf(files.object.read_bytes())
    assert not [symbol.name for symbol in symbols if symbol.section == UNDEFINED and symbol.name]


def test_the_header_says_what_is_computed_in_which_precision(small_net, tmp_path):
    example = (torch.ones(SHAPE),)
    half = export(small_net, example, tmp_path / "half", target="aarch64-ios", precision="fp16")
    assert half.precision == "fp16"
    text = half.header.read_text()
    assert "precision  fp16: stored, multiplied and added in 16 bits; long sums, softmax and norms in 32" in text
    assert "layout     NCHW float32" in text
    assert "const float *input, float *output" in text
    single = export(small_net, example, tmp_path / "single", target="aarch64-ios")
    assert (single.precision, "precision  fp32\n" in single.header.read_text()) == ("fp32", True)


@pytest.mark.parametrize("target", ["wasm32", "x86-64"])
def test_targets_without_fp16_are_refused(small_net, tmp_path, target):
    with pytest.raises(
        FlexgroupError, match=f"target {target} has no instructions for fp16 numbers; use precision='fp32'"
    ):
        export(small_net, (torch.ones(SHAPE),), tmp_path / "out", target=target, precision="fp16")
    assert list(tmp_path.iterdir()) == []
