"""``flexgroup prune`` makes a folder with plain weights and all figures, or says why not and writes nothing."""

from __future__ import annotations

import json
import os

import pytest
import safetensors.torch
import torch

from flexgroup.cli._prune import prune
from flexgroup.cli._run_folder import FILES
from flexgroup.pruning import accuracy
from flexgroup.zoo import digits_net, load_data, load_weights, read_metadata
from tests.cli.saved import zeros_share


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
        ["--schedule", "iterative", "--rounds", 2, "--regrowth", "none", "--rewind", "0.2"],
        ["--schedule", "iterative", "--rounds", 2, "--rewind", "lr"],
    ],
    ids=["constant", "iterative", "weights rewound", "learning rate rewound"],
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
        (["--rewind", "1"], "--rewind goes back after each round of --schedule iterative, and the schedule is oneshot"),
        (
            ["--epochs", "1", "--schedule", "iterative", "--rewind", "soon"],
            "--rewind 'soon' is neither an epoch, such as 1 or 0.5, nor lr",
        ),
        (
            ["--epochs", "1", "--schedule", "iterative", "--rounds", "2", "--rewind", "0.9"],
            "--rewind 0.9 goes back to step 9, but 2 rounds in 10 steps prune first at step 3",
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


def test_data_is_normalised_as_the_network_wants_it(flexgroup, common, monkeypatch):
    asked = []
    data = load_data("digits")
    monkeypatch.setattr("flexgroup.zoo.normalisation", lambda model: f"that of {model}")
    monkeypatch.setattr("flexgroup.zoo.load_data", lambda spec, wanted: asked.append((spec, wanted)) or data)
    assert flexgroup(*common).status == 0
    assert asked == [("digits", "that of digits_net")]
