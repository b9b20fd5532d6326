"""The values a report shows, and their JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgroup import FlexgroupError
from flexgroup.report import Report, Run, Timing, engine_label, from_json, to_json

finite = st.floats(allow_nan=False, allow_infinity=False)
timings = st.builds(Timing, finite, finite, finite, st.integers(0, 10**9))
runs = st.builds(
    Run,
    pattern=st.text(),
    sparsity_asked=finite,
    sparsity=finite,
    accuracy=finite,
    latency=st.dictionaries(st.text(), timings),
    engine_accuracy=st.none() | finite,
    max_difference=st.none() | finite,
    file=st.none() | st.text(),
)


def test_a_report_survives_the_round_trip(report: Report) -> None:
    assert from_json(to_json(report)) == report


@given(st.lists(runs, max_size=3), st.lists(st.text(), max_size=3))
def test_any_runs_and_words_survive_the_round_trip(report: Report, any_runs: list[Run], notes: list[str]) -> None:
    changed = replace(report, runs=tuple(any_runs), notes=tuple(notes), profiles=(), masks=())
    assert from_json(to_json(changed)) == changed


def test_the_json_has_a_schema_and_is_plain(report: Report) -> None:
    document = json.loads(to_json(report))
    assert document["schema"] == "flexgroup-report/1"
    assert document["runs"][0]["latency"]["flexgroup, 1 thread"]["median_ms"] == 0.029


def test_infinite_figures_are_not_written(report: Report) -> None:
    broken = replace(report, dense=replace(report.dense, accuracy=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(broken)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "results are not JSON"),
        ("[]", "results have schema None"),
        ('{"schema": "another/7"}', "results have schema 'another/7'"),
        ('{"schema": "flexgroup-report/1"}', "results do not fit schema 'flexgroup-report/1': KeyError: 'machine'"),
    ],
)
def test_foreign_json_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(FlexgroupError) as refusal:
        from_json(text)
    assert str(refusal.value).startswith(reason)
    assert "make them again with flexgroup demo" in str(refusal.value)


def test_unknown_keys_are_refused(report: Report) -> None:
    document = json.loads(to_json(report))
    document["dense"]["speed"] = 3
    with pytest.raises(FlexgroupError, match="unexpected keyword argument 'speed'"):
        from_json(json.dumps(document))


def test_a_speedup_is_the_dense_time_over_ours(report: Report) -> None:
    run = report.runs[0]
    assert report.speedup(run, "ONNX Runtime, 1 thread") == pytest.approx(0.093 / 0.029)
    assert report.speedup(run, "flexgroup, 1 thread") == pytest.approx(0.061 / 0.029)
    assert report.speedup(run, "OpenVINO, 1 thread") is None


def test_only_engines_that_were_measured_are_references(report: Report) -> None:
    alone = replace(report, dense=replace(report.dense, latency={"PyTorch, 1 thread": Timing(1, 1, 1, 1)}))
    assert report.references == ("ONNX Runtime, 1 thread", "PyTorch, 1 thread")
    assert alone.references == ("PyTorch, 1 thread",)


def test_labels_count_threads() -> None:
    assert engine_label("PyTorch", 1) == "PyTorch, 1 thread"
    assert engine_label("PyTorch", 2) == "PyTorch, 2 threads"
