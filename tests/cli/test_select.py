"""``flexgroup select`` compares patterns and methods on a network's weights, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flexgroup as package
from flexgroup.cli._select import compare, run_comparison
from flexgroup.groups import Groups

DIGITS = ("select", "--model", "digits_net", "--json")


def rows_of(outcome) -> dict[tuple[str, str], dict]:
    return {(row["pattern"], row["method"]): row for row in outcome.document["choices"]}


def test_each_pattern_and_method_has_a_row(flexgroup, digits_weights):
    outcome = flexgroup(*DIGITS, "--weights", digits_weights, "--sparsity", 0.8)
    rows = rows_of(outcome)
    line = "4x1 unaligned rows"
    assert list(rows) == [
        ("fine-grained", "exact"),
        ("4x1 aligned", "exact"),
        (line, "exact"),
        (line, "bed"),
        (line, "greedy"),
    ]
    assert rows["fine-grained", "exact"]["relative"] == 1
    assert rows["4x1 aligned", "exact"]["score"] < rows[line, "exact"]["score"]
    assert rows[line, "greedy"]["score"] <= rows[line, "bed"]["score"] <= rows[line, "exact"]["score"]
    assert rows[line, "bed"]["groups"] == rows[line, "exact"]["groups"]
    assert all(row["seconds"] > 0 for row in rows.values())
    assert outcome.document["plot"] is None


def test_the_dynamic_programme_agrees_with_the_exact_method_where_asked_for(flexgroup, digits_weights):
    options = ("--weights", digits_weights, "--sparsity", 0.9, "--methods", "dp", "--budget", "layer")
    rows = rows_of(flexgroup(*DIGITS, *options))
    exact, programme = rows["4x1 unaligned rows", "exact"], rows["4x1 unaligned rows", "dp"]
    assert programme["score"] == pytest.approx(exact["score"], rel=1e-9)
    assert programme["groups"] == exact["groups"]
    assert programme["gap"] < 1e-9
    assert ("4x1 unaligned rows", "bed") not in rows


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(4, 14),
    columns=st.integers(4, 14),
    size=st.sampled_from(["2x1", "1x3", "2x2", "3x2"]),
    axis=st.sampled_from(["rows", "cols"]),
    budget=st.sampled_from(["global", "layer"]),
    seed=st.integers(0, 99),
)
def test_published_methods_are_those_of_the_library(rows, columns, size, axis, budget, seed):
    rng = np.random.default_rng(seed)
    scores = {"a": rng.random((rows, columns)), "b": rng.random((columns, rows))}
    groups = Groups(size, axis)
    for choice in compare(scores, groups, 0.6, budget, ("bed", "greedy", "dp")):
        if choice.method in ("bed", "greedy", "dp"):
            own = package.select(scores, groups, 0.4, budget, method=choice.method)
            assert choice.groups == sum(own.kept.values())
            assert choice.score == pytest.approx(own.score)
            assert choice.gap == pytest.approx(own.gap, abs=1e-9)


def test_free_groups_keep_most_and_say_how_far_from_the_best_they_may_be(flexgroup, digits_weights):
    options = ("--weights", digits_weights, "--groups", "2x2", "--unaligned", "free")
    rows = rows_of(flexgroup(*DIGITS, *options))
    free = rows["2x2 unaligned free", "search"]
    axes = [rows[f"2x2 unaligned {axis}", "exact"]["score"] for axis in ("rows", "cols")]
    assert free["score"] >= max(axes) > rows["2x2 aligned", "exact"]["score"]
    assert 0 <= free["gap"] < 0.03


@pytest.mark.parametrize(("size", "sparsity"), [("1xK", 0.5), ("Mx1", 0.5), ("2:4", 0.5), ("1x1", 0.7)])
def test_every_baseline_is_one_argument_away(flexgroup, size, sparsity):
    rows = rows_of(flexgroup(*DIGITS, "--groups", size, "--unaligned", "none", "--sparsity", sparsity))
    assert list(rows) == [("fine-grained", "exact")] + ([(f"{size} aligned", "exact")] if size != "1x1" else [])
    assert all(0 < row["relative"] <= 1 for row in rows.values())


def test_a_balanced_budget_is_compared_by_the_exact_method_alone(flexgroup):
    assert {method for _, method in rows_of(flexgroup(*DIGITS, "--budget", "line"))} == {"exact"}


def test_random_weights_are_the_same_on_every_run(flexgroup):
    scores = [[row["score"] for row in flexgroup(*DIGITS).document["choices"]] for _ in range(2)]
    assert scores[0] == scores[1]


def test_the_table_says_what_was_compared(flexgroup, my_nets):
    outcome = flexgroup("select", "--model", f"{my_nets}:talkative", "--groups", "2x1", "--sparsity", 0.75)
    assert outcome.status == 0
    assert "hello" not in outcome.stdout
    assert "random weights: 576 weights in 1 layer, 75 % pruned, budget global" in " ".join(outcome.stdout.split())
    lines = [line.replace(" ", "") for line in outcome.stdout.splitlines()]
    assert any(line.startswith("│2x1unalignedrows│exact│72│") for line in lines)


def test_each_group_of_a_grouped_convolution_has_its_own_lines(tmp_path, monkeypatch, flexgroup):
    (tmp_path / "grouped_net_for_cli.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1, groups=2))\n"
    )
    monkeypatch.chdir(tmp_path)
    document = flexgroup("select", "--model", "grouped_net_for_cli:make", "--sparsity", 0.5, "--json").document
    assert (document["layers"], document["size"]) == (2, 32)
    # Each 4x4 matrix is one group high, so aligned and unaligned groups are the same.
    assert document["choices"][1]["score"] == pytest.approx(document["choices"][2]["score"])


@pytest.mark.parametrize(("name", "begins"), [("kept.svg", b"<?xml"), ("kept.png", b"\x89PNG")])
def test_the_plot_is_written_and_is_the_same_again(flexgroup, tmp_path, name, begins):
    path = tmp_path / name
    pictures = []
    for _ in range(2):
        outcome = flexgroup("select", "--model", "digits_net", "--methods", "greedy,dp", "--plot", path)
        assert outcome.status == 0
        assert outcome.stdout.splitlines()[-1] == str(path)
        pictures.append(path.read_bytes())
    assert pictures[0].startswith(begins)
    assert pictures[0] == pictures[1]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--sparsity", "1"), "--sparsity 1 is not a share of the weights; give 0 or more and below 1"),
        (("--sparsity", "nan"), "--sparsity nan is not a share of the weights"),
        (("--groups", "2:4", "--unaligned", "none"), "groups of 2:4 prune 0.5 of the weights: give --sparsity so"),
        (("--groups", "four"), "group size 'four' is not ROWSxCOLS"),
        (("--groups", "999x1"), "groups of 999x1 do not fit its"),
        (("--unaligned", "up"), "unaligned='up' is not an axis"),
        (("--budget", "most"), "--budget 'most' is unknown; choose global, layer or line"),
        (("--methods", "best"), "--methods 'best' is unknown; choose from exact, bed, greedy, dp"),
        (("--methods", "bed", "--budget", "line"), "--methods bed needs groups of numbers, --unaligned rows or cols"),
        (("--methods", "bed", "--unaligned", "none"), "got 4x1 aligned, global"),
        (("--plot", "kept.txt"), "--plot kept.txt names no picture; end it in .svg or .png"),
        (("--plot", "absent/kept.svg"), "there is no folder absent; make it first"),
        (
            ("--groups", "2:4", "--unaligned", "none", "--sparsity", "0.5", "--plot", "kept.svg"),
            "groups of 2:4 have one sparsity only",
        ),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(flexgroup, tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    assert reason in flexgroup("select", "--model", "digits_net", *options).reason
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_cannot_be_written_is_told_in_one_line(flexgroup, tmp_path):
    path = tmp_path / "kept.svg"
    path.mkdir()
    reason = flexgroup("select", "--model", "digits_net", "--methods", "greedy", "--plot", path).reason
    assert reason == f"--plot {path} cannot be written: Is a directory; name another file"


def test_a_dynamic_programme_that_would_not_fit_in_memory_is_refused(monkeypatch, flexgroup):
    monkeypatch.setattr("flexgroup.cli._select.MOST_DECISIONS", 1 << 20)
    reason = flexgroup("select", "--model", "digits_net", "--sparsity", 0.5, "--methods", "dp").reason
    assert reason.startswith("--methods dp: all layers together would take")
    assert "use --budget layer" in reason


def test_unaligned_groups_keep_more_of_a_trained_network(shared_data):
    weights = shared_data / "cifar10_resnet" / "resnet20.safetensors"
    result = run_comparison("resnet20", weights, sparsity=0.95)
    relative = {(row.pattern, row.method): row.relative for row in result.choices}
    assert relative["4x1 unaligned rows", "exact"] > 1.07 * relative["4x1 aligned", "exact"]
