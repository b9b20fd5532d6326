"""``--precision fp16`` of bench, profile and export: what is computed, and how far it is from fp32."""

from __future__ import annotations

import pytest

from flexgroup.kernels import host_target

pytestmark = pytest.mark.skipif(not host_target().half, reason="this machine has no instructions for fp16 numbers")


@pytest.fixture
def network(digits_weights):
    return ["--model", "digits_net", "--weights", digits_weights, "--precision", "fp16"]


def test_bench_times_fp32_beside_it_and_says_how_far_it_is(flexgroup, network):
    document = flexgroup("bench", *network, "--runs", 2, "--json").document
    engines = {row["engine"]: row for row in document["latencies"]}
    assert list(engines) == ["flexgroup", "flexgroup, dense", "torch", "flexgroup, fp32"]
    assert engines["flexgroup, fp32"]["max_difference"] < engines["flexgroup"]["max_difference"]
    assert document["precision"] == "fp16"
    assert 1e-6 < document["error"] < 2e-2
    text = flexgroup("bench", *network, "--runs", 2).stdout
    assert "input 1x1x8x8, fp16" in " ".join(text.split())
    assert f"flexgroup differs from fp32 by {document['error']:.1e} of the largest output" in text


def test_profile_says_what_is_computed_in_which_precision(flexgroup, network):
    common = ["profile", *network, "--accumulate", "fp32", "--runs", 2]
    text = flexgroup(*common).stdout
    assert "Precision: fp16: stored in 16 bits, multiplied and added in 32" in text
    assert "conv_f16_in_f32" in text
    document = flexgroup(*common, "--json").document
    assert document["precision"].startswith("fp16: stored in 16 bits")
    assert 1e-6 < document["error"] < 2e-2
    assert "precision: fp16: stored" in flexgroup(*common, "--explain").stdout


def test_export_writes_it_into_the_header(flexgroup, network, tmp_path):
    common = ["export", *network, "--target", "aarch64-android", "--out"]
    document = flexgroup(*common, tmp_path / "a", "--json").document
    assert document["precision"] == "fp16"
    assert "multiplied and added in 16 bits" in (tmp_path / "a" / "digits_net.h").read_text()
    flexgroup(*common, tmp_path / "b", "--accumulate", "fp32")
    assert "multiplied and added in 32" in (tmp_path / "b" / "digits_net.h").read_text()


@pytest.mark.parametrize("command", ["bench", "profile", "export"])
def test_unknown_precisions_are_refused(flexgroup, digits_weights, tmp_path, command):
    common = [command, "--model", "digits_net", "--weights", digits_weights]
    common += ["--out", tmp_path / "out"] if command == "export" else []
    assert "precision='int8' is unknown; choose fp32 or fp16" in flexgroup(*common, "--precision", "int8").reason
    reason = flexgroup(*common, "--precision", "fp16", "--accumulate", "fp64").reason
    assert "accumulate='fp64' is unknown; choose fp32 or fp16, or leave it out" in reason
    assert not (tmp_path / "out").exists()
