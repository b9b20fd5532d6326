"""``flexgroup inspect`` counts the zeros of each layer, and finds the groups in what is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.cli._inspect import run_inspection
from flexgroup.groups import Groups
from flexgroup.pruning import prune
from flexgroup.zoo import save_weights


def greedy(column: np.ndarray, rows: int) -> int:
    """Windows down one column, one at a time."""
    count, row = 0, 0
    while row < len(column):
        if column[row]:
            count += 1
            row += rows
        else:
            row += 1
    return count


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_pruned_groups_are_found_again_whole(flexgroup, path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 1))
    prune(model, Groups("4x1", unaligned="rows"), 0.75, budget="line", targets=["1"])
    save_weights(model, path, {"groups": "4x1 unaligned rows"})
    document = flexgroup("inspect", path, "--json").document
    dense, pruned, _ = document["layers"]
    assert (dense["name"], dense["shape"], dense["sparsity"], dense["windows"]) == ("0", [8, 3, 3, 3], 0, [])
    assert (pruned["rows"], pruned["columns"], pruned["sparsity"]) == (16, 72, 0.75)
    assert pruned["windows"][1] == {"rows": 4, "count": 72, "fill": 1.0}
    assert document["windows"] == pruned["windows"]
    assert document["metadata"] == {"groups": "4x1 unaligned rows"}


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 20), columns=st.integers(1, 10), density=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_windows_are_those_of_the_greedy_cover(tmp_path_factory, rows, columns, density, seed):
    model = nn.Linear(columns, rows, bias=False)
    kept = np.random.default_rng(seed).random((rows, columns)) < density
    kept[0, 0] = False
    model.weight.data = torch.from_numpy(kept.astype(np.float32))
    path = tmp_path_factory.mktemp("inspect") / "model.safetensors"
    save_weights(model, path)
    (layer,) = run_inspection(path).layers
    assert layer.nonzeros == kept.sum()
    for windows in layer.windows:
        count = sum(greedy(column, windows.rows) for column in kept.T)
        assert windows.count == count
        assert windows.fill == pytest.approx(kept.sum() / max(1, count * windows.rows))


def test_totals_are_over_all_layers(flexgroup, path):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].weight.data[:2] = 0
    save_weights(model, path)
    document = flexgroup("inspect", path, "--json").document
    assert (document["weights"], document["nonzeros"], document["sparsity"]) == (48, 40, pytest.approx(1 / 6))


def test_layers_are_in_the_order_of_their_numbers(flexgroup, path):
    save_weights(nn.Sequential(*(nn.Linear(1, 1) for _ in range(11))), path)
    names = [layer["name"] for layer in flexgroup("inspect", path, "--json").document["layers"]]
    assert names == [str(number) for number in range(11)]


def test_the_table_has_a_line_a_layer_and_the_total(flexgroup, path):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].weight.data[:4] = 0
    save_weights(model, path)
    outcome = flexgroup("inspect", path)
    assert outcome.status == 0
    lines = [line.replace(" ", "") for line in outcome.stdout.splitlines()]
    assert "│0│8x4│32│50.0%│8(100%)│4(100%)│4(50%)│" in lines
    assert "│1│2x8│16│0.0%│dense│dense│dense│" in lines
    assert "│all││48│33.3%│8(100%)│4(100%)│4(50%)│" in lines


def test_what_is_no_network_is_refused(flexgroup, path):
    path.write_bytes(b"nonsense")
    assert "not a complete safetensors file" in flexgroup("inspect", path).reason
    save_weights(nn.BatchNorm2d(3), path)
    assert "no tensor in it is a kernel or a matrix" in flexgroup("inspect", path).reason
    model = nn.Linear(2, 2)
    model.weight.data[0, 0] = float("nan")
    save_weights(model, path)
    assert "NaN or Inf in weight" in flexgroup("inspect", path).reason
    assert "is a folder, not a file" in flexgroup("inspect", path.parent).reason
