"""The training loop, and what belongs to it: augmentation, accuracy, batch-norm statistics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flexgroup import Cubic, FlexgroupError, Groups, OneShot, Pruner
from flexgroup.pruning import accuracy, crop_and_flip, finetune, reestimate_batch_norm, training_steps


@pytest.fixture
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four classes that differ in where the image is bright: easy to learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (192,), generator=generator)
    images = torch.randn(192, 3, 8, 8, generator=generator)
    for label in range(4):
        images[labels == label, label % 3, 4 * (label // 2) :] += 3.0
    return images[:144], labels[:144], images[144:], labels[144:]


def easy_net() -> nn.Sequential:
    """A network that learns the four classes quickly; always the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)),
    )


def test_a_network_learns_while_it_is_pruned(data) -> None:
    model = easy_net()
    pruner = Pruner(model, Groups("4x1", "rows"), 0.8, schedule=Cubic(0, 40, 5))
    history = finetune(model, *data, epochs=10, batch_size=24, pruner=pruner)
    assert history.accuracy > 80.0
    assert history.epochs[0].loss > 2 * history.epochs[-1].loss
    assert [round(epoch.sparsity, 2) for epoch in history.epochs[-4:]] == [0.8] * 4
    assert pruner.steps == history.epochs[-1].step == training_steps(144, 24, 10) == 60
    pruner.finalize()
    assert accuracy(model, *data[2:]) == history.accuracy


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_random_state_alone(make_net, data) -> None:
    def trained(seed: int) -> nn.Module:
        model = nn.Sequential(make_net(), nn.Dropout(0.1))
        finetune(model, *data, epochs=1, batch_size=48, seed=seed, augment=crop_and_flip, label_smoothing=0.1)
        return model

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = trained(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    again, other = trained(1), trained(2)
    same = [torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)]
    assert all(same)
    assert not torch.equal(first[0].hidden.weight, other[0].hidden.weight)


def test_every_epoch_is_a_line_of_the_metrics_as_soon_as_it_ends(make_net, data, tmp_path: Path) -> None:
    metrics, lines, steps = tmp_path / "metrics.jsonl", [], []
    history = finetune(
        make_net(),
        *data,
        epochs=3,
        batch_size=48,
        on_step=lambda step, total: steps.append((step, total)),
        on_epoch=lambda epoch: lines.append(metrics.read_text().count("\n")),
        metrics=metrics,
    )
    assert lines == [1, 2, 3]
    assert steps == [(step, 9) for step in range(1, 10)]
    written = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["epoch"] for line in written] == [1, 2, 3]
    assert written[-1]["validation_accuracy"] == history.accuracy
    assert set(written[0]) == {
        *("event", "epoch", "step", "loss", "train_accuracy", "validation_accuracy", "lr", "sparsity", "seconds")
    }
    assert written[0]["sparsity"] is None


def test_the_learning_rate_rises_briefly_and_falls_as_a_cosine(make_net, data) -> None:
    history = finetune(make_net(), *data, epochs=6, batch_size=144, lr=0.1)
    rates = [epoch.lr for epoch in history.epochs]
    assert rates[0] == pytest.approx(0.05)
    assert rates[1] == pytest.approx(0.1)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < 0.02


def test_bfloat16_trains_too_and_leaves_float32_weights(data) -> None:
    model = easy_net()
    pruner = Pruner(model, Groups("4x1", "rows"), 0.5)
    history = finetune(model, *data, epochs=10, batch_size=24, pruner=pruner, precision="bf16")
    assert history.accuracy > 80.0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_module_in_eval_mode_is_so_again_afterwards(make_net, data) -> None:
    model = make_net().train()
    model.body[1].eval()
    finetune(model, *data, epochs=1, batch_size=72)
    assert model.training
    assert not model.body[1].training


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, r"epochs=0 is not a positive integer"),
        ({"batch_size": 0}, r"batch_size=0 is not a positive integer"),
        ({"lr": 1e30}, r"the loss became (nan|inf) in epoch 1; use a lower lr than 1e\+30"),
    ],
)
def test_a_training_that_cannot_work_says_why(make_net, data, options: dict[str, object], text: str) -> None:
    with pytest.raises(FlexgroupError, match=text):
        finetune(make_net(), *data, **{"epochs": 1, "batch_size": 24, **options})


def test_a_schedule_longer_than_the_training_is_refused_before_anything_is_written(make_net, data, tmp_path) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("1x1"), 0.5, schedule=OneShot(at=7))
    with pytest.raises(FlexgroupError, match=r"ends at step 7, but the training ends at step 6 \(2 epochs of 3\)"):
        finetune(model, *data, epochs=2, batch_size=48, pruner=pruner, metrics=tmp_path / "metrics.jsonl")
    assert not list(tmp_path.iterdir())


def test_images_and_labels_of_the_wrong_kind_are_refused(make_net, data) -> None:
    with pytest.raises(FlexgroupError, match=r"images are torch.uint8 of shape \(144, 3, 8, 8\); give normalised"):
        finetune(make_net(), data[0].to(torch.uint8), *data[1:], epochs=1)
    with pytest.raises(FlexgroupError, match=r"labels are torch.int64 of shape \(48,\); give one integer for each of"):
        accuracy(make_net(), data[0], data[3])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 4),
    st.integers(0, 99),
)
def test_crop_and_flip_shifts_and_mirrors_each_image(
    count: int, channels: int, height: int, width: int, pad: int, seed: int
) -> None:
    images = torch.rand(count, channels, height, width) + 1.0
    result = crop_and_flip(images, torch.Generator().manual_seed(seed), pad)
    assert result.shape == images.shape
    for image, changed in zip(images, result, strict=True):
        padded = nn.functional.pad(image, (pad, pad, pad, pad))
        crops = [padded[:, y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any(torch.equal(changed, crop) or torch.equal(changed, crop.flip(2)) for crop in crops)


def test_crop_and_flip_mirrors_about_half_and_reaches_every_shift() -> None:
    image = torch.arange(1.0, 26.0).reshape(1, 1, 5, 5).expand(2000, 1, 5, 5)
    changed = crop_and_flip(image, torch.Generator().manual_seed(0), pad=1)
    assert len(changed.flatten(1).unique(dim=0)) == 18
    mirrored = (changed[:, 0, 2, 1] > changed[:, 0, 2, 3]).float().mean()
    assert 0.45 < mirrored < 0.55


def test_accuracy_is_the_percentage_of_right_answers_and_changes_no_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9)).train()
    images = torch.eye(4).reshape(4, 4, 1, 1)
    assert accuracy(model, images, torch.tensor([0, 1, 2, 0]), batch_size=3) == 75.0
    assert model[1].training


def test_reestimated_batch_norm_has_the_mean_and_variance_of_the_images(make_net) -> None:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    model = nn.Sequential(norm, nn.Dropout(0.5)).train()
    images = torch.randn(70, 3, 8, 8) * 2 + 3
    reestimate_batch_norm(model, images, batch_size=32)
    batches = [images[:32], images[32:64]]
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variance = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(norm.running_var, variance, atol=1e-4)
    assert norm.momentum == 0.3
    assert norm.training
    assert model[1].training


def test_reestimating_switches_dropout_off_and_lets_later_layers_see_normalised_batches() -> None:
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    model = nn.Sequential(nn.Dropout(0.9), first, second).eval()
    reestimate_batch_norm(model, torch.randn(64, 2, 4, 4) * 5 + 2, batch_size=64)
    assert torch.allclose(second.running_mean, torch.zeros(2), atol=1e-4)
    assert torch.allclose(second.running_var, torch.ones(2), atol=1e-2)
    assert not first.training


def test_a_failure_while_reestimating_restores_momentum_and_modes() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.2)
    model = nn.Sequential(norm, nn.Linear(5, 5)).train()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(model, torch.randn(4, 3, 8, 8))
    assert norm.momentum == 0.2
    assert norm.training
