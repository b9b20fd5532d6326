"""Prune in Hugging Face's ``Trainer``: one callback that steps the pruner and keeps its state in the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from flexgroup._errors import FlexgroupError
from flexgroup.integrations._attach import GivenPruner, check_before_training, finish, pruner_for, prunes
from flexgroup.integrations._state import load_pruner, write_pruner
from flexgroup.pruning import Pruner

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise FlexgroupError("the callback needs transformers: pip install 'flexgroup[transformers]'") from error

STATE = "pruner.safetensors"


class PruningCallback(TrainerCallback):
    """Prune the model of a ``transformers.Trainer`` while it trains.

        callback = PruningCallback(lambda model: Pruner(model, Groups("4x1", unaligned="rows"), sparsity=0.9))
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
        trainer.train()

    The pruner steps after every optimizer step, however many batches' gradients it accumulates, and before the
    gradients are cleared; a step that mixed precision skipped does not count. A checkpoint gets a file of its
    own, ``pruner.safetensors``, and ``train(resume_from_checkpoint=...)`` goes on from it. Weights in a checkpoint
    are still dense, with their masks beside them; `flexgroup.integrations.plain_state` makes them plain.

    Args:
        pruner: a `Pruner` of the trainer's model or of a part of it; or a function that makes one of the model,
            called when the model is on its device (at the end of ``Trainer.__init__``).
        finalize: leave plain weights with zeros when training ends (after ``load_best_model_at_end``).
        resume_from: the checkpoint's folder, where it lies elsewhere than in the trainer's ``output_dir``.

    Raises:
        FlexgroupError: before the first step: for another model's pruner, for a schedule that does not end within
            the training, and where a checkpoint has no pruner's state or that of another pattern.
    """

    def __init__(self, pruner: GivenPruner, *, finalize: bool = True, resume_from: str | Path | None = None) -> None:
        self.pruner: Pruner | None = None
        self._given = pruner
        self._finalize = finalize
        self._resume_from = resume_from
        self._reached: float | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.pruner = pruner_for(self._given, given["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model: nn.Module = given["model"]
        pruner, late = self.pruner, False
        if pruner is None or not prunes(pruner, model):
            pruner, late = pruner_for(self._given, model), True
        if state.global_step > 0:
            if late:
                raise FlexgroupError(
                    "the checkpoint was loaded before the model was pruned; to resume, give the callback to "
                    "Trainer(callbacks=[...]), and the trainer a model rather than model_init"
                )
            # A callback is not told from where the trainer resumes; load_pruner finds out if this guess is wrong.
            load_pruner(pruner, Path(self._resume_from or _folder(args.output_dir, state.global_step)) / STATE)
        check_before_training(pruner, state.max_steps - state.global_step)
        self.pruner = pruner
        self._reached = None
        self._note(pruner)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        assert self.pruner is not None
        if not getattr(given["optimizer"], "step_was_skipped", False):
            self.pruner.step()
            self._note(self.pruner)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        assert self.pruner is not None
        folder = _folder(args.output_dir, state.global_step)
        # A hyperparameter search has folders of its own, which callbacks are not told.
        write_pruner(self.pruner, folder / STATE if args.should_save and folder.is_dir() else None)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        assert self.pruner is not None
        finish(self.pruner, self._reached, self._finalize)

    def _note(self, pruner: Pruner) -> None:
        """Remember how sparse the schedule's last choice left the model: the best model may be an earlier one."""
        if self._reached is None and pruner.steps >= pruner.schedule.last:
            self._reached = pruner.sparsity


def _folder(output: str, step: int) -> Path:
    """Where the trainer puts the checkpoint of a step."""
    return Path(output) / f"checkpoint-{step}"
