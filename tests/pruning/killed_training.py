"""A program that trains in child processes which are killed, and resumes until one gets to the end.

``python killed_training.py FOLDER '[{"step": 3}, {"operation": 7}, {"seconds": 0.2}]'``: the first child is killed
after its third step, the next at its seventh operation on files, the third from outside after a while; the last lives.
``FOLDER/killed`` then holds ``weights.safetensors``, ``metrics.jsonl`` and the checkpoints; ``FOLDER/whole`` those of a
child that nothing disturbed. Prints how each child of the first kind ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from flexgroup import Cubic, Groups, Pruner
from flexgroup.pruning import crop_and_flip, finetune


def train(folder: Path, resume: bool, kill: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)),
    )
    images, labels = torch.randint(0, 256, (96, 3, 8, 8), dtype=torch.uint8), torch.arange(96) % 4
    pruner = Pruner(model, Groups("4x1", "rows"), 0.7, schedule=Cubic(0, 18, 5), criterion="taylor")
    on_operation(kill.get("operation"))
    finetune(
        model,
        *(images, labels, images[:32], labels[:32]),
        epochs=4,
        batch_size=16,
        optimizer="adamw",
        lr=0.01,
        pruner=pruner,
        normalise=lambda pixels: pixels.float() / 255 - 0.5,
        augment=crop_and_flip,
        label_smoothing=0.1,
        accumulate=2,
        clip=1.0,
        checkpoints=folder / "checkpoints",
        checkpoint_every=4,
        resume=resume,
        metrics=folder / "metrics.jsonl",
        on_step=lambda step, steps: die() if step == kill.get("step") else None,
    )
    pruner.finalize()
    save_file(model.state_dict(), folder / "weights.safetensors")


def on_operation(number: int | None) -> None:
    """Die at the ``number``-th operation on files: before some, after others."""
    count = 0

    def counted(name: str, owner: Any) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and number % 2:
                die()
            result = real(*arguments, **options)
            if count == number:
                die()
            return result

        setattr(owner, name, call)

    for name, owner in (("fsync", os), ("replace", os), ("unlink", Path)):
        counted(name, owner)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def child(folder: Path, resume: bool, kill: dict[str, Any]) -> int:
    """Train in a fork; how it ended: 0, or minus the signal."""
    process = os.fork()
    if process == 0:
        try:
            train(folder, resume, kill)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if "seconds" in kill:
        time.sleep(kill["seconds"])
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    torch.set_num_threads(1)
    folder, kills = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name in ("whole", "killed"):
        (folder / name).mkdir(parents=True)
    child(folder / "whole", False, {})
    print(json.dumps([child(folder / "killed", number > 0, kill) for number, kill in enumerate([*kills, {}])]))


if __name__ == "__main__":
    main()
