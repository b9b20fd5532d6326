"""``flexgroup prune`` makes a folder with plain weights and all figures, or says why not and writes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from flexgroup.cli._prune import prune
from flexgroup.cli._run_folder import FILES
from flexgroup.pruning import accuracy
from flexgroup.zoo import digits_net, load_data, load_weights, read_metadata


@pytest.fixture
def common(digits_weights, tmp_path):
    """Arguments of a valid run into ``tmp_path / "run"``."""
    return [
        *("prune", "--model", "digits_net", "--weights", digits_weights, "--data", "digits", "--threads", 1),
        *("--out", tmp_path / "run"),
    ]


def zeros_share(path) -> float:
    weights = safetensors.torch.load_file(path)
    pruned = [weights[key] for key in weights if weights[key].ndim == 4 and not key.startswith("stem")]
    return sum(int((weight == 0).sum()) for weight in pruned) / sum(weight.numel() for weight in pruned)


def test_one_shot_pruning_writes_weights_with_zeros_and_the_figures(flexgroup, common, tmp_path):
    outcome = flexgroup(*common, "--groups", "4x1", "--unaligned", "rows", "--sparsity", 0.8)
    assert outcome.status == 0
    run = tmp_path / "run"
    assert sorted(os.listdir(run)) == sorted(FILES)
    assert os.listdir(tmp_path) == ["run"]
    record = json.loads((run / "run.json").read_text())
    assert zeros_share(run / "model.safetensors") == pytest.approx(record["sparsity"]["targeted"])
    assert record["sparsity"]["targeted"] == pytest.approx(0.8, abs=1e-4)
    assert record["config"]["groups"] == "4x1"
    assert record["config"]["schedule"] == "oneshot"
    assert record["machine"]["versions"]["torch"] == torch.__version__
    assert record["accuracy"]["finetuned"] is None
    assert record["accuracy"]["dense"] > 90
    assert read_metadata(run / "model.safetensors")["groups"] == "4x1 unaligned rows"
    assert "80.00 % of the targeted weights are zero" in outcome.stdout
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["dense", "pruned", "reestimated"]


def test_the_figures_are_those_of_the_saved_weights(flexgroup, common, tmp_path):
    document = flexgroup(*common, "--sparsity", 0.7, "--json").document
    model = digits_net()
    load_weights(model, tmp_path / "run" / "model.safetensors")
    assert accuracy(model, *load_data("digits").test()) == document["accuracy"]["reestimated"]


def test_json_is_the_run_file_with_its_place(flexgroup, common, tmp_path):
    outcome = flexgroup(*common, "--json")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert outcome.document == {"out": str(tmp_path / "run"), **record}


def test_fine_tuning_keeps_the_zeros_and_regains_accuracy(flexgroup, common, tmp_path):
    document = flexgroup(*common, "--sparsity", 0.9, "--epochs", 3, "--batch-size", 32, "--json").document
    assert document["config"]["schedule"] == "cubic"
    assert document["sparsity"]["targeted"] == pytest.approx(0.9, abs=1e-4)
    share = zeros_share(tmp_path / "run" / "model.safetensors")
    assert share == pytest.approx(document["sparsity"]["targeted"])
    assert document["accuracy"]["pruned"] is None
    assert document["accuracy"]["finetuned"] > 80
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["dense", "epoch", "epoch", "epoch"]


def test_the_same_seed_gives_the_same_weights_and_another_others(flexgroup, common, tmp_path):
    weights = []
    for seed in (3, 3, 4):
        flexgroup(*common, "--epochs", 1, "--batch-size", 256, "--precision", "fp32", "--seed", seed, "--force")
        weights.append(safetensors.torch.load_file(tmp_path / "run" / "model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["linear.weight"], weights[2]["linear.weight"])


def test_batch_norm_is_measured_again_unless_told_otherwise(flexgroup, common):
    measured = flexgroup(*common, "--sparsity", 0.8, "--json").document["accuracy"]
    left = flexgroup(*common, "--sparsity", 0.8, "--no-reestimate", "--force", "--json").document["accuracy"]
    assert left["reestimated"] is None
    assert measured["pruned"] == left["pruned"] < measured["reestimated"]


def test_kept_weights_are_fitted_after_one_shot(flexgroup, common):
    options = ["--sparsity", 0.6, "--refit", 256, "--no-reestimate", "--json"]
    measured = flexgroup(*common, *options).document["accuracy"]
    assert measured["refitted"] > measured["pruned"]


def test_channels_are_ordered_before_pruning_and_the_dense_network_is_the_same(flexgroup, common):
    plain = flexgroup(*common, "--json").document
    document = flexgroup(*common, "--permute", "--force", "--json").document
    assert document["permuted"]["after"] > document["permuted"]["before"]
    assert document["accuracy"]["dense"] == plain["accuracy"]["dense"]
    assert plain["permuted"] is None


@pytest.mark.parametrize("criterion", ["taylor", "wanda"])
def test_criteria_that_average_are_gathered_from_images_before_one_shot(flexgroup, common, criterion):
    document = flexgroup(*common, "--criterion", criterion, "--json").document
    plain = flexgroup(*common, "--force", "--json").document
    assert document["sparsity"]["targeted"] == pytest.approx(0.9, abs=1e-4)
    assert document["layers"] != plain["layers"]


@pytest.mark.parametrize(
    "options",
    [
        ["--schedule", "constant", "--regrowth", "straight-through", "--shrink", 0.001, "--criterion", "taylor"],
        ["--schedule", "iterative", "--rounds", 2, "--regrowth", "none"],
    ],
    ids=["constant", "iterative"],
)
def test_schedules_and_regrowths_reach_the_sparsity(flexgroup, common, tmp_path, options):
    document = flexgroup(*common, "--sparsity", 0.8, "--epochs", 1, "--precision", "fp32", *options, "--json").document
    assert document["sparsity"]["targeted"] == pytest.approx(0.8, abs=1e-4)
    assert zeros_share(tmp_path / "run" / "model.safetensors") == pytest.approx(document["sparsity"]["targeted"])


def test_layers_are_chosen_by_pattern(flexgroup, common):
    document = flexgroup(*common, "--target", "block*", "--ignore", "block1.*", "--json").document
    assert [layer["name"] for layer in document["layers"]] == [
        f"block{block}.{part}.0" for block in (2, 3) for part in ("first", "second")
    ]


def test_an_existing_run_needs_force(flexgroup, common, tmp_path):
    assert flexgroup(*common).status == 0
    before = (tmp_path / "run" / "run.json").read_text()
    assert "exists; give --force to replace it" in flexgroup(*common).reason
    assert (tmp_path / "run" / "run.json").read_text() == before
    assert flexgroup(*common, "--sparsity", 0.5, "--force").status == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sparsity"]["asked"] == 0.5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--groups", "4by1"], "group size '4by1' is not ROWSxCOLS"),
        (["--groups", "99x1"], "groups of 99x1 do not fit its 32x288 weight matrix"),
        (["--unaligned", "up"], "unaligned='up' is not an axis"),
        (["--sparsity", "1.0"], "sparsity 1.0 is not in [0, 1)"),
        (["--sparsity", "-0.1"], "sparsity -0.1 is not in [0, 1)"),
        (["--sparsity", "nan"], "sparsity nan is not in [0, 1)"),
        (["--budget", "national"], "budget='national' is not known"),
        (["--criterion", "beauty"], "criterion 'beauty' is not known"),
        (["--target", "head"], "targets: 'head' matches no convolution or linear layer"),
        (["--ignore", "head"], "ignore: 'head' matches no convolution or linear layer"),
        (["--epochs", "-1"], "--epochs -1 is too small; give at least 0"),
        (["--batch-size", "0"], "--batch-size 0 is too small; give at least 1"),
        (["--lr", "0"], "--lr 0 is not a learning rate; give a number above 0"),
        (["--lr", "nan"], "--lr nan is not a learning rate; give a number above 0"),
        (["--schedule", "linear"], "--schedule 'linear' is unknown; choose one of constant, cubic, iterative, oneshot"),
        (["--schedule", "cubic"], "--schedule cubic prunes while it trains; give --epochs 1 or more"),
        (["--schedule", "iterative"], "--schedule iterative prunes while it trains; give --epochs 1 or more"),
        (["--refit", "64", "--epochs", "1"], "--refit fits what is pruned at once, and --schedule cubic prunes later"),
        (["--rounds", "0"], "--rounds 0 is too small; give at least 1"),
        (
            ["--epochs", "1", "--schedule", "iterative", "--rounds", "999"],
            "--rounds 999 are more than the 6 steps to prune in; train longer",
        ),
        (["--regrowth", "magic"], "regrowth='magic' is not known; use one of 'memory', 'none', 'straight-through'"),
        (["--regrowth", "none", "--shrink", "0.1"], "shrink=0.1 has nothing to shrink"),
        (["--permute", "--groups", "1xK"], "groups 1xK aligned are not blocks of a fixed size"),
        (["--model", "resnet20"], "it belongs to another network: check --model"),
        (["--model", "digits"], "model 'digits' is unknown (did you mean 'digits_net'?)"),
        (["--weights", "absent.safetensors"], "weights absent.safetensors: there is no such file"),
        (["--data", "cifar10:absent"], "data cifar10:absent: there is no such folder"),
        (["--data", "mnist"], "data 'mnist' is unknown; choose digits, or cifar10:FOLDER"),
    ],
)
def test_wrong_input_is_refused_and_writes_nothing(flexgroup, common, tmp_path, options, reason):
    assert reason in flexgroup(*common, *options).reason
    assert os.listdir(tmp_path) == []


def test_a_network_that_does_not_fit_the_data_is_refused(flexgroup, my_nets, tmp_path):
    where = ["--data", "digits", "--out", tmp_path / "run"]
    reason = flexgroup("prune", "--model", f"{my_nets}:two_classes", *where).reason
    assert "gives (1, 2) for one image; data digits has 10 classes" in reason
    reason = flexgroup("prune", "--model", f"{my_nets}:sick", *where).reason
    assert "NaN or Inf in 2.weight" in reason
    assert not (tmp_path / "run").exists()


def test_a_network_of_the_users_needs_no_weights_file_and_may_speak(flexgroup, my_nets, tmp_path):
    outcome = flexgroup("prune", "--model", f"{my_nets}:talkative", "--data", "digits", "--out", "run", "--json")
    assert "hello from the module" in outcome.stderr
    assert outcome.document["config"]["weights"] is None
    assert outcome.document["layers"] == [{"name": "2", "shape": [8, 72], "kept": 56}]
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_network_of_the_zoo_needs_one(flexgroup, tmp_path):
    reason = flexgroup("prune", "--model", "digits_net", "--data", "digits", "--out", tmp_path / "run").reason
    assert reason == "model 'digits_net' needs trained weights; give --weights FILE"


def test_what_is_measured_before_a_run_is_stopped_is_kept(flexgroup, common, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flexgroup.pruning.finetune", stop)
    outcome = flexgroup(*common, "--epochs", 1)
    assert outcome.status == 130
    assert f"what there is of it is in {tmp_path / 'run.partial'}" in outcome.stderr
    lines = (tmp_path / "run.partial" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["event"] == "dense"
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverges_is_refused_with_the_remedy(flexgroup, common):
    outcome = flexgroup(*common, "--epochs", 1, "--lr", 1e30)
    assert outcome.status == 2
    assert outcome.stderr.splitlines()[-1].startswith("flexgroup: ")
    assert "diverged" in outcome.stderr.splitlines()[-1]


def test_an_emptied_layer_is_warned_of_on_stderr_and_in_the_record(flexgroup, common):
    outcome = flexgroup(*common, "--sparsity", 0.9999, "--json")
    assert "warning: no weight is left in" in outcome.stderr
    assert "no weight is left in" in outcome.document["warnings"][0]


def test_the_command_is_a_function(digits_weights, tmp_path, capsys):
    prune("digits_net", "digits", tmp_path / "run", digits_weights, sparsity=0.5, threads=1, as_json=True)
    assert json.loads(capsys.readouterr().out)["sparsity"]["asked"] == 0.5


class Killed(BaseException):
    """Ends a run without a chance to clean up."""


@pytest.fixture
def training(common):
    """Arguments of a run with two epochs of training, in one precision."""
    return [*common, "--sparsity", 0.8, "--epochs", 2, "--batch-size", 128, "--precision", "fp32"]


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


def test_data_is_normalised_as_the_network_wants_it(flexgroup, common, monkeypatch):
    asked = []
    data = load_data("digits")
    monkeypatch.setattr("flexgroup.zoo.normalisation", lambda model: f"that of {model}")
    monkeypatch.setattr("flexgroup.zoo.load_data", lambda spec, wanted: asked.append((spec, wanted)) or data)
    assert flexgroup(*common).status == 0
    assert asked == [("digits", "that of digits_net")]


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
