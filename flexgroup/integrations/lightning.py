"""Prune in Lightning's ``Trainer``: one callback that steps the pruner and keeps its state in the checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.integrations._attach import GivenPruner, check_before_training, finish, is_open, pruner_for, prunes
from flexgroup.integrations._state import plain_state
from flexgroup.pruning import Pruner

try:
    from lightning.pytorch import Callback
    from lightning.pytorch.callbacks import WeightAveraging
except ImportError as error:
    raise FlexgroupError("the callback needs lightning 2.6: pip install 'flexgroup[lightning]'") from error


class PruningCallback(Callback):
    """Prune the module of a ``lightning.pytorch.Trainer`` while it trains.

        callback = PruningCallback(lambda module: Pruner(module.net, Groups("4x1", unaligned="rows"), sparsity=0.9))
        trainer = lightning.Trainer(max_epochs=10, callbacks=[callback])
        trainer.fit(module, loader)

    The pruner steps right after each step of the optimizer that holds the pruned weights, with gradients still in
    place: accumulated batches count once, steps that mixed precision skips do not count, and manual optimization
    works too. Its state is in every checkpoint, and ``fit(ckpt_path=...)`` goes on from it. Weights in a checkpoint
    of the training are still dense, with their masks beside them: ``test(ckpt_path=...)`` takes them as they are, for
    other uses `flexgroup.integrations.plain_state` makes them plain. ``WeightAveraging`` comes after this callback,
    with ``use_buffers=False``, so that weights are averaged and the pattern is not.

    Args:
        pruner: a `Pruner` of the module or of a part of it; or a function that makes one of the module, called in
            ``setup``, before a checkpoint is loaded and before the module moves to its device (masks move along).
        finalize: leave plain weights with zeros when the fit ends.

    Raises:
        FlexgroupError: before the first step: for another model's pruner, a schedule that does not end within the
            training, an optimizer without the pruned weights, and averaging that would undo the pattern.
    """

    def __init__(self, pruner: GivenPruner, *, finalize: bool = True) -> None:
        self.pruner: Pruner | None = None
        self._given = pruner
        self._finalize = finalize
        self._hooks: list[Any] = []
        self._trained: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        if stage == "fit":
            _check_averaging(trainer, self)
            if self.pruner is None or not prunes(self.pruner, pl_module):
                self.pruner = pruner_for(self._given, pl_module)
        elif self.pruner is None or not is_open(self.pruner):
            hook = pl_module.register_load_state_dict_pre_hook(_make_plain)  # type: ignore[no-untyped-call]
            self._hooks.append(hook)

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        assert self.pruner is not None
        steps = math.inf
        if pl_module.automatic_optimization:
            steps = trainer.estimated_stepping_batches - trainer.global_step
        check_before_training(self.pruner, steps)
        optimizer = _optimizer_of(self.pruner, trainer.optimizers)
        self._hooks.append(optimizer.register_step_post_hook(self._step))

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        assert self.pruner is not None
        self._trained = self.pruner.state_dict()

    def on_fit_end(self, trainer: Any, pl_module: nn.Module) -> None:
        assert self.pruner is not None
        assert self._trained is not None
        # Averaging has put its weights into the module, and the masks of its last update with them.
        self.pruner.load_state_dict(self._trained)
        ended = self.pruner.steps >= self.pruner.schedule.last
        finish(self.pruner, self.pruner.sparsity if ended else None, self._finalize)

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        self._release()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        self._release()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.pruner is None else self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.pruner is not None and is_open(self.pruner):
            self.pruner.load_state_dict(state_dict)

    def _step(self, *_: Any) -> None:
        assert self.pruner is not None
        self.pruner.step()

    def _release(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()


def _check_averaging(trainer: Any, callback: PruningCallback) -> None:
    """Averages are copies of the module: of the masked one, and with its masks and not a mean of them."""
    before = True
    for other in trainer.callbacks:
        before = before and other is not callback
        if isinstance(other, WeightAveraging):
            if before:
                raise FlexgroupError(
                    "WeightAveraging copies the module before it is pruned; put PruningCallback before it in callbacks"
                )
            if other._use_buffers:
                raise FlexgroupError(
                    "WeightAveraging averages buffers, and so the masks of pruned layers; "
                    "give it use_buffers=False: buffers are then copied"
                )


def _optimizer_of(pruner: Pruner, optimizers: list[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """The optimizer whose steps are the pruner's: the first that holds a pruned layer's weight."""
    layers = [pruner.model.get_submodule(name) for name in pruner.layers]
    weights = {id(layer.get_parameter("parametrizations.weight.original")) for layer in layers}
    for optimizer in optimizers:
        if any(id(weight) in weights for group in optimizer.param_groups for weight in group["params"]):
            return optimizer
    raise FlexgroupError(
        f"no optimizer holds the weights of the pruned layers ({', '.join(pruner.layers[:3])}, ...); "
        f"return one from configure_optimizers that has the module's parameters"
    )


def _make_plain(module: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    """Before a plain module loads a state: one of the training becomes plain, in place."""
    plain: Mapping[str, Tensor] = plain_state(state)
    state.clear()
    state.update(plain)
