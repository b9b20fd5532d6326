"""``flexgroup demo``, quick: the whole path from training to the report."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
import torch

from flexgroup import FlexgroupError, Groups
from flexgroup.cli import main
from flexgroup.cli._demo import check_extras, demo_folder
from flexgroup.cli._demo_run import DemoSettings, weights_files
from flexgroup.groups import cover
from flexgroup.pruning import accuracy, weight_matrices
from flexgroup.report import Report, from_json
from flexgroup.zoo import digits_net, load_data, load_weights

for extra in ("sklearn", "matplotlib", "jinja2"):
    pytest.importorskip(extra, reason="the demo needs flexgroup[demo]")

NETWORKS = {"4x1 aligned", "4x1 unaligned rows", "fine-grained"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one quick demo has been; in an existing folder, with a file of the user's and one of an older demo."""
    out = tmp_path_factory.mktemp("demo")
    (out / "notes.txt").write_text("mine")
    (out / "4x1-aligned-80.safetensors").write_text("old")
    before = torch.get_num_threads(), torch.get_rng_state()
    assert main(["demo", "--quick", "--force", "--out", str(out)]) == 0
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    return out


@pytest.fixture(scope="module")
def results(folder: Path) -> Report:
    return from_json((folder / "results.json").read_text())


def test_the_folder_holds_the_report_the_results_and_the_networks(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == [
        "4x1-aligned-90.safetensors",
        "4x1-unaligned-rows-90.safetensors",
        "dense.safetensors",
        "fine-grained-90.safetensors",
        "notes.txt",
        "report.html",
        "results.json",
    ]


def test_all_patterns_are_pruned_to_the_sparsity_asked_for(results: Report) -> None:
    assert {run.pattern for run in results.runs} == NETWORKS
    assert [run.sparsity for run in results.runs] == pytest.approx([0.9] * 3, abs=1e-4)


def test_compiled_networks_are_as_accurate_as_in_pytorch(results: Report) -> None:
    for run in (results.dense, *results.runs):
        assert run.engine_accuracy == run.accuracy
        assert run.max_difference is not None
        assert run.max_difference < 1e-3


def test_the_networks_on_disk_are_those_of_the_results(folder: Path, results: Report) -> None:
    data = load_data("digits")
    for run in (results.dense, *results.runs):
        network = digits_net()
        load_weights(network, folder / str(run.file))
        assert accuracy(network, *data.test()) == run.accuracy
        weights = weight_matrices(network).values()
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        assert zeros == pytest.approx(run.sparsity, abs=1e-3)


def test_unaligned_networks_consist_of_whole_groups_off_the_grid(folder: Path) -> None:
    network = digits_net()
    load_weights(network, folder / "4x1-unaligned-rows-90.safetensors")
    kept = {name: (weight != 0).numpy() for name, weight in weight_matrices(network).items()}
    starts = {name: cover(mask, Groups("4x1").rows) for name, mask in kept.items()}
    assert sum(int(mask.sum()) for mask in kept.values()) == 4 * sum(int(s.sum()) for s in starts.values())
    assert any(s[row].any() for s in starts.values() for row in range(len(s)) if row % 4)


def test_unaligned_groups_keep_more_magnitude_than_aligned_ones(results: Report) -> None:
    kept = {run.pattern: run.magnitude_kept or 0.0 for run in results.runs}
    assert kept["4x1 aligned"] < kept["4x1 unaligned rows"] < kept["fine-grained"]


def test_every_latency_has_its_baselines(results: Report) -> None:
    installed = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name)]
    references = ["ONNX Runtime, 1 thread"] * (len(installed) == 2) + ["PyTorch, 1 thread"]
    assert list(results.references) == references
    assert set(results.dense.latency) == {*references, "flexgroup, 1 thread"}
    for run in results.runs:
        assert run.latency["flexgroup, 1 thread"].median_ms > 0
    assert results.profiles[0].label == "dense"
    assert all(profile.rows for profile in results.profiles)


def test_the_masks_show_the_same_corner_of_one_layer(results: Report) -> None:
    assert {mask.pattern for mask in results.masks} == NETWORKS
    assert len({(mask.layer, mask.shape, mask.first_column) for mask in results.masks}) == 1
    for mask in results.masks:
        assert len(mask.rows) == 32
        assert all(re.fullmatch(r"[#.]{32}", row) for row in mask.rows)


def test_the_report_stands_alone(folder: Path) -> None:
    page = (folder / "report.html").read_text("utf-8")
    assert not re.search(r"https?://|<script|<link|<img", page)
    assert str(folder) not in page
    assert page.count("<svg") == 9


def test_json_is_one_document_and_progress_goes_to_stderr(flexgroup, tmp_path, monkeypatch, results) -> None:
    monkeypatch.setattr("flexgroup.cli._demo_run.run_demo", lambda *_: results)
    outcome = flexgroup("demo", "--json", "--out", tmp_path / "demo")
    assert outcome.status == 0
    assert from_json(json.dumps(outcome.document)) == results


def test_the_table_ends_with_the_headline_and_the_way_to_the_report(flexgroup, tmp_path, monkeypatch, results) -> None:
    monkeypatch.setattr("flexgroup.cli._demo_run.run_demo", lambda *_: results)
    outcome = flexgroup("demo", "--out", tmp_path / "demo")
    assert "4x1 unaligned rows" in outcome.stdout
    assert "points of accuracy" in outcome.stdout
    assert outcome.stdout.rstrip().endswith(str(tmp_path / "demo" / "report.html"))


def test_a_folder_that_exists_is_not_touched_without_force(flexgroup, tmp_path) -> None:
    outcome = flexgroup("demo", "--out", tmp_path)
    assert outcome.reason == (
        f"--out {tmp_path} exists; give --force to replace the demo in it, or name another folder"
    )
    assert os.listdir(tmp_path) == []


def test_a_file_cannot_be_the_folder_even_with_force(flexgroup, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = flexgroup("demo", "--force", "--out", tmp_path / "file")
    assert outcome.reason == f"--out {tmp_path / 'file'} is a file; name a folder"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--threads", "0"), "--threads 0 is too small; give at least 1"),
        (("--seed", "-1"), "--seed -1 is not a seed; give a whole number from 0"),
    ],
)
def test_wrong_numbers_are_refused_before_any_work(flexgroup, tmp_path, arguments, reason) -> None:
    assert flexgroup("demo", *arguments, "--out", tmp_path / "demo").reason == reason
    assert os.listdir(tmp_path) == []


def test_a_demo_that_fails_leaves_nothing_behind(tmp_path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "results.json").write_text("old")

    def fail() -> None:
        with demo_folder(tmp_path / "demo", force=True) as folder:
            (folder / "results.json").write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == ["demo"]
    assert (tmp_path / "demo" / "results.json").read_text() == "old"


def test_a_missing_extra_is_named_before_any_work(monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else real(name))
    with pytest.raises(FlexgroupError, match=r"the demo needs scikit-learn: pip install 'flexgroup\[demo\]'"):
        check_extras()


def test_the_full_demo_has_three_sparsities_of_three_patterns() -> None:
    settings = DemoSettings()
    assert settings.sparsities == (0.8, 0.9, 0.95)
    assert len(weights_files(settings)) == 10


def test_help_has_an_example(flexgroup) -> None:
    assert "flexgroup demo --out demo" in flexgroup("demo", "--help").stdout
