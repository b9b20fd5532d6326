"""The networks of the runs, before training and as they are timed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from _cifar10_runs import Dense, Pruned, Run
from torch import nn

from flexgroup import FlexgroupError, Groups
from flexgroup.pruning import permute, prune
from flexgroup.zoo import CifarResNet, load_weights

IMAGE = (3, 32, 32)


def network_of(run: Run) -> CifarResNet:
    """The network of a run with fresh random weights."""
    return CifarResNet(run.blocks, width=run.width) if isinstance(run, Dense) else CifarResNet(3)


def check_weights(weights: Path) -> None:
    """Raise `FlexgroupError` unless the file holds a ResNet-20 for CIFAR-10."""
    if not weights.is_file():
        raise FlexgroupError(f"--weights {weights} is no file; give the pretrained ResNet-20 as .safetensors")
    load_weights(network_of(Pruned("1x1", "aligned", 0.5, 0)), weights)


def permute_for(run: Pruned, model: nn.Module) -> None:
    """Permute the network's channels, where the run says so."""
    if "permuted" in run.alignment:
        permute(model, (torch.zeros(2, *IMAGE),), run.spec, run.sparsity, budget=_within_layers(run.budget))


def pattern_like(run: Pruned, kept: Mapping[str, int], weights: Path) -> CifarResNet:
    """A network that takes as long as the run's: pretrained, with as many weights in each layer as the run has kept.

    ``kept`` maps the name of a layer to their number. They are those of the largest groups of the pretrained network,
    of the run's shape, alignment and budget for lines, after its permutation of channels.
    """
    model = network_of(run)
    load_weights(model, weights)
    permute_for(run, model)
    budget = "line" if _within_layers(run.budget) == "line" else "layer"
    for name, count in kept.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        if count == 0:
            nn.init.zeros_(layer.weight)
        else:
            prune(model, run.spec, 1 - count / layer.weight.numel(), budget=budget, targets=[name])
    return model


def side_by_side(run: Run, model: nn.Module) -> nn.Module:
    """The network as it is compiled: whole filters that are left become neighbours, as if the others were cut out."""
    if isinstance(run, Pruned) and run.groups == "1xK":
        permute(model, (torch.zeros(2, *IMAGE),), Groups("4x1"), run.sparsity, budget="layer")
    return model.eval()


def _within_layers(budget: str) -> str:
    """The budget without the rule for the layers' shares, for what does not know it."""
    return {"erdos-renyi": "layer", "erdos-renyi-line": "line"}.get(budget, budget)
