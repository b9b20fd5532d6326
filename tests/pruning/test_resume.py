"""A training that is killed at any moment resumes to the very weights that it would have had."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flexgroup import Cubic, FlexgroupError, Groups, Pruner
from flexgroup.pruning import crop_and_flip, finetune
from flexgroup.pruning._checkpoints import read_checkpoint, write_checkpoint
from flexgroup.pruning._precision import Arithmetic

PROGRAM = Path(__file__).with_name("killed_training.py")


class Stop(BaseException):
    """What ends a training in the middle, in the same process."""


@pytest.fixture
def data(images, labels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return images, labels, images[:16], labels[:16]


def start(make_net, sparsity: float = 0.7) -> tuple[nn.Module, Pruner]:
    model = nn.Sequential(make_net(), nn.Dropout(0.2))
    return model, Pruner(model, Groups("4x1", "rows"), sparsity, schedule=Cubic(0, 9, 2))


def run(make_net, data, folder: Path | None, stop: int | None = None, resume: bool = False, **options: Any):
    """A short training, stopped after a step; the weights it ends with, or None, and its history."""

    def on_step(step: int, _: int) -> None:
        if step == stop:
            raise Stop

    model, pruner = start(make_net)
    wanted = {"epochs": 3, "batch_size": 12, "checkpoint_every": 3 if folder else None, "augment": crop_and_flip}
    try:
        history = finetune(
            model, *data, pruner=pruner, checkpoints=folder, resume=resume, on_step=on_step, **{**wanted, **options}
        )
    except Stop:
        return None, None
    pruner.finalize()
    return model.state_dict(), history


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def without_seconds(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed program forks")
def test_killed_at_random_steps_and_while_it_writes_it_ends_with_the_same_bits(tmp_path) -> None:
    choose = random.Random()
    kills: list[dict[str, Any]] = [
        {"operation": choose.randint(1, 14)},
        {"step": choose.randint(9, 20)},
        {"seconds": choose.uniform(0.5, 1.5)},
    ]
    command = [sys.executable, str(PROGRAM), str(tmp_path), json.dumps(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert ends[:2] == [-9, -9], kills
    assert ends[-1] == 0, (kills, done.stderr)
    whole, killed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert same(whole, killed), kills
    assert without_seconds(tmp_path / "whole" / "metrics.jsonl") == without_seconds(
        tmp_path / "killed" / "metrics.jsonl"
    )
    assert len(os.listdir(tmp_path / "killed" / "checkpoints")) == 4


@pytest.mark.parametrize("stop", [2, 3, 4, 8, 11])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_stopped_after_any_step_it_ends_with_the_same_bits(make_net, data, tmp_path, stop: int, optimizer: str) -> None:
    options = {"optimizer": optimizer, "lr": 0.003}
    whole, history = run(make_net, data, None, **options)
    run(make_net, data, tmp_path / "c", stop, **options)
    resumed, again = run(make_net, data, tmp_path / "c", resume=True, **options)
    assert same(whole, resumed)
    assert [epoch.loss for epoch in history.epochs] == [epoch.loss for epoch in again.epochs]
    assert [epoch.step for epoch in again.epochs] == [4, 8, 12]


@pytest.mark.parametrize("stop", [4, 8, 11])
@pytest.mark.parametrize(("regrowth", "shrink"), [("none", 0.0), ("straight-through", 2e-3), ("memory", 2e-3)])
def test_whatever_becomes_of_pruned_weights_it_ends_with_the_same_bits(
    data, tmp_path, stop: int, regrowth: str, shrink: float
) -> None:
    def trained(folder: Path | None, stop: int | None = None) -> dict[str, Tensor] | None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
        options = {"regrowth": regrowth, "shrink": shrink, "criterion": "fisher"}
        pruner = Pruner(model, Groups("4x1", "rows"), 0.7, schedule=Cubic(2, 9, 2), **options)

        def on_step(step: int, _: int) -> None:
            if step == stop:
                raise Stop

        try:
            options = {"checkpoints": folder, "checkpoint_every": folder and 3, "resume": folder is not None}
            finetune(model, *data, epochs=3, batch_size=12, pruner=pruner, on_step=on_step, **options)
        except Stop:
            return None
        pruner.finalize()
        return model.state_dict()

    assert trained(tmp_path / "c", stop) is None
    assert same(trained(None), trained(tmp_path / "c"))


@pytest.mark.parametrize(("precision", "channels_last"), [("bf16", True), ("fp32", True), ("fp32", False)])
def test_a_training_resumes_in_the_arithmetic_that_was_measured(
    make_net, data, tmp_path, monkeypatch, precision, channels_last
) -> None:
    measured = (Arithmetic(precision, channels_last), "measured")
    monkeypatch.setattr("flexgroup.pruning._finetune.faster_arithmetic", lambda *_: measured)
    whole, _ = run(make_net, data, None, precision=precision, channels_last=channels_last)
    run(make_net, data, tmp_path / "c", 5, precision="auto")
    monkeypatch.undo()
    resumed, history = run(make_net, data, tmp_path / "c", resume=True, precision="auto")
    assert (history.precision, history.channels_last) == (precision, channels_last)
    assert same(whole, resumed)


def test_what_came_after_the_checkpoint_is_not_told_twice(make_net, data, tmp_path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    run(make_net, data, tmp_path / "c", 11, metrics=metrics, checkpoint_every=None)
    with metrics.open("a") as stream:
        stream.write('{"event": "epo')  # torn by the end of the process
    run(make_net, data, tmp_path / "c", resume=True, metrics=metrics, checkpoint_every=None)
    assert [line["epoch"] for line in without_seconds(metrics)] == [1, 2, 3]


def test_a_finished_training_is_not_done_again(make_net, data, tmp_path) -> None:
    whole, history = run(make_net, data, tmp_path / "c")
    steps: list[int] = []
    model, pruner = start(make_net)
    options = {"epochs": 3, "batch_size": 12, "augment": crop_and_flip, "checkpoints": tmp_path / "c", "resume": True}
    again = finetune(model, *data, pruner=pruner, on_step=lambda step, _: steps.append(step), **options)
    pruner.finalize()
    assert steps == []
    assert again == history
    assert same(whole, model.state_dict())


def test_where_there_is_no_checkpoint_yet_the_training_begins(make_net, data, tmp_path) -> None:
    whole, _ = run(make_net, data, None)
    resumed, _ = run(make_net, data, tmp_path / "c", resume=True)
    assert same(whole, resumed)


def test_a_write_that_ends_anywhere_leaves_a_whole_checkpoint(tmp_path, monkeypatch) -> None:
    """Exhaustively: before every operation on files of a third checkpoint."""

    def write(folder: Path, step: int) -> None:
        write_checkpoint(folder, step, {"x": torch.full((3,), float(step))}, {"at": step})

    def failing_at(number: int) -> int:
        """How many operations there were, up to the one that fails."""
        count = 0

        def before(real):
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == number:
                    raise Stop
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name, owner in (("fsync", os), ("replace", os), ("unlink", Path), ("open", Path)):
                patch.setattr(owner, name, before(getattr(owner, name)))
            with contextlib.suppress(Stop):
                write(folder, 30)
        return count

    seen = set()
    for number in range(1, 100):
        folder = tmp_path / str(number)
        write(folder, 10)
        write(folder, 20)
        count = failing_at(number)
        found = read_checkpoint(folder)
        assert found.step in (20, 30)
        assert found.state == {"at": found.step}
        assert torch.equal(found.tensors["x"], torch.full((3,), float(found.step)))
        seen.add(found.step)
        write(folder, 40)
        assert len(os.listdir(folder)) == 4, "what was half-written is gone"
        if count < number:
            break
    assert seen == {20, 30}
    assert number > 8


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".safetensors", truncate),
        (".safetensors", flip),
        (".safetensors", remove),
        (".json", truncate),
        (".json", flip),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(make_net, data, tmp_path, suffix, damage) -> None:
    folder = tmp_path / "c"
    whole, _ = run(make_net, data, None)
    run(make_net, data, folder, 8)
    damage(folder / f"step-00000006{suffix}")
    with pytest.warns(UserWarning, match=r"step-00000006.json is damaged \(.*\); the one before it is used"):
        resumed, _ = run(make_net, data, folder, resume=True)
    assert same(whole, resumed)


def test_where_all_are_damaged_it_says_so_and_changes_nothing(make_net, data, tmp_path) -> None:
    folder = tmp_path / "c"
    run(make_net, data, folder, 8)
    for file in folder.glob("*.safetensors"):
        flip(file)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with (
        pytest.warns(UserWarning, match="step-00000006"),
        pytest.raises(
            FlexgroupError, match=r"step-00000004.json is damaged \(.* does not match its checksum\), and there"
        ),
    ):
        run(make_net, data, folder, resume=True)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": 0.1}, r"is of another training: lr was 0.05 and is 0.1; resume with the same arguments, or start anew"),
        ({"epochs": 4}, r"epochs was 3 and is 4"),
        ({"seed": 1}, r"seed was 0 and is 1"),
        ({"precision": "bf16"}, r"precision was 'fp32' and is 'bf16'"),
        ({"lr_options": {"floor": 0.1}}, r"lr_options was \{\} and is \{'floor': 0.1\}"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(make_net, data, tmp_path, options, text: str) -> None:
    run(make_net, data, tmp_path / "c", 5)
    with pytest.raises(FlexgroupError, match=text):
        run(make_net, data, tmp_path / "c", resume=True, **options)


def test_a_checkpoint_of_other_labels_or_another_pruner_is_refused(make_net, data, tmp_path) -> None:
    run(make_net, data, tmp_path / "c", 5)
    with pytest.raises(FlexgroupError, match=r"is of another training: labels was '\w{16}' and is '\w{16}'"):
        run(make_net, (data[0], data[1].flip(0), *data[2:]), tmp_path / "c", resume=True)
    model, pruner = start(make_net, sparsity=0.8)
    with pytest.raises(FlexgroupError, match=r"pruner was '4x1 unaligned rows, global, 0.7, .*' and is '.* 0.8, "):
        finetune(model, *data, pruner=pruner, epochs=3, batch_size=12, checkpoints=tmp_path / "c", resume=True)


def test_a_checkpoint_of_another_network_is_refused_and_the_network_stays(data, tmp_path) -> None:
    def net(width: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 4))

    options = {"epochs": 1, "batch_size": 12, "checkpoints": tmp_path / "c"}
    finetune(net(8), *data, **options)
    other = net(9)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(FlexgroupError, match=r"is of another network: 1.weight is 8x192 there and 9x192 in this one"):
        finetune(other, *data, resume=True, **options)
    assert same(before, other.state_dict())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"resume": True}, "resume without checkpoints; give checkpoints=, their folder"),
        ({"checkpoint_every": 5}, "checkpoint_every without checkpoints; give checkpoints="),
        ({"checkpoint_every": 0}, "checkpoint_every=0 is not a number of steps; give 1 or more, or None"),
    ],
)
def test_wishes_without_a_folder_are_refused(make_net, data, options, text: str) -> None:
    with pytest.raises(FlexgroupError, match=text):
        finetune(make_net(), *data, epochs=1, **options)
