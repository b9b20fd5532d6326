"""What becomes of the values of pruned weights, so that they may or may not come back at a later choice."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._mask import dense_original, mask_of

REGROWTHS = ("memory", "none", "straight-through")


def check_regrowth(regrowth: str, shrink: float) -> None:
    """Raise `FlexgroupError` for an unknown regrowth, or a ``shrink`` that is not a rate or has nothing to shrink."""
    if regrowth not in REGROWTHS:
        raise FlexgroupError(f"regrowth={regrowth!r} is not known; use one of {', '.join(map(repr, REGROWTHS))}")
    if isinstance(shrink, bool) or not isinstance(shrink, (int, float)) or not 0 <= shrink < float("inf"):
        raise FlexgroupError(f"shrink={shrink!r} is not a decay rate; use a number of at least 0, such as 0.0002")
    if shrink and regrowth == "none":
        raise FlexgroupError(
            f"shrink={shrink:g} has nothing to shrink: with regrowth='none' pruned weights are zero already; "
            f"use regrowth='straight-through' or 'memory'"
        )


@torch.no_grad()
def forget_pruned(modules: Iterable[nn.Module]) -> None:
    """Set the dense values under the masks to zero, whatever momentum or weight decay made of them."""
    originals, kept = _values_and_masks(modules)
    torch._foreach_mul_(originals, kept)


def shrink_pruned(modules: Sequence[nn.Module], rate: float) -> Callable[[], None]:
    """Add ``rate * w`` to the gradient of every pruned weight whenever an optimizer is about to step.

    Equation 9 of Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch" (SR-STE,
    2021, arXiv 2102.04010). Returns a function that ends it.
    """

    def pull(ours: Sequence[nn.Module]) -> Sequence[Tensor]:
        originals, kept = _values_and_masks(ours)
        return torch._foreach_mul(originals, [~mask for mask in kept])

    return add_to_gradients(modules, pull, rate)


def add_to_gradients(
    modules: Sequence[nn.Module], pull: Callable[[Sequence[nn.Module]], Sequence[Tensor]], rate: float
) -> Callable[[], None]:
    """Add ``rate`` times what ``pull`` says to the gradients of masked weights whenever an optimizer is about to step.

    ``pull(modules)`` gives one tensor a module. Done before the optimizer's step and not in ``backward()``, so that it
    is added once however many micro-batches a step has, and after a gradient scaler has undone its scale. Weights
    without a gradient, and those of other optimizers, are left alone. Returns a function that ends it.
    """
    alive = [weakref.ref(module) for module in modules]

    @torch.no_grad()
    def add(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        here = {id(entry) for group in optimizer.param_groups for entry in group["params"]}
        found = [module for module in (reference() for reference in alive) if module is not None]
        masked = [module for module in found if mask_of(module) is not None]
        ours = [module for module in masked if id(dense_original(module)) in here]
        ours = [module for module in ours if dense_original(module).grad is not None]
        gradients = [gradient for gradient in (dense_original(module).grad for module in ours) if gradient is not None]
        if gradients:
            torch._foreach_add_(gradients, list(pull(ours)), alpha=rate)

    return register_optimizer_step_pre_hook(add).remove


def _values_and_masks(modules: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """The dense originals and their masks; masks of sharded weights are sharded alike, without communication."""
    originals, masks = [], []
    for module in modules:
        mask, original = mask_of(module), dense_original(module)
        if mask is not None:
            originals.append(original)
            masks.append(like(mask.kept, original))
    return originals, masks


def like(tensor: Tensor, weight: Tensor) -> Tensor:
    """A tensor that every rank has whole, sharded as ``weight`` is; the tensor itself where it is not."""
    if not hasattr(weight, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)
