"""Times of the experiment: of networks with the pattern of each run, whether trained weights are at hand or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_runs import dense, pruned

from flexgroup import FlexgroupError
from flexgroup.groups import cover
from flexgroup.zoo import CifarResNet, save_weights

pytest.importorskip("typer", reason="needs flexgroup[cli]")

from _cifar10_latency import measure_latency
from _cifar10_networks import pattern_like
from _cifar10_results import read_results
from _cifar10_runs import Dense, Pruned

KEPT = {"layer1.0.conv1": 360, "layer2.0.conv2": 664, "layer3.2.conv2": 0}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(CifarResNet(3), tmp_path / "resnet20.safetensors", {"format": "pt"})
    return tmp_path / "resnet20.safetensors"


@pytest.mark.parametrize("alignment", ["aligned", "rows", "permuted", "rows-permuted"])
@pytest.mark.parametrize("budget", ["erdos-renyi", "erdos-renyi-line", "global"])
def test_a_stand_in_keeps_as_much_of_each_layer_in_groups_of_the_shape(weights, alignment, budget) -> None:
    model = pattern_like(Pruned("4x1", alignment, 0.95, 0, budget), KEPT, weights)
    for name, count in KEPT.items():
        matrix = model.get_submodule(name).weight.detach().flatten(1).numpy()
        assert np.count_nonzero(matrix) == count
        assert 4 * np.count_nonzero(cover(matrix, 4)) == count  # whole groups, none over another
        if "rows" not in alignment:
            assert all(np.array_equal(matrix[row] != 0, matrix[row // 4 * 4] != 0) for row in range(len(matrix)))
    assert torch.count_nonzero(model.get_submodule("layer3.2.conv1").weight) > 30_000  # no count, not pruned


def test_all_records_are_timed_and_trained_weights_beside_their_stand_in(write, weights, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FLEXGROUP_COSTS", "default")
    runs = [Pruned("4x1", "rows", 0.95, seed) for seed in range(2)]
    small = Dense(1, 4, 0)
    records = [pruned("4x1", "rows", 0.95, run.seed, name=run.name, layers=KEPT, times=None) for run in runs]
    records.append(pruned("4x1", "rows", 0.95, name=f"{runs[0].name}-oneshot", layers=KEPT, times=None))
    records.append({**dense("resnet8", 22.0, 0.07, 0), "name": small.name, "times": None})
    out, work = write(records), tmp_path / "work"
    (work / runs[1].name).mkdir(parents=True)
    save_weights(CifarResNet(3), work / runs[1].name / "model.safetensors", {"format": "pt"})
    assert not any(one.ms for one in read_results(out))

    times = measure_latency([*runs, small, Pruned("8x1", "rows", 0.95, 0)], out, work, weights, rounds=1)
    found = {one.name: one for one in read_results(out)}
    assert set(times) == {"the unpruned network", *found}
    assert {name: one.ms for name, one in found.items()} == {name: times[name] for name in found}
    assert len({times[name] for name in found if name != small.name}) == 1  # the same pattern, timed once
    assert {name for name, one in found.items() if one.ms_trained} == {runs[1].name}
    document = json.loads((out / "latency.json").read_text("utf-8"))
    assert document["dense_ms"] == times["the unpruned network"]
    assert document["machine"]["cores"] > 0


def test_nothing_to_time_is_told(tmp_path, weights) -> None:
    with pytest.raises(FlexgroupError, match=r"runs has no results; train some first: python experiments/cifar10.py"):
        measure_latency([Dense(1, 4, 0)], tmp_path, tmp_path, weights, rounds=1)
    assert not (tmp_path / "latency.json").exists()
