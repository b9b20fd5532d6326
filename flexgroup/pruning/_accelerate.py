"""Hugging Face Accelerate, for the length of one training: devices, processes, precision, trackers."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._distributed import is_sharded, ranks

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours: Accelerate's


@contextlib.contextmanager
def accelerator_for(
    device: torch.device,
    precision: str,
    accumulate: int = 1,
    trackers: Sequence[str] = (),
    folder: Path | None = None,
) -> Iterator[Any]:
    """An `accelerate.Accelerator` of our own; the process's other ones, and the device of models, stay as they are.

    Under ``torchrun`` or ``accelerate launch`` it joins the processes. Raises `FlexgroupError` where Accelerate or a
    tracker is not installed, and where processes were joined in a way that Accelerate does not see.
    """
    check_installed(trackers, folder)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    # Accelerate's state is the process's, and refuses a second precision or device: ours is set aside afterwards.
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    sharding = os.environ.pop("ACCELERATE_USE_FSDP", None)
    for state in shared:
        state.clear()
    accelerator = None
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=PRECISIONS[precision],
            device_placement=False,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate, sync_with_dataloader=False),
            log_with=list(trackers) or None,
            project_dir=None if folder is None else str(folder),
        )
        if accelerator.num_processes != ranks():
            raise FlexgroupError(
                f"torch.distributed has {ranks()} processes, but Accelerate sees {accelerator.num_processes}; "
                f"start them with torchrun or accelerate launch"
            )
        yield accelerator
    finally:
        for tracker in accelerator.trackers if accelerator is not None else ():
            tracker.finish()
        if sharding is not None:
            os.environ["ACCELERATE_USE_FSDP"] = sharding
        for state, content in zip(shared, before, strict=True):
            state.clear()
            state.update(content)


class _Whole(nn.Module):
    """The network inside a module of its own, so that what Accelerate changes on it is not changed on the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)


def distribute(accelerator: Any, model: nn.Module) -> nn.Module:
    """The module to run in training steps: the model itself, or wrapped so that processes average gradients (DDP).

    A model whose parameters are sharded already (by ``torch.distributed.fsdp.fully_shard``) averages by itself.
    """
    if ranks() == 1 or any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        warnings.warn(
            "FSDP is asked for, but no parameter of the model is sharded: every process holds all of it (DDP); "
            "call torch.distributed.fsdp.fully_shard on the model first",
            stacklevel=2,
        )
    prepared: nn.Module = accelerator.prepare_model(_Whole(model))
    return prepared


@contextlib.contextmanager
def joined_processes(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` or ``accelerate launch`` started, if one of them did and none has yet."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or torch.distributed.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        torch.distributed.barrier()  # a process that leaves while others still talk to it may be aborted by gloo
    finally:
        torch.distributed.destroy_process_group()


def check_installed(trackers: Sequence[str] = (), folder: Path | None = None) -> None:
    """Raise `FlexgroupError` where Accelerate or a tracker is not installed, or a tracker has no folder."""
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    except ImportError as error:
        raise FlexgroupError("training needs Accelerate; install it: pip install 'flexgroup[train]'") from error

    usable = {str(name) for name in get_available_trackers()}
    for name in trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise FlexgroupError(
                f"tracker {name!r} is not one of Accelerate's: {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}"
            )
        if name not in usable:
            raise FlexgroupError(f"tracker {name!r} is not installed; pip install {name}")
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and folder is None:
            raise FlexgroupError(f"tracker {name!r} writes files; give tracker_folder=")
