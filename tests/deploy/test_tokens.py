"""Exported transformers and sparse linear layers compute what torch computes, on every machine that runs here."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import nn

from flexgroup import Groups
from flexgroup.deploy import export
from flexgroup.pruning import prune
from tests.deploy.test_run_objects import runs_as_torch, runs_as_torch_in_webassembly
from tests.engine.networks import randomise
from tests.engine.networks_tokens import Block, Patches, Pooled


def transformer() -> nn.Module:
    """Patches, two blocks (one causal), a classifier of the class token; 4x1 groups that start anywhere."""
    model = nn.Sequential(
        Patches(3, 24, 4, 12), Block(24, 3, 40, "timm", True), Block(24, 3, 40, "causal", False), Pooled(24, "class")
    )
    randomise(model, 0)
    prune(model, Groups("4x1", unaligned="rows"), 0.7)
    return model


@pytest.mark.parametrize(
    ("machine", "target"), [(platform.machine(), "host"), ("aarch64", "aarch64-linux"), ("aarch64", "aarch64-android")]
)
def test_a_pruned_vision_transformer(run_objects, tmp_path, machine, target):
    model, x = transformer(), list(torch.randn(3, 1, 3, 12, 16))
    files = export(model, (x[0],), tmp_path / "out", target=target, name="vit")
    runs_as_torch(run_objects, machine, files, model, x)


@pytest.mark.parametrize(("machine", "target"), [(platform.machine(), "host"), ("aarch64", "aarch64-linux")])
@pytest.mark.parametrize("groups", [Groups("8x1", unaligned="rows"), Groups("1x8", unaligned="cols")])
def test_sparse_linear_layers(run_objects, tmp_path, machine, target, groups):
    model = nn.Sequential(nn.Linear(128, 100), nn.ReLU(), nn.Linear(100, 64))
    randomise(model, 0)
    prune(model, groups, 0.9)
    files = export(model, (torch.randn(1, 128),), tmp_path / "out", target=target, name="mlp")
    assert files.macs < files.dense_macs / 2
    runs_as_torch(run_objects, machine, files, model, list(torch.randn(3, 1, 128)))


def test_as_webassembly(zig_tool, tmp_path):
    model, x = transformer(), list(torch.randn(3, 1, 3, 12, 16))
    files = export(model, (x[0],), tmp_path / "out", target="wasm32", name="small")
    runs_as_torch_in_webassembly(zig_tool, tmp_path, files, model, x)
