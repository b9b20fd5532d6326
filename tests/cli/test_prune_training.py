"""What ``flexgroup prune --epochs`` trains: every choice of it, in one process and in two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from flexgroup.cli._run_folder import FILES
from flexgroup.pruning import accuracy
from flexgroup.zoo import digits_net, load_data, load_weights
from tests.cli.saved import zeros_share


def test_held_out_images_are_measured_on_and_the_test_images_at_the_end(flexgroup, training, tmp_path):
    document = flexgroup(*training, "--validation", 200, "--json").document
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["dense", "epoch", "epoch", "test"]
    assert events[0]["accuracy"] == document["validation"]["dense"]
    assert events[-1]["finetuned"] == document["accuracy"]["finetuned"]
    assert document["validation"]["finetuned"] % 0.5 == 0  # of 200 images
    model = digits_net()
    load_weights(model, tmp_path / "run" / "model.safetensors")
    assert accuracy(model, *load_data("digits").test()) == document["accuracy"]["finetuned"]


def test_all_of_a_training_can_be_chosen(flexgroup, training, tmp_path):
    document = flexgroup(
        *training,
        *("--optimizer", "adamw", "--optimizer-option", "betas=[0.8,0.99]", "--lr", 0.002, "--lr-schedule", "linear"),
        *("--lr-option", "floor=0.1", "--label-smoothing", 0.1, "--accumulate", 2, "--clip", 2, "--distill", 0.5),
        *("--temperature", 2, "--tracker", "tensorboard", "--json"),
    ).document
    assert document["config"]["optimizer_options"] == {"betas": [0.8, 0.99]}
    assert document["precision"] == "fp32"
    assert document["accuracy"]["finetuned"] > 80
    assert list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*"))
    assert flexgroup(*training, "--force").status == 0, "a folder with a tracker's files is a run's"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--optimizer", "adamv"], "optimizer 'adamv' is not in torch.optim; did you mean 'adam'?"),
        (["--optimizer-option", "lr"], "--optimizer-option 'lr' is not NAME=VALUE"),
        (["--optimizer-option", "beta=1"], "optimizer 'sgd' takes no option 'beta' here; it takes momentum, "),
        (["--lr-schedule", "sine"], "lr_schedule 'sine' is not known; use one of constant, cosine, "),
        (["--lr-option", "flor=1"], "lr_schedule 'cosine' with {'flor': 1}: "),
        (["--label-smoothing", 1], "label_smoothing=1.0 is not a share, 0 to below 1"),
        (["--clip", 0], "clip=0.0 is not a gradient's norm"),
        (["--accumulate", 0], "--accumulate 0 is too small; give at least 1"),
        (["--accumulate", 3], "a step has 128 images, which 1 process with accumulate=3 cannot share out evenly"),
        (["--precision", "fp8"], "precision 'fp8' is not known; use auto, fp32, bf16, fp16"),
        (["--distill", 2], "distill=2.0 is not a share of the loss, 0 to 1"),
        (["--temperature", 0], "temperature=0.0 is not a number above 0"),
        (["--validation", 1297], "1297 of 1297 training images cannot be held out for validation; choose 1 to 1296"),
        (["--checkpoint-every", 0], "checkpoint_every=0 is not a number of steps"),
        (["--tracker", "paper"], "tracker 'paper' is not one of Accelerate's: "),
        (["--data", "cifar10:absent"], "data cifar10:absent: there is no such folder"),
    ],
)
def test_a_training_that_cannot_work_is_refused_before_it_begins(flexgroup, training, tmp_path, options, reason):
    assert reason in flexgroup(*training, *options).reason
    assert os.listdir(tmp_path) == []


def test_data_for_evaluation_only_is_refused_early(flexgroup, training, tmp_path, monkeypatch):
    data = load_data("digits")
    only = replace(data, train_images=data.train_images[:0], train_labels=data.train_labels[:0], name="photographs")
    monkeypatch.setattr("flexgroup.zoo.load_data", lambda *_: only)
    reason = flexgroup(*training).reason
    assert reason.startswith("data photographs is for evaluation only and has no training images")
    assert os.listdir(tmp_path) == []


def test_two_processes_are_the_same_command(flexgroup, training, tmp_path):
    command = shutil.which("flexgroup", path=os.path.dirname(sys.executable))
    if command is None:
        pytest.skip("the command is not installed beside this Python")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", command]
    arguments = [str(argument) for argument in (*launcher, *training, "--json")]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert sorted(os.listdir(tmp_path / "run")) == sorted(FILES)
    assert zeros_share(tmp_path / "run" / "model.safetensors") == pytest.approx(document["sparsity"]["targeted"])
    alone = flexgroup(*training, "--force", "--json").document
    assert document["accuracy"]["dense"] == alone["accuracy"]["dense"]
    # each process has its own statistics in batch norms, so that the networks are alike and not the same
    assert document["accuracy"]["finetuned"] == pytest.approx(alone["accuracy"]["finetuned"], abs=10)
