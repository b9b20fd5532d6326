"""``flexgroup prune --resume`` goes on to the same weights, and refuses what is not the same run."""

from __future__ import annotations

import json
import os

import pytest
import safetensors.torch
import torch

from flexgroup.cli._run_folder import FILES


class Killed(BaseException):
    """Ends a run without a chance to clean up."""


@pytest.fixture
def interrupted(flexgroup, training, tmp_path, monkeypatch):
    """A run that is ended after so many steps; the name of its folder."""

    def run(steps: int, *options: object):
        def step(self: object, done: int, total: int) -> None:
            if done == steps:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("flexgroup.cli._output.Progress.step", step)
            with pytest.raises(Killed):
                flexgroup(*training, *options)
        return tmp_path / "run.partial"

    return run


@pytest.mark.parametrize(
    ("steps", "options", "resumed_at"),
    [
        (2, [], None),
        (13, ["--checkpoint-every", 4], 12),
        (18, ["--validation", 100, "--permute", "--criterion", "taylor"], 9),
    ],
)
def test_a_run_that_was_ended_resumes_to_the_same_weights(
    flexgroup, training, interrupted, tmp_path, steps, options, resumed_at
):
    partial = interrupted(steps, *options)
    assert (partial / "config.json").is_file()
    outcome = flexgroup(*training, *options, "--resume", "--json")
    assert ("resumed at step" in outcome.stderr) == (resumed_at is not None)
    assert resumed_at is None or f"resumed at step {resumed_at} of" in outcome.stderr
    resumed = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sorted(os.listdir(tmp_path)) == ["run"]
    assert sorted(os.listdir(tmp_path / "run")) == sorted(FILES)
    undisturbed = flexgroup(*training, *options, "--force", "--json")
    whole = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert outcome.document["accuracy"] == undisturbed.document["accuracy"]
    assert outcome.document["validation"] == undisturbed.document["validation"]
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [{**event, "seconds": 0} for event in events] == [{**event, "seconds": 0} for event in written]


def test_a_finished_run_is_not_done_again(flexgroup, training, tmp_path):
    first = flexgroup(*training, "--json").document
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    again = flexgroup(*training, "--resume", "--json")
    assert again.document == first
    assert "is finished" in again.stderr
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_resuming_what_is_not_there_is_refused(flexgroup, training, tmp_path):
    reason = flexgroup(*training, "--resume").reason
    assert f"there is no unfinished run {tmp_path / 'run'}.partial and none in {tmp_path / 'run'}" in reason
    assert "there is no unfinished run" in flexgroup(*training, "--resume", "--force").reason
    assert os.listdir(tmp_path) == []


def test_a_run_that_was_to_replace_another_goes_on_with_force(flexgroup, training, interrupted, tmp_path):
    assert flexgroup(*training, "--seed", 1).status == 0
    interrupted(12, "--force")
    assert "has seed 1, now it is 0" in flexgroup(*training, "--resume").reason
    document = flexgroup(*training, "--resume", "--force", "--json").document
    assert document["config"]["seed"] == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["seed"] == 0
    assert os.listdir(tmp_path) == ["run"]


def test_resuming_with_other_options_is_refused_naming_the_first(flexgroup, training, interrupted, tmp_path):
    partial = interrupted(12)
    before = {file: file.read_bytes() for file in partial.rglob("*") if file.is_file()}
    reason = flexgroup(*training, "--resume", "--lr", 0.1, "--seed", 5).reason
    assert reason.startswith(f"--resume: the run in {partial} has lr 0.05, now it is 0.1; give the same options")
    assert before == {file: file.read_bytes() for file in partial.rglob("*") if file.is_file()}
    (partial / "config.json").write_text("{")
    assert f"--resume: {partial / 'config.json'} is damaged" in flexgroup(*training, "--resume").reason


def test_a_checkpoint_of_another_network_is_named(flexgroup, training, interrupted, tmp_path, monkeypatch):
    from flexgroup.pruning._checkpoints import read_checkpoint, write_checkpoint

    partial = interrupted(12)
    saved = read_checkpoint(partial / "checkpoints")
    tensors = {name: tensor for name, tensor in saved.tensors.items() if name != "model.linear.bias"}
    write_checkpoint(partial / "checkpoints", saved.step, tensors, saved.state)
    outcome = flexgroup(*training, "--resume")
    assert outcome.status == 2
    assert "is of another network: linear.bias is absent there and 10 in this one" in outcome.stderr
