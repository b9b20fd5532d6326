"""``flexgroup profile`` says where the time goes, as a table, as JSON and as a timeline."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def common(digits_weights):
    return ["profile", "--model", "digits_net", "--weights", digits_weights, "--runs", 2]


def test_every_layer_has_a_row_beside_what_the_machine_can_do(flexgroup, common):
    text = flexgroup(*common).stdout
    assert text.startswith("Time of every layer, 1 thread\n[node type]")
    for part in ("Summary by node type", "Machine: ", "GFLOP/s, reads L1", "Memory: activations"):
        assert part in text
    assert "reason" not in text


def test_the_choices_come_on_request(flexgroup, common):
    assert "no zeros to skip" in flexgroup(*common, "--explain").stdout
    layers = flexgroup(*common, "--explain", "--json").document["explanation"]["layers"]
    assert all(layer["kernel"] and layer["macs"] > 0 for layer in layers)


def test_the_document_adds_up(flexgroup, common):
    document = flexgroup(*common, "--json", "--threads", 2, "--dense").document
    assert document["threads"] == document["rounds"] == 2
    assert document["model"] == "digits_net"
    assert document["ms"] == pytest.approx(sum(row["ms"] for row in document["rows"]))
    assert {row["node_type"] for row in document["types"]} >= {"conv", "copy"}
    assert document["memory"]["activations"] > 0
    assert 0 < document["least_ms"] == pytest.approx(sum(row["least_ms"] or 0 for row in document["rows"]))
    assert document["rates"]["peak"] > 0
    assert document["machine"]["cores"] >= 1
    assert "explanation" not in document


def test_a_run_is_written_as_a_timeline(flexgroup, common, tmp_path):
    file = tmp_path / "trace.json"
    flexgroup(*common, "--threads", 2, "--trace", file)
    events = json.loads(file.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"X", "M"}
    assert {event["tid"] for event in events} == {0, 1}
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


@pytest.mark.parametrize(("name", "begins"), [("roofline.svg", b"<?xml"), ("roofline.png", b"\x89PNG")])
def test_the_roofline_is_drawn(flexgroup, common, tmp_path, name, begins):
    outcome = flexgroup(*common, "--roofline", tmp_path / name)
    assert "Roofline: " in outcome.stdout
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--threads", "0"], "--threads 0 is too small; give at least 1"),
        (["--runs", "0"], "--runs 0 is too small; give at least 1"),
        (["--input", "1,x"], "--input '1,x' is not a list of whole numbers"),
        (["--trace", "absent/trace.json"], "there is no folder"),
        (["--trace", "."], "--trace . is a folder; name a file"),
        (["--roofline", "roofline.txt"], "--roofline roofline.txt names no picture; end it in .svg or .png"),
        (["--roofline", "absent/roofline.svg"], "there is no folder absent; make it first"),
    ],
)
def test_wrong_input_is_refused(flexgroup, common, options, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reason in flexgroup(*common, *options).reason
    assert list(tmp_path.iterdir()) == []
