"""The callback in the real ``transformers.Trainer``: steps, gradients, checkpoints, the best model, the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from flexgroup import FlexgroupError, Groups, Pruner
from flexgroup.integrations import plain_state
from flexgroup.pruning import weight_matrices

pytest.importorskip("transformers", reason="needs flexgroup[transformers]")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

from transformers import Trainer, TrainerCallback, TrainingArguments

from flexgroup.integrations.transformers import PruningCallback

Make = Callable[..., Trainer]


@pytest.fixture
def trainer(tmp_path: Path, make_net, samples) -> Make:
    """``trainer(callback, model=None, **arguments)``: 12 steps, a checkpoint after the fifth and the tenth."""

    def make(callback: Any, model: nn.Module | None = None, **options: Any) -> Trainer:
        arguments = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 12,
            "per_device_train_batch_size": 8,
            "save_steps": 5,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "logging_strategy": "no",
            **options,
        }
        callbacks = callback if isinstance(callback, list) else [callback]
        return Trainer(
            make_net() if model is None else model,
            TrainingArguments(**arguments),
            train_dataset=samples,
            eval_dataset=samples[:8],
            callbacks=callbacks,
        )

    return make


class Watch(TrainerCallback):
    """What a callback of the user's own sees after each step."""

    def __init__(self, pruning: PruningCallback) -> None:
        self.pruning = pruning
        self.steps: list[int] = []
        self.masks: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        assert self.pruning.pruner is not None
        self.steps.append(self.pruning.pruner.steps)
        self.masks.append(self.pruning.pruner.masks)


def test_the_sparsity_is_reached_and_the_pattern_is_frozen_after_the_schedule(trainer: Make, make_pruner) -> None:
    callback = PruningCallback(make_pruner)
    watch = Watch(callback)
    done = trainer([callback, watch])
    done.train()
    assert watch.steps == list(range(1, 13))
    frozen = watch.masks[7]
    for layer, matrix in weight_matrices(done.model).items():
        assert type(done.model.get_submodule(layer)) is nn.Linear
        assert torch.equal(matrix != 0, frozen[layer])
        assert torch.equal(watch.masks[11][layer], frozen[layer])
    assert any(not torch.equal(watch.masks[0][layer], frozen[layer]) for layer in frozen)
    assert callback.pruner.sparsity == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_weight_decay_and_momentum_do_not_revive_pruned_weights(trainer: Make, make_pruner, optimizer: str) -> None:
    momentum = {"optim_args": "momentum=0.9"} if optimizer == "sgd" else {}
    callback = PruningCallback(lambda model: make_pruner(model, end=4))
    done = trainer(callback, optim=optimizer, **momentum)
    before = {layer: matrix.clone() for layer, matrix in weight_matrices(done.model).items()}
    done.train()
    for layer, mask in callback.pruner.masks.items():
        now = weight_matrices(done.model)[layer]
        assert not now[~mask].any()
        assert (now != before[layer])[mask].all()


def test_accumulated_batches_are_one_step(trainer: Make, make_pruner) -> None:
    callback = PruningCallback(make_pruner)
    watch = Watch(callback)
    trainer([callback, watch], gradient_accumulation_steps=3).train()
    assert watch.steps == list(range(1, 13))


def test_a_step_that_mixed_precision_skipped_does_not_count(make_pruner, make_net) -> None:
    model = make_net()
    callback = PruningCallback(make_pruner)
    callback.on_init_end(None, None, None, model=model)
    for skipped in (True, False, True):
        callback.on_optimizer_step(None, None, None, optimizer=SimpleNamespace(step_was_skipped=skipped))
    assert callback.pruner.steps == 1


def test_criteria_see_the_gradients_of_the_step(trainer: Make, make_pruner) -> None:
    seen: list[float] = []

    def watching(weight: Tensor, gradient: Tensor | None) -> Tensor:
        seen.append(0.0 if gradient is None else float(gradient.abs().sum()))
        return weight.abs()

    trainer(PruningCallback(lambda model: make_pruner(model, criterion=watching))).train()
    layers = 2
    assert seen[: len(seen) - 4 * layers] == [0.0] * (len(seen) - 4 * layers)  # step 0, before there are gradients
    assert all(total > 0 for total in seen[-4 * layers :])  # steps 2, 4, 6, 8


@pytest.mark.parametrize(
    "options", [{}, {"criterion": "taylor", "regrowth": "straight-through"}], ids=["plain", "rich"]
)
@pytest.mark.parametrize("step", [5, 10])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(
    trainer: Make, make_pruner, make_net, step: int, options: dict[str, str]
) -> None:
    whole = trainer(PruningCallback(lambda model: make_pruner(model, **options)))
    whole.train()
    folder = Path(whole.args.output_dir) / f"checkpoint-{step}"
    assert (folder / "pruner.safetensors").is_file()
    callback = PruningCallback(lambda model: make_pruner(model, **options))
    other = make_net()
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.5)
    again = trainer(callback, other)
    again.train(resume_from_checkpoint=str(folder))
    assert callback.pruner.steps == 12
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.model.state_dict().items())


def test_a_checkpoint_of_the_training_loads_into_a_plain_network(trainer: Make, make_pruner, make_net) -> None:
    class Last(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.matrices = {k: v.detach().clone() for k, v in weight_matrices(given["model"]).items()}

    last = Last()
    done = trainer([PruningCallback(make_pruner), last])
    done.train()
    state = safetensors.torch.load_file(Path(done.args.output_dir) / "checkpoint-12" / "model.safetensors")
    plain = make_net()
    plain.load_state_dict(plain_state(state))
    assert all(torch.equal(matrix, last.matrices[layer]) for layer, matrix in weight_matrices(plain).items())
    assert plain_state(plain.state_dict()).keys() == plain.state_dict().keys()


def test_finalize_is_a_choice(trainer: Make, make_pruner) -> None:
    callback = PruningCallback(make_pruner, finalize=False)
    done = trainer(callback)
    done.train()
    assert type(done.model.hidden) is not nn.Linear
    done.train()
    assert callback.pruner.steps == 24


def test_a_pruner_of_the_model_may_be_given(trainer: Make, make_pruner, make_net) -> None:
    model = make_net()
    pruner = make_pruner(model)
    trainer(PruningCallback(pruner), model).train()
    assert pruner.steps == 12


def test_the_best_model_keeps_its_zeros_and_too_early_a_one_is_told(trainer: Make, make_pruner) -> None:
    class Grade(TrainerCallback):
        """The first evaluation is the best one."""

        def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            given["metrics"]["eval_grade"] = -float(state.global_step)

    callback = PruningCallback(make_pruner)
    options = {
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "metric_for_best_model": "grade",
        "greater_is_better": True,
    }
    done = trainer([Grade(), callback], **options)
    with pytest.warns(
        UserWarning, match="pruned, not 75.*are from before the schedule's last step, 8; choose the best"
    ):
        done.train()
    for layer, mask in callback.pruner.masks.items():
        assert torch.equal(weight_matrices(done.model)[layer] != 0, mask)
    assert callback.pruner.sparsity < 0.75


def test_a_model_of_the_library_is_pruned_saved_and_loaded(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, max_position_embeddings=16, **sizes))
    tokens = torch.randint(0, 30, (16, 6), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": line, "labels": torch.tensor(i % 2)} for i, line in enumerate(tokens)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, save_steps=2, report_to=[], disable_tqdm=True, use_cpu=True
    )
    callback = PruningCallback(lambda bert: Pruner(bert, Groups("4x1", "rows"), 0.5, targets=["*attention*"]))
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "final")
    assert len(callback.pruner.layers) == 4
    for layer, mask in callback.pruner.masks.items():
        assert torch.equal(loaded.get_submodule(layer).weight != 0, mask)


def test_a_schedule_that_does_not_end_is_told_before_the_first_step(trainer: Make, make_pruner) -> None:
    late = trainer(PruningCallback(lambda model: make_pruner(model, end=20)))
    with pytest.raises(FlexgroupError, match=r"schedule ends at step 20, .*training ends at step 12; train longer"):
        late.train()
    assert late.state.global_step == 0


def test_pruners_of_nothing_and_of_another_model_are_told(trainer: Make, make_pruner, make_net) -> None:
    with pytest.raises(FlexgroupError, match=r"PruningCallback\('4x1'\) has no pruner; give a Pruner, or a function"):
        trainer(PruningCallback("4x1"))
    with pytest.raises(FlexgroupError, match="returned None, not a Pruner; write for example"):
        trainer(PruningCallback(lambda model: None))
    with pytest.raises(FlexgroupError, match=r"prunes another model \(TinyNet\) than the one that is trained"):
        trainer(PruningCallback(make_pruner(make_net())))


def test_training_on_after_finalize_is_told(trainer: Make, make_pruner) -> None:
    done = trainer(PruningCallback(make_pruner))
    done.train()
    with pytest.raises(FlexgroupError, match="was finalized, so training would fill its zeros; use PruningCallback"):
        done.train()


def test_checkpoints_without_a_state_or_with_a_wrong_one_are_told(trainer: Make, make_pruner, make_net) -> None:
    whole = trainer(PruningCallback(make_pruner))
    whole.train()
    folder = Path(whole.args.output_dir) / "checkpoint-5"
    state = folder / "pruner.safetensors"
    kept = state.read_bytes()

    def resume(**options: Any) -> None:
        trainer(PruningCallback(make_pruner, **options)).train(resume_from_checkpoint=str(folder))

    with pytest.raises(FlexgroupError, match="of another pattern than the weights that the trainer loaded; name"):
        resume(resume_from=folder.with_name("checkpoint-10"))
    state.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(
        FlexgroupError, match=r"pruner.safetensors is damaged or not a pruner's .*; resume from an earl"
    ):
        resume()
    safetensors.torch.save_file({"masks/hidden": torch.zeros(3)}, state)
    with pytest.raises(FlexgroupError, match="is damaged or not a pruner's"):
        resume()
    state.unlink()
    with pytest.raises(FlexgroupError, match=r"pruner.safetensors is missing, .*resume_from=FOLDER\), or resume from"):
        resume()
    plain = make_net()
    plain._keys_to_ignore_on_save = None  # as models of the library have it
    added = trainer([], plain)
    added.add_callback(PruningCallback(make_pruner))
    with pytest.raises(FlexgroupError, match="checkpoint was loaded before the model was pruned; to resume, give"):
        added.train(resume_from_checkpoint=str(folder))
