"""Regrowth, decay and averaged criteria work on weights that FSDP shards, here over a mesh of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from flexgroup import Groups, Pruner
from flexgroup.pruning import Constant, Iterative
from flexgroup.pruning._distributed import whole


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[object]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "options",
    [
        {"regrowth": "none"},
        {"regrowth": "straight-through", "shrink": 0.1, "criterion": "taylor"},
        {"criterion": "wanda"},
        {"schedule": Iterative(2, every=2, rewind=1), "regrowth": "none"},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_sharded_network_trains_to_the_same_weights(mesh, images, labels, options: dict[str, object]) -> None:
    def trained(sharded: bool) -> tuple[Pruner, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
        pruner = Pruner(model, Groups("2x1", "rows"), 0.7, **{"schedule": Constant(1, 4, 1), **options})
        if sharded:
            fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        state = pruner.state_dict()
        for step in range(6):
            if step == 3:  # as if resumed
                state = pruner.state_dict()
                pruner.load_state_dict(state)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            pruner.step()
        weights = {name: whole(value).detach().clone() for name, value in model.named_parameters()}
        return pruner, weights, state["averages"]

    pruner, weights, averages = trained(sharded=False)
    other, other_weights, other_averages = trained(sharded=True)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in pruner.masks.items())
    assert all(torch.allclose(value, other_weights[name], atol=1e-6) for name, value in weights.items())
    assert all(torch.allclose(value, other_averages[name], atol=1e-6) for name, value in averages.items())
