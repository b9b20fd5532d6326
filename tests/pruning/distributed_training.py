"""A program that trains in as many processes as start it (``torchrun``, or none), with parameters whole and sharded.

``torchrun --nproc-per-node 2 distributed_training.py FOLDER``: every process leaves the weights and the masks that it
ended with in ``FOLDER/KIND-RANK.safetensors`` for each kind in `KINDS`, and ``FOLDER/KIND-RANK.json``, its history.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from flexgroup import Cubic, Groups, Pruner
from flexgroup.pruning import finetune
from flexgroup.pruning._distributed import whole

KINDS = ("whole", "accumulated", "resumed", "sharded")


def network() -> nn.Module:
    """Without batch norms, whose statistics would be each process's own."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)),
    )


class Stop(BaseException):
    pass


def train(kind: str, folder: Path) -> None:
    rank = int(os.environ.get("RANK", 0))
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(70, 3, 8, 8, generator=generator), torch.arange(70) % 4
    for resume in (False, True) if kind == "resumed" else (False,):
        model = network()
        pruner = Pruner(model, Groups("4x1", "rows"), 0.7, schedule=Cubic(0, 8, 2))
        if kind == "sharded" and torch.distributed.is_initialized():
            from torch.distributed.fsdp import fully_shard

            mesh = torch.distributed.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
            fully_shard(model, mesh=mesh)

        def on_step(step: int, _: int, stop: bool = kind == "resumed" and not resume) -> None:
            if stop and step == 7:
                raise Stop

        try:
            history = finetune(
                model,
                *(images, labels, images[:33], labels[:33]),
                epochs=3,
                batch_size=16,
                pruner=pruner,
                clip=5.0,
                accumulate=2 if kind == "accumulated" else 1,
                checkpoints=folder / "checkpoints" / kind,
                checkpoint_every=3,
                resume=resume,
                metrics=folder / f"metrics-{kind}.jsonl",
                on_step=on_step,
            )
        except Stop:
            continue
        state = {name: whole(tensor).contiguous().clone() for name, tensor in model.state_dict().items()}
        save_file(state, folder / f"{kind}-{rank}.safetensors")
        epochs = [asdict(epoch) for epoch in history.epochs]
        (folder / f"{kind}-{rank}.json").write_text(json.dumps({"epochs": epochs, "sparsity": pruner.sparsity}))


def main() -> None:
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    for kind in sys.argv[2:] or KINDS:
        train(kind, Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
