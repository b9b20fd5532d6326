"""One pattern on every rank: gathering what is sharded, averaging scores, broadcasting choices.

In one process each function returns its argument, at the cost of a look at `torch.distributed`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one (a DTensor, as FSDP2 makes of parameters); any other tensor as it is.

    Gathering is collective: all ranks must call it, on the same tensors in the same order.
    """
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def shared_like(full: Tensor, like: Tensor) -> Tensor:
    """The inverse of `whole`: ``full`` sharded as ``like`` is, or as it is where ``like`` is not sharded.

    Collective; all ranks must hold the same ``full``.
    """
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds only a part of the tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def reshard(model: nn.Module) -> None:
    """Give back what running a sharded model without ``backward()`` has gathered; the parameters are parts again."""
    for module in model.modules():
        if hasattr(module, "set_reshard_after_backward"):  # only modules that fully_shard has changed have it
            module.reshard()  # type: ignore[operator]


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all ranks, in its own dtype; collective. With one rank, the tensor itself."""
    if ranks() == 1:
        return tensor
    total = tensor.detach().to(_communicating(tensor.device), copy=True)
    dist.all_reduce(total)
    return total.to(tensor.device)


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of ``tensor`` over all ranks, in its own dtype; collective. With one rank, the tensor itself."""
    return tensor if ranks() == 1 else sum_over_ranks(tensor).div_(ranks())


def from_first_rank(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first rank's masks, bit for bit, on every rank; collective. Names, shapes and dtypes must agree.

    Ranks that have the same scores choose the same groups; but sums over ranks need not be the same to the last
    bit on machines that differ, and one bit can decide a tie.
    """
    if ranks() == 1:
        return dict(masks)
    received = {}
    for name, mask in masks.items():
        flat = mask.detach().to(_communicating(mask.device), torch.uint8, copy=True).contiguous()
        dist.broadcast(flat, src=0)
        received[name] = flat.to(mask.device, mask.dtype)
    return received


def ranks() -> int:
    """How many processes train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this process is, from 0; the first one chooses, and writes files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def text_from_first_rank(text: str) -> str:
    """The first rank's text, on every rank; collective."""
    if ranks() == 1:
        return text
    texts: list[str] = [text]
    dist.broadcast_object_list(texts, src=0)
    return texts[0]


def _communicating(device: torch.device) -> torch.device:
    """Where a tensor must lie to be sent: NCCL takes none of the CPU's, gloo takes those of both."""
    if device.type == "cpu" and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return device
