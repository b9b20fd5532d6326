"""What a training can be told: rates, optimizers, parts of batches, precision, a teacher, trackers."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import flexgroup
from flexgroup import Cubic, FlexgroupError, Groups, Pruner
from flexgroup.pruning import RATES, finetune
from flexgroup.pruning._batches import Batches, orders
from flexgroup.pruning._distillation import training_loss
from flexgroup.pruning._optimizers import make_optimizer, optimizer_names
from flexgroup.pruning._precision import Arithmetic, faster_arithmetic
from flexgroup.pruning._rates import find_rate
from flexgroup.pruning._settings import Settings, check_same, settings_record


@pytest.fixture
def data(images, labels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return images, labels, images[:16], labels[:16]


def plain_net() -> nn.Module:
    """Without anything that depends on how a batch is cut."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))


def trained(data, model: nn.Module | None = None, **options) -> dict[str, Tensor]:
    model = model or plain_net()
    finetune(model, *data, **{"epochs": 1, "batch_size": 12, **options})
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_at_the_top_level() -> None:
    assert flexgroup.finetune is finetune


# ---- learning rates


@pytest.mark.parametrize("name", sorted(RATES))
@given(st.integers(1, 300), st.floats(0, 0.9))
def test_every_rate_rises_in_the_warm_up_and_never_exceeds_the_highest(name: str, steps: int, warm_up: float) -> None:
    rate = find_rate(name, steps, {}, warm_up)
    values = [rate(step) for step in range(steps)]
    assert all(0.0 <= value <= 1.0 for value in values)
    warm = max(1, round(warm_up * steps)) if warm_up else 0
    assert values[:warm] == sorted(values[:warm])
    if name not in ("restarts",):
        assert values[warm:] == sorted(values[warm:], reverse=True)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("cosine", {}, [1, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2)]),
        ("cosine", {"floor": 0.5}, [1, 0.75 + 0.125 * math.sqrt(2), 0.75, 0.75 - 0.125 * math.sqrt(2)]),
        ("linear", {}, [1, 0.75, 0.5, 0.25]),
        ("linear", {"floor": 0.2}, [1, 0.8, 0.6, 0.4]),
        ("constant", {}, [1, 1, 1, 1]),
        ("polynomial", {"power": 3}, [1, 0.75**3, 0.5**3, 0.25**3]),
        ("exponential", {"last": 0.0625}, [1, 0.5, 0.25, 0.125]),
        ("step", {"at": (0.25, 0.75), "factor": 0.5}, [1, 0.5, 0.5, 0.25]),
        ("restarts", {"cycles": 2}, [1, 0.5, 1, 0.5]),
    ],
)
def test_rates_are_what_their_formulas_say(name, options, wanted) -> None:
    rate = find_rate(name, 4, options, warm_up=0.0)
    assert [rate(step) for step in range(4)] == pytest.approx(wanted)


def test_a_training_has_the_rate_that_was_asked_for(data) -> None:
    history = finetune(plain_net(), *data, epochs=4, batch_size=48, lr=0.1, lr_schedule="linear", warm_up=0.0)
    assert [epoch.lr for epoch in history.epochs] == pytest.approx([0.1, 0.075, 0.05, 0.025])


# ---- optimizers


@pytest.mark.parametrize("name", ["SGD", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam", "adadelta", "rprop"])
def test_optimizers_of_torch_train_by_name(data, name: str) -> None:
    before, after = plain_net().state_dict(), trained(data, optimizer=name, lr=0.001)
    assert not same(before, after)
    assert all(torch.isfinite(value).all() for value in after.values())


def test_only_matrices_and_kernels_decay() -> None:
    model = plain_net()
    optimizer = make_optimizer(model.parameters(), "adamw", 0.1, 0.9, 0.01, {"betas": (0.8, 0.9)})
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in model.parameters() if p.ndim > 1} == {0.01}
    assert {decays[id(p)] for p in model.parameters() if p.ndim == 1} == {0.0}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert "sgd" in optimizer_names()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "adamx"}, r"optimizer 'adamx' is not in torch.optim; did you mean 'adam[a-z]*'\?"),
        ({"optimizer": "LBFGS"}, r"optimizer 'LBFGS' does not fit this training: it evaluates the loss several times"),
        ({"optimizer_options": {"beta": 1}}, r"optimizer 'sgd' takes no option 'beta' here; it takes momentum"),
        (
            {"optimizer": "adam", "optimizer_options": {"betas": (2, 3)}},
            r"optimizer 'adam' does not take these options",
        ),
        ({"lr_schedule": "sine"}, r"lr_schedule 'sine' is not known; use one of constant, cosine, exponential, "),
        (
            {"lr_options": {"ceiling": 1}},
            r"lr_schedule 'cosine' with \{'ceiling': 1\}: .*; see flexgroup.pruning.RATES",
        ),
        ({"lr_options": {"floor": -1}}, r"gives -1 times the learning rate"),
        ({"warm_up": 1.0}, r"warm_up 1.0 is not a share of the steps, 0 to below 1"),
        ({"lr": 0.0}, r"lr=0.0 is not a learning rate; give a number above 0"),
        ({"accumulate": 0}, r"accumulate=0 is not a positive integer"),
        ({"label_smoothing": 1.5}, r"label_smoothing=1.5 is not a share"),
        ({"clip": -1}, r"clip=-1 is not a gradient's norm"),
        ({"precision": "fp64"}, r"precision 'fp64' is not known; use auto, fp32, bf16, fp16"),
        ({"precision": "fp16"}, r"precision 'fp16' needs a GPU; on a CPU use bf16, or auto"),
        ({"distill": 1.5}, r"distill=1.5 is not a share of the loss"),
        ({"distill": 0.5}, r"distill=0.5 without a teacher; give teacher=, a copy of the dense network"),
        ({"temperature": 0}, r"temperature=0 is not a number above 0; 4 is usual"),
        ({"trackers": ["paper"]}, r"tracker 'paper' is not one of Accelerate's: "),
        ({"trackers": ["tensorboard"]}, r"tracker 'tensorboard' writes files; give tracker_folder="),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(data, options, text: str) -> None:
    model = plain_net()
    with pytest.raises(FlexgroupError, match=text):
        trained(data, model, **options)
    assert same(model.state_dict(), plain_net().state_dict())


@pytest.mark.parametrize("bad", [-1, 4])
def test_labels_out_of_range_are_refused_before_the_first_step(data, bad: int) -> None:
    labels = data[1].clone()
    labels[5] = bad
    model = plain_net()
    text = rf"labels run from {min(bad, 0)} to {max(bad, 3)}, but the model has 4 outputs; labels must lie in 0..3"
    with pytest.raises(FlexgroupError, match=text):
        trained((data[0], labels, *data[2:]), model)
    with pytest.raises(FlexgroupError, match=text):
        trained((*data[:2], data[0], labels), model)
    assert same(model.state_dict(), plain_net().state_dict())


# ---- batches


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_a_batch_in_parts_trains_like_the_batch(data, parts: int) -> None:
    whole, cut = trained(data), trained(data, accumulate=parts)
    assert all(torch.allclose(whole[name], cut[name], atol=1e-6) for name in whole)


def test_pixels_are_normalised_batch_by_batch_to_the_same_bits(labels) -> None:
    pixels = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8)

    def normalise(part: Tensor) -> Tensor:
        return part.float().div(255).sub(0.5)

    whole = normalise(pixels)
    at_once = trained((whole, labels, whole, labels))
    assert same(at_once, trained((pixels, labels, pixels, labels), normalise=normalise))
    with pytest.raises(FlexgroupError, match=r"images are torch.float32 .*; give uint8 \(N, C, H, W\) for normalise="):
        trained((whole, labels, whole, labels), normalise=normalise)


def test_gradients_are_clipped(data) -> None:
    free, clipped = (trained(data, lr=1.0, momentum=0.0, weight_decay=0.0, clip=clip) for clip in (None, 1e-3))
    start = plain_net().state_dict()
    far, near = (math.sqrt(sum(float((s[n] - start[n]).square().sum()) for n in s)) for s in (free, clipped))
    assert near <= 4 * 1e-3 < far  # four steps


@given(st.integers(1, 40), st.integers(0, 9), st.integers(0, 5))
def test_the_order_of_an_epoch_does_not_depend_on_where_it_began(samples: int, seed: int, epoch: int) -> None:
    from_start = orders(samples, seed, 0)
    for _ in range(epoch):
        next(from_start)
    assert torch.equal(next(from_start), next(orders(samples, seed, epoch)))
    assert torch.equal(next(orders(samples, seed, epoch)).sort().values, torch.arange(samples))


def test_processes_share_a_batch_out_and_change_their_images_differently(images, labels) -> None:
    def batches(rank: int, ranks: int) -> Batches:
        return Batches(images, labels, torch.device("cpu"), seed=0, rank=rank, ranks=ranks, augment=noise)

    def noise(batch: Tensor, generator: torch.Generator) -> Tensor:
        return batch * 0 + torch.rand(1, generator=generator)

    indices = torch.randperm(48)[:12]
    parts = [batches(rank, 3).at(indices, step=5) for rank in range(3)]
    assert torch.equal(torch.cat([truth for _, truth in parts]), labels[indices])
    assert len({float(batch[0, 0, 0, 0]) for batch, _ in parts}) == 3
    assert torch.equal(parts[1][0], batches(1, 3).at(indices, step=5)[0])
    assert not torch.equal(parts[1][0], batches(1, 3).at(indices, step=6)[0])


# ---- distillation


@given(st.floats(0, 1), st.floats(0.5, 8), st.integers(0, 99))
def test_the_loss_is_that_of_the_paper(distill: float, temperature: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits, taught, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    wanted = 0.0
    for row, teacher, label in zip(logits.double(), taught.double(), labels, strict=True):
        own = torch.exp(row / temperature) / torch.exp(row / temperature).sum()
        other = torch.exp(teacher / temperature) / torch.exp(teacher / temperature).sum()
        hard = -torch.log(torch.exp(row[label]) / torch.exp(row).sum())
        soft = sum(q * (torch.log(q) - torch.log(p)) for p, q in zip(own, other, strict=True))
        wanted += float((1 - distill) * hard + distill * temperature**2 * soft) / 5
    assert float(training_loss(logits, labels, 0.0, taught, distill, temperature)) == pytest.approx(wanted, abs=1e-5)


def test_a_student_learns_what_the_teacher_says_and_the_teacher_stays(data) -> None:
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(192, 4)).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    wrong = (data[0], torch.zeros_like(data[1]), data[2], data[3])
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    finetune(student, *wrong, epochs=60, batch_size=48, teacher=teacher, distill=1.0, temperature=1.0, lr=0.2)
    teacher.eval()
    agreed = (student(data[0]).argmax(1) == teacher(data[0]).argmax(1)).float().mean()
    assert agreed == 1.0
    assert same(before, teacher.state_dict())
    assert all(parameter.grad is None for parameter in teacher.parameters())


# ---- precision


def test_the_measured_precision_is_told_and_leaves_no_trace(data) -> None:
    told: list[str] = []
    model = nn.Sequential(plain_net(), nn.Dropout(0.5))
    pruner = Pruner(model, Groups("4x1"), 0.5, criterion="wanda", schedule=Cubic(1, 3, 1))
    history = finetune(model, *data, epochs=1, batch_size=12, precision="auto", pruner=pruner, on_message=told.append)
    chosen = Arithmetic(history.precision, history.channels_last)
    assert told[0].startswith(f"precision {chosen}: a step takes ")
    again = nn.Sequential(plain_net(), nn.Dropout(0.5))
    other = Pruner(again, Groups("4x1"), 0.5, criterion="wanda", schedule=Cubic(1, 3, 1))
    finetune(again, *data, epochs=1, batch_size=12, **vars(chosen), pruner=other)
    assert same(model.state_dict(), again.state_dict())


PLAIN, LAST, LOW = "fp32", "fp32 channels-last", "bf16 channels-last"


@pytest.mark.parametrize(
    ("seconds", "channels_last", "chosen"),
    [
        ({PLAIN: 0.3, LAST: 0.3, LOW: 0.1}, None, LOW),
        ({PLAIN: 0.3, LAST: 0.29, LOW: 0.28}, None, PLAIN),
        ({PLAIN: 0.1, LAST: 0.3, LOW: 0.3}, None, PLAIN),
        ({PLAIN: 0.3, LAST: 0.2, LOW: 0.25}, None, LAST),
        ({PLAIN: 0.1, LAST: 0.3, LOW: 0.2}, True, LOW),
        ({PLAIN: 0.3, "bf16": 0.1, LAST: 0.01}, False, "bf16"),
    ],
)
def test_the_fastest_arithmetic_is_chosen_if_it_is_worth_it(data, monkeypatch, seconds, channels_last, chosen) -> None:
    monkeypatch.setattr("flexgroup.pruning._precision._step", lambda *arguments: seconds[str(arguments[-1])])
    assert str(faster_arithmetic(plain_net(), *data[:2], channels_last)[0]) == chosen


def test_a_hopeless_arithmetic_is_timed_once(data, monkeypatch) -> None:
    timed: list[str] = []

    def step(*arguments) -> float:
        timed.append(str(arguments[-1]))
        return {PLAIN: 0.3, LAST: 0.2, LOW: 5.0}[timed[-1]]

    monkeypatch.setattr("flexgroup.pruning._precision._step", step)
    chosen, why = faster_arithmetic(plain_net(), *data[:2])
    assert str(chosen) == LAST
    assert timed.count(LOW) == 1 < timed.count(LAST)
    assert why == f"precision {LAST}: a step takes 300.0 ms in {PLAIN}, 200.0 ms in {LAST}, 5000.0 ms in {LOW}"


def test_a_precision_chosen_for_the_launch_is_taken(data, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert faster_arithmetic(plain_net(), *data[:2]) == (Arithmetic("bf16", True), "precision bf16, as launched")


def test_steps_that_a_gradient_scaler_leaves_out_are_not_the_pruners(data, monkeypatch) -> None:
    from accelerate.optimizer import AcceleratedOptimizer

    skipped = iter([True, False, True, False])
    monkeypatch.setattr(AcceleratedOptimizer, "step_was_skipped", property(lambda _: next(skipped)))
    model = plain_net()
    pruner = Pruner(model, Groups("4x1"), 0.5, schedule=Cubic(0, 2, 1))
    trained(data, model, pruner=pruner)
    assert pruner.steps == 2
    skipped = iter([True, False, True, False])
    model = plain_net()
    pruner = Pruner(model, Groups("4x1"), 0.5, schedule=Cubic(0, 3, 1))
    text = r"fp16 left out 2 steps, so that the schedule, which ends at step 3, did not; end it 2 steps earlier"
    with pytest.raises(FlexgroupError, match=text):
        trained(data, model, pruner=pruner)


# ---- Accelerate


def test_tensorboard_has_every_epoch(data, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = finetune(plain_net(), *data, epochs=3, trackers=["tensorboard"], tracker_folder=tmp_path)
    file = next(path for path in tmp_path.rglob("events.out.tfevents.*") if "loss" in scalars(EventAccumulator, path))
    written = EventAccumulator(str(file))
    written.Reload()
    assert [event.value for event in written.Scalars("loss")] == pytest.approx([epoch.loss for epoch in history.epochs])
    assert [event.step for event in written.Scalars("loss")] == [epoch.step for epoch in history.epochs]


def scalars(kind, path) -> list[str]:
    accumulator = kind(str(path))
    accumulator.Reload()
    return list(accumulator.Tags()["scalars"])


def test_a_users_own_accelerator_stays_as_it_is(data) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    mine = Accelerator(cpu=True, mixed_precision="bf16")
    try:
        trained(data)
        assert mine.mixed_precision == "bf16"
        assert Accelerator(cpu=True).mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(True)


def test_the_networks_own_forward_is_left_alone(data) -> None:
    model = plain_net()
    trained(data, model, precision="bf16")
    assert "forward" not in vars(model)
    assert model(data[0]).dtype == torch.float32


def test_without_accelerate_it_says_what_to_install(data, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate.tracking", None)
    with pytest.raises(
        FlexgroupError, match=r"training needs Accelerate; install it: pip install 'flexgroup\[train\]'"
    ):
        trained(data)


def test_metrics_are_json_even_with_options_that_are_not(data, tmp_path) -> None:
    trained(data, metrics=tmp_path / "m.jsonl", optimizer="adam", optimizer_options={"betas": (0.9, 0.99)}, lr=0.01)
    assert json.loads((tmp_path / "m.jsonl").read_text())["event"] == "epoch"


def test_a_checkpoint_from_before_a_setting_was_added_is_of_a_training_that_leaves_it_as_it_is(tmp_path) -> None:
    labels, images = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 3, 8, 8)
    now = settings_record(Settings(epochs=1, batch_size=2, lr=0.1), labels, images, 1, None)
    before = {name: value for name, value in now.items() if name != "rewind_lr"}
    check_same(before, now, tmp_path)
    with pytest.raises(FlexgroupError, match="rewind_lr was False and is True; resume with the same arguments"):
        check_same(before, {**now, "rewind_lr": True}, tmp_path)
    with pytest.raises(FlexgroupError, match="epochs was None and is 1; resume with the same arguments"):
        check_same({name: value for name, value in now.items() if name != "epochs"}, now, tmp_path)
