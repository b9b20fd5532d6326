"""The one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flexgroup.report import Report, Run, Timing, headline
from flexgroup.report._headline import points, significant, times


def test_the_sentence_says_how_much_faster_and_at_what_cost(report: Report) -> None:
    head = headline(report)
    assert head is not None
    assert head.sentence == "5.4x faster than ONNX Runtime at \u22120.80 points of accuracy"
    assert head.details == (
        "4x1 unaligned rows at 95 % sparsity takes 0.0172 ms an image on 1 thread. The dense network takes: "
        "ONNX Runtime 0.0930 ms, PyTorch 0.412 ms, our dense code 0.0610 ms."
    )
    assert [figure.value for figure in head.figures] == ["5.4x", "24x", "3.5x", "\u22120.80"]


def test_it_speaks_of_the_sparsest_network_that_loses_at_most_a_point(report: Report) -> None:
    aligned = headline(replace(report, featured="4x1 aligned"))
    assert aligned is not None
    assert (aligned.run.pattern, aligned.run.sparsity_asked) == ("4x1 aligned", 0.9)


def test_where_all_lose_more_it_speaks_of_the_most_accurate(report: Report) -> None:
    lossy = replace(report, dense=replace(report.dense, accuracy=99.9 + 2))
    head = headline(lossy)
    assert head is not None
    assert head.run.accuracy == max(run.accuracy for run in lossy.runs if run.pattern == lossy.featured)


def test_without_onnxruntime_it_compares_with_pytorch(report: Report) -> None:
    latency = {name: t for name, t in report.dense.latency.items() if not name.startswith("ONNX")}
    head = headline(replace(report, dense=replace(report.dense, latency=latency)))
    assert head is not None
    assert head.sentence.startswith("24x faster than PyTorch")


def test_being_slower_is_not_called_faster(report: Report) -> None:
    slow = tuple(replace(run, latency={report.engine: Timing(0.2, 0.2, 0.2, 9)}) for run in report.runs)
    head = headline(replace(report, runs=slow))
    assert head is not None
    assert head.sentence.startswith("0.46x the speed of ONNX Runtime")


def test_without_timed_runs_there_is_no_headline(report: Report) -> None:
    assert headline(replace(report, runs=(Run("4x1 aligned", 0.9, 0.9, 99.0),))) is None
    assert headline(replace(report, dense=replace(report.dense, latency={}))) is None


@pytest.mark.parametrize(("factor", "text"), [(24.2, "24x"), (4.16, "4.2x"), (1.0, "1.0x"), (0.834, "0.83x")])
def test_ratios_have_the_digits_they_deserve(factor: float, text: str) -> None:
    assert times(factor) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0412, "0.0412"), (0.0999999, "0.1000"), (1.5, "1.50"), (412.3, "412"), (0.0, "0")]
)
def test_times_have_three_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(("value", "text"), [(-0.8, "\u22120.80"), (0.2, "+0.20"), (0.0, "0.00"), (-0.001, "0.00")])
def test_points_have_a_sign_unless_they_are_none(value: float, text: str) -> None:
    assert points(value) == text
