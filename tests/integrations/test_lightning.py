"""The callback in the real ``lightning.pytorch.Trainer``: steps, gradients, checkpoints, averages, the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flexgroup import FlexgroupError
from flexgroup.integrations import plain_state
from flexgroup.pruning import weight_matrices

pytest.importorskip("lightning", reason="needs flexgroup[lightning]", minversion="2.6")

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging

from flexgroup.integrations.lightning import PruningCallback

OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
}


class Module(lightning.LightningModule):
    def __init__(self, net: nn.Module, optimizer: str = "AdamW") -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(**batch)["loss"]

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.log("loss", self.net(**batch)["loss"])

    def test_step(self, batch: dict[str, Tensor]) -> None:
        self.log("test_loss", self.net(**batch)["loss"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](self.parameters())


class Manual(Module):
    """Two optimizers, both stepped in every batch; the first has no pruned weight."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor]) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.net(**batch)["loss"])
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        last, others = list(self.net.classifier.parameters()), list(self.net.hidden.parameters())
        return [torch.optim.SGD(last, lr=0.1), torch.optim.SGD(others, lr=0.1)]


class Watch(lightning.Callback):
    def __init__(self, pruning: PruningCallback) -> None:
        self.pruning = pruning
        self.steps: list[int] = []
        self.masks: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        assert self.pruning.pruner is not None
        self.steps.append(self.pruning.pruner.steps)
        self.masks.append(self.pruning.pruner.masks)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Lightning advises on workers and logging, which is not what is tested here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        yield


@pytest.fixture
def fit(tmp_path: Path, make_net, samples) -> Callable[..., Any]:
    """``fit(callbacks, module=None, ckpt_path=None, **options)`` -> (trainer, module): 12 steps in two epochs."""

    def run(callbacks: Any, module: Module | None = None, ckpt_path: Any = None, **options: Any) -> Any:
        module = Module(make_net()) if module is None else module
        loader = torch.utils.data.DataLoader(samples, batch_size=8)
        arguments = {
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
            "default_root_dir": tmp_path,
            **options,
        }
        trainer = lightning.Trainer(callbacks=callbacks, **arguments)
        trainer.fit(module, loader, loader, ckpt_path=ckpt_path, weights_only=True)
        return trainer, module

    return run


def test_the_sparsity_is_reached_and_the_pattern_is_frozen_after_the_schedule(fit, make_pruner) -> None:
    callback = PruningCallback(make_pruner)
    watch = Watch(callback)
    _, module = fit([callback, watch])
    assert watch.steps == list(range(1, 13))
    frozen = watch.masks[7]
    for layer, matrix in weight_matrices(module).items():
        assert type(module.get_submodule(layer)) is nn.Linear
        assert torch.equal(matrix != 0, frozen[layer])
        assert torch.equal(watch.masks[11][layer], frozen[layer])
    assert any(not torch.equal(watch.masks[0][layer], frozen[layer]) for layer in frozen)
    assert callback.pruner.sparsity == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_and_momentum_do_not_revive_pruned_weights(fit, make_pruner, make_net, optimizer: str) -> None:
    callback = PruningCallback(lambda module: make_pruner(module.net, end=4))
    before = {layer: matrix.clone() for layer, matrix in weight_matrices(make_net()).items()}
    _, module = fit([callback], Module(make_net(), optimizer))
    for layer, mask in callback.pruner.masks.items():
        now = weight_matrices(module.net)[layer]
        assert not now[~mask].any()
        assert (now != before[layer])[mask].all()


def test_accumulated_batches_are_one_step(fit, make_pruner) -> None:
    callback = PruningCallback(make_pruner)
    watch = Watch(callback)
    fit([callback, watch], accumulate_grad_batches=2, max_epochs=3)
    assert watch.steps == [step for step in range(10) for _ in range(2)][1:19]


def test_manual_optimization_counts_the_steps_of_the_optimizer_with_the_pruned_weights(
    fit, make_pruner, make_net
) -> None:
    callback = PruningCallback(lambda module: make_pruner(module, targets=["net.hidden"]))
    watch = Watch(callback)
    fit([callback, watch], Manual(make_net()))
    assert watch.steps == list(range(1, 13))


def test_criteria_see_the_gradients_of_the_step(fit, make_pruner) -> None:
    seen: list[float] = []

    def watching(weight: Tensor, gradient: Tensor | None) -> Tensor:
        seen.append(0.0 if gradient is None else float(gradient.abs().sum()))
        return weight.abs()

    callback = PruningCallback(lambda module: make_pruner(module, criterion=watching))
    fit([callback], accumulate_grad_batches=2, max_epochs=4)
    layers = 2
    assert seen[: len(seen) - 4 * layers] == [0.0] * (len(seen) - 4 * layers)  # step 0, before there are gradients
    assert all(total > 0 for total in seen[-4 * layers :])  # steps 2, 4, 6, 8


@pytest.mark.parametrize(
    "options", [{}, {"criterion": "taylor", "regrowth": "straight-through"}], ids=["plain", "rich"]
)
@pytest.mark.parametrize("step", [6, 12])  # ends of epochs: Lightning does not keep the place in a plain loader
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(
    fit, make_pruner, make_net, tmp_path: Path, step: int, options: dict[str, str]
) -> None:
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=6, save_top_k=-1)
    _, whole = fit([PruningCallback(lambda module: make_pruner(module, **options)), saving], max_epochs=3)
    other = make_net()
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.5)
    callback = PruningCallback(lambda module: make_pruner(module, **options))
    _, again = fit([callback], Module(other), ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=3)
    assert callback.pruner.steps == 18
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_checkpoints_of_the_training_load_into_the_finished_module_and_a_plain_one(
    fit, make_pruner, make_net, samples, tmp_path: Path
) -> None:
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    trainer, module = fit([PruningCallback(make_pruner), saving])
    path = tmp_path / "step=10.ckpt"
    trainer.test(module, torch.utils.data.DataLoader(samples, batch_size=8), ckpt_path=path, verbose=False)
    plain = Module(make_net())
    plain.load_state_dict(plain_state(torch.load(path, weights_only=True)["state_dict"]))
    for layer, matrix in weight_matrices(plain).items():
        assert torch.equal(weight_matrices(module)[layer], matrix)
        assert (matrix == 0).float().mean() > 0.5
    with pytest.raises(RuntimeError, match="parametrizations"):  # the hook is gone after the test
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])


@pytest.mark.parametrize("every", [1, 6])  # 6: the last average is from before the last choice
def test_an_average_of_the_weights_has_the_pattern_of_the_last_choice(fit, make_pruner, every: int) -> None:
    callback = PruningCallback(make_pruner)
    watch = Watch(callback)
    average = EMAWeightAveraging(decay=0.9, use_buffers=False, update_every_n_steps=every)
    _, module = fit([callback, watch, average], val_check_interval=2)
    for layer, matrix in weight_matrices(module).items():
        mask = watch.masks[-1][layer]
        assert not matrix[~mask].any()
        assert matrix[mask].all()
        assert torch.equal(callback.pruner.masks[layer], mask)


def test_a_resumed_average_is_that_of_an_undisturbed_run(fit, make_pruner, make_net, tmp_path: Path) -> None:
    def callbacks() -> list[lightning.Callback]:
        return [PruningCallback(make_pruner), EMAWeightAveraging(decay=0.9, use_buffers=False)]

    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=6, save_top_k=-1)
    _, whole = fit([*callbacks(), saving])
    _, again = fit(callbacks(), Module(make_net()), ckpt_path=tmp_path / "step=6.ckpt")
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_averaging_that_would_undo_the_pattern_is_told(fit, make_pruner) -> None:
    with pytest.raises(
        FlexgroupError, match="averages buffers, and so the masks of pruned layers; give it use_buffers"
    ):
        fit([PruningCallback(make_pruner), WeightAveraging()])
    with pytest.raises(FlexgroupError, match="copies the module before it is pruned; put PruningCallback before it"):
        fit([WeightAveraging(use_buffers=False), PruningCallback(make_pruner)])


def test_finalize_is_a_choice(fit, make_pruner) -> None:
    callback = PruningCallback(make_pruner, finalize=False)
    _, module = fit([callback])
    assert type(module.net.hidden) is not nn.Linear
    fit([callback], module)
    assert callback.pruner.steps == 24


def test_an_end_before_that_of_the_schedule_is_told(fit, make_pruner) -> None:
    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

    with pytest.warns(
        UserWarning, match="pruned, not 75.*are from before the schedule's last step, 8; choose the best"
    ):
        fit([PruningCallback(make_pruner), Stop()])


def test_a_schedule_that_does_not_end_is_told_before_the_first_step(fit, make_pruner, make_net) -> None:
    module = Module(make_net())
    with pytest.raises(FlexgroupError, match=r"schedule ends at step 20, .*training ends at step 12; train longer"):
        fit([PruningCallback(lambda one: make_pruner(one, end=20))], module)
    assert torch.equal(module.net.classifier.weight, make_net().classifier.weight)


def test_pruners_of_nothing_and_of_another_model_are_told(fit, make_pruner, make_net) -> None:
    with pytest.raises(FlexgroupError, match=r"PruningCallback\('4x1'\) has no pruner; give a Pruner, or a function"):
        fit([PruningCallback("4x1")])
    with pytest.raises(FlexgroupError, match=r"prunes another model \(TinyNet\) than the one that is trained \(Modu"):
        fit([PruningCallback(make_pruner(make_net()))])


def test_an_optimizer_without_the_pruned_weights_is_told(fit, make_pruner, make_net) -> None:
    class Half(Module):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net.classifier.parameters(), lr=0.1)

    with pytest.raises(FlexgroupError, match=r"no optimizer holds the weights of the pruned layers \(net.first, net.h"):
        fit([PruningCallback(make_pruner)], Half(make_net()))


def test_training_on_after_finalize_is_told(fit, make_pruner) -> None:
    callback = PruningCallback(make_pruner)
    _, module = fit([callback])
    with pytest.raises(FlexgroupError, match="was finalized, so training would fill its zeros; use PruningCallback"):
        fit([callback], module)
