"""``flexgroup bench`` times every engine that was asked for on the same input, and checks what they compute."""

from __future__ import annotations

import importlib.util
import re

import pytest

from flexgroup.cli._bench import _in_words

needs_onnxruntime = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnx")),
    reason="needs onnxruntime and onnx",
)


@pytest.fixture
def common(digits_weights):
    return ["bench", "--model", "digits_net", "--weights", digits_weights, "--runs", 2]


def test_every_engine_is_timed_on_every_number_of_threads(flexgroup, common):
    document = flexgroup(*common, "--threads", "1,2", "--json").document
    assert [(row["engine"], row["threads"]) for row in document["latencies"]] == [
        (engine, threads) for threads in (1, 2) for engine in ("flexgroup", "flexgroup, dense", "torch")
    ]
    assert document["input"] == [1, 1, 8, 8]
    assert document["sparsity"] == 0
    assert set(document["memory"]) == {"1", "2"}
    assert all(memory["activations"] > 0 and memory["constants"] > 0 for memory in document["memory"].values())
    for row in document["latencies"]:
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["max_difference"] < 1e-3


def test_the_ratio_is_to_the_compiled_network(flexgroup, common):
    ours, dense, torch = flexgroup(*common, "--json").document["latencies"]
    assert ours["ratio"] == 1
    assert dense["ratio"] == pytest.approx(dense["median_ms"] / ours["median_ms"])
    assert torch["ratio"] == pytest.approx(torch["median_ms"] / ours["median_ms"])


@needs_onnxruntime
def test_onnx_runtime_is_compared_on_request(flexgroup, common):
    row = flexgroup(*common, "--against", "onnxruntime,torch", "--json").document["latencies"][-1]
    assert row["engine"] == "onnxruntime"
    assert 0 < row["max_difference"] < 1e-3


def test_the_table_says_who_is_faster(flexgroup, common):
    outcome = flexgroup(*common)
    assert "digits_net, 0.0 % zeros, input 1x1x8x8, fp32" in outcome.stdout
    assert "flexgroup is" in outcome.stdout
    assert re.search(r"flexgroup, 1 thread: activations \d+\.\d MiB, constants \d+\.\d MiB", outcome.stdout)
    assert re.search(r"torch .* \d+\.\d\dx (faster|slower)", outcome.stdout)


def test_calls_may_come_after_a_rest_as_in_an_app(flexgroup, common):
    document = flexgroup(*common, "--runs", 1, "--rest-ms", 2, "--json").document
    assert document["rest_ms"] == 2
    assert all(1 <= row["calls"] <= 10 for row in document["latencies"])
    assert "2 ms of rest before every call" in flexgroup(*common, "--runs", 1, "--rest-ms", 2).stdout


def test_a_rest_cannot_be_negative(flexgroup, common):
    assert "--rest-ms -1 is too small; give at least 0" in flexgroup(*common, "--rest-ms", -1).reason


@pytest.mark.parametrize(("ratio", "words"), [(2.5, "2.50x faster"), (1.0, "1.00x faster"), (0.5, "2.00x slower")])
def test_a_ratio_below_one_is_called_slower(ratio, words):
    assert _in_words(ratio) == words


def test_a_network_of_the_users_needs_its_input_shape(flexgroup, my_nets):
    common = ["bench", "--model", f"{my_nets}:make", "--runs", 1, "--json"]
    assert "is not known; give it, for example --input" in flexgroup(*common).reason
    for written in ("3,1,8,8", "3x1x8x8"):
        assert flexgroup(*common, "--input", written).document["input"] == [3, 1, 8, 8]
    assert "does not take an input of 1x3x9x9" in flexgroup(*common, "--input", "1,3,9,9").reason


def test_an_absent_onnx_runtime_is_named_with_the_remedy(flexgroup, common, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name, *rest)
    )
    reason = flexgroup(*common, "--against", "onnxruntime").reason
    assert "onnxruntime or onnx is not installed; pip install 'flexgroup[bench]'" in reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--against", "abacus"], "--against 'abacus' is unknown; choose onnxruntime or torch"),
        (
            ["--threads", "0"],
            "--threads '0' is not a list of whole numbers of at least 1; write for example --threads 1,2",
        ),
        (["--threads", "two"], "--threads 'two' is not a list of whole numbers"),
        (["--input", "1,3,x"], "--input '1,3,x' is not a list of whole numbers"),
        (["--runs", "0"], "--runs 0 is too small; give at least 1"),
    ],
)
def test_wrong_input_is_refused(flexgroup, common, options, reason):
    assert reason in flexgroup(*common, *options).reason
