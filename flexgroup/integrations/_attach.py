"""What every callback does with its pruner: find it, check it before the first step, let it go at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import nn
from torch.nn.utils import parametrize

from flexgroup._errors import FlexgroupError
from flexgroup.pruning import Pruner

GivenPruner = Pruner | Callable[[nn.Module], Pruner]


def pruner_for(given: GivenPruner, model: nn.Module) -> Pruner:
    """The pruner that was given, or the one that the given function makes of ``model``.

    Raises `FlexgroupError` if there is none, or if it prunes a model that is no part of ``model``.
    """
    if not isinstance(given, Pruner) and not callable(given):
        raise FlexgroupError(
            f"PruningCallback({given!r}) has no pruner; give a Pruner, or a function of the model that returns one"
        )
    pruner = given if isinstance(given, Pruner) else given(model)
    if not isinstance(pruner, Pruner):
        raise FlexgroupError(
            f"the function that was given to PruningCallback returned {pruner!r}, not a Pruner; "
            f"write for example lambda model: Pruner(model, groups, sparsity)"
        )
    if not prunes(pruner, model):
        raise FlexgroupError(
            f"the pruner of PruningCallback prunes another model ({type(pruner.model).__name__}) than the one that "
            f"is trained ({type(model).__name__}); make it on that model, or give a function of the model"
        )
    return pruner


def prunes(pruner: Pruner, model: nn.Module) -> bool:
    """Whether the pruner's model is ``model`` or a part of it."""
    return any(module is pruner.model for module in model.modules())


def is_open(pruner: Pruner) -> bool:
    """Whether the pruner can step: its layers are still masked."""
    return all(parametrize.is_parametrized(pruner.model.get_submodule(name), "weight") for name in pruner.layers)


def check_before_training(pruner: Pruner, steps: float) -> None:
    """Raise `FlexgroupError` if ``steps`` more optimizer steps cannot bring the pruner to the end of its schedule."""
    if not is_open(pruner):
        raise FlexgroupError(
            "the model was finalized, so training would fill its zeros; "
            "use PruningCallback(..., finalize=False) to train on later, or make a new pruner"
        )
    if pruner.schedule.last > pruner.steps + steps:
        raise FlexgroupError(
            f"the schedule ends at step {pruner.schedule.last}, but the training ends at step "
            f"{pruner.steps + steps:.0f}; train longer, or end the schedule earlier"
        )


def finish(pruner: Pruner, wanted: float | None, finalize: bool) -> None:
    """Finalize on request; warn if the model is less sparse than ``wanted``: what the last choice made of it.

    None means that the last choice was never made.
    """
    if wanted is None or pruner.sparsity < wanted - 1e-9:
        warnings.warn(
            f"{pruner.sparsity:.1%} of the targeted weights are pruned, not {wanted or pruner.final_sparsity:.1%}: "
            f"these weights are from before the schedule's last step, {pruner.schedule.last}; "
            f"choose the best model among later ones, or train to the end",
            stacklevel=3,
        )
    if finalize:
        pruner.finalize()
