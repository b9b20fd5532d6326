"""``flexgroup prune --speedup`` and ``--latency-ms``, with a made-up clock: what is printed, kept and refused."""

from __future__ import annotations

import functools
import json
import os

import pytest
import torch

import flexgroup.pruning
from flexgroup import FlexgroupError
from flexgroup.cli._prune_config import PruneConfig
from flexgroup.cli._prune_latency import find_budget, latency_words, write_budget
from flexgroup.cli._run_folder import FILES, LATENCY
from flexgroup.engine import Machine
from flexgroup.pruning import latency_budget
from flexgroup.zoo import build, read_metadata

MACHINE = Machine("made up", "host", 4, 100e9, 400e9, (), 1e10)


def clock(plans):
    """A machine that takes twice what is predicted for it."""
    slots = {name: sum(step.slots for step in plan.steps) for name, plan in plans.items()}
    return {name: 2 * slots[name] * 2 * plan.target.lanes(plan.element) / MACHINE.peak for name, plan in plans.items()}


@pytest.fixture(autouse=True)
def _made_up_machine(monkeypatch):
    monkeypatch.setenv("FLEXGROUP_COSTS", "default")
    found = functools.partial(latency_budget, machine=MACHINE, measure=clock)
    monkeypatch.setattr(flexgroup.pruning, "latency_budget", found)


@pytest.fixture
def common(digits_weights, tmp_path):
    return [
        *("prune", "--model", "digits_net", "--weights", digits_weights, "--data", "digits", "--threads", 1),
        *("--groups", "4x1", "--unaligned", "rows", "--out", tmp_path / "run"),
    ]


@pytest.fixture
def config():
    def make(**options):
        shared = {"epochs": 1, "schedule": "cubic", "lr": 0.1, "batch_size": 8, "reestimate": False, "seed": 0}
        network = {"model": "digits_net", "weights": None, "data": "digits", "groups": "4x1", "unaligned": "rows"}
        which = {"sparsity": None, "budget": "global", "criterion": "magnitude", "targets": None, "ignore": ()}
        return PruneConfig(**network | shared | which | {"threads": 1} | options)

    return make


def test_a_speed_up_is_met_and_stands_in_the_record(flexgroup, common, tmp_path):
    outcome = flexgroup(*common, "--speedup", 1.5)
    assert outcome.status == 0, outcome.stderr
    assert sorted(os.listdir(tmp_path / "run")) == sorted(FILES)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    latency = record["latency"]
    assert latency["speedup"] == pytest.approx(1.5, rel=0.02)
    assert latency["measured"] == pytest.approx(latency["found"]["dense"] / 1.5, rel=0.02)
    assert latency["agrees"]
    assert latency["found"]["threads"] == 1
    assert record["config"]["speedup"] == 1.5
    assert record["config"]["sparsity"] is None
    targeted = record["sparsity"]["targeted"]
    assert read_metadata(tmp_path / "run" / "model.safetensors")["sparsity"] == f"{targeted:g}"
    assert f"{1e3 * latency['predicted']:.4g} ms predicted and" in outcome.stdout
    assert "x faster than dense code" in outcome.stdout
    assert "budget: " in outcome.stderr


def test_training_moves_the_pattern_and_the_latency_stays(flexgroup, common, config):
    dense = find_budget(config(speedup=2), build("digits_net").eval(), (1, 8, 8), None, is_main=True).dense
    options = ("--latency-ms", 1e3 * dense / 1.5, "--epochs", 1, "--batch-size", 64, "--precision", "fp32")
    latency = flexgroup(*common, *options, "--json").document["latency"]
    assert latency["budget"] == pytest.approx(dense / 1.5)
    assert latency["measured"] == pytest.approx(dense / 1.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--speedup", 2, "--sparsity", 0.5), "--sparsity and --speedup each say how far to prune; give one"),
        (("--speedup", 2, "--latency-ms", 1), "--speedup and --latency-ms each say how far to prune; give one"),
        (("--speedup", 0.5), "--speedup 0.5 is too small; give at least 1"),
        (("--latency-ms", 0), "--latency-ms 0 is not a time; give milliseconds above 0, such as 0.1"),
        (("--speedup", 2, "--budget", "layer"), "--budget layer fixes what each layer keeps"),
        (("--speedup", 2, "--latency-threads", 0), "--latency-threads 0 is too small; give at least 1"),
        (("--speedup", 1000), "speedup=1000 is out of reach, which is from"),
    ],
)
def test_impossible_budgets_are_refused_and_nothing_is_written(flexgroup, common, tmp_path, options, words):
    outcome = flexgroup(*common, *options)
    assert outcome.status != 0
    assert words in outcome.stderr
    assert os.listdir(tmp_path) == []


def test_a_run_that_goes_on_has_the_budget_that_it_began_with(config, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, asked = build("digits_net").eval(), config(speedup=1.5)
    budget = find_budget(asked, network, (1, 8, 8), None, is_main=True)
    write_budget(tmp_path, budget)

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(flexgroup.pruning, "latency_budget", never)
    assert find_budget(asked, network, (1, 8, 8), tmp_path, is_main=True).record() == budget.record()
    (tmp_path / LATENCY).write_text('{"seconds": 1')
    with pytest.raises(FlexgroupError, match=r"--resume: .*latency\.json is damaged \(.*\); remove its folder"):
        find_budget(asked, network, (1, 8, 8), tmp_path, is_main=True)
    assert find_budget(config(sparsity=0.5), network, (1, 8, 8), None, is_main=True) is None


def test_processes_after_the_first_take_its_budget(config, monkeypatch):
    torch.manual_seed(0)
    network, asked = build("digits_net").eval(), config(speedup=2.0)
    budget = find_budget(asked, network, (1, 8, 8), None, is_main=True)
    sent = json.dumps(budget.record())
    monkeypatch.setattr(flexgroup.pruning._distributed, "text_from_first_rank", lambda text: sent)
    assert find_budget(asked, network, (1, 8, 8), None, is_main=False).options == budget.options


def test_a_prediction_that_is_off_is_remarked_upon():
    record = {"predicted": 1e-4, "measured": 1.3e-4, "dense": 4e-4, "budget": 1e-4, "difference": -0.23}
    record |= {"speedup": 3.1, "agrees": False, "found": {"threads": 2}}
    words = latency_words(record)
    assert "0.1 ms predicted and 0.13 ms measured for one image on 2 threads (-23.0%), 3.10x faster" in words
    assert words.endswith("differ by more than 15%: is the machine busy?")
