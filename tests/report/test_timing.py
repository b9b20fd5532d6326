"""Timing several callables side by side."""

from __future__ import annotations

import time

import numpy as np
import pytest

from flexgroup import FlexgroupError
from flexgroup.report import interleaved
from flexgroup.report._timing import CALLS_WITH_REST, summary


def test_each_callable_has_a_turn_in_every_round_and_the_order_alternates() -> None:
    turns: list[str] = []
    calls = {name: lambda name=name: turns.append(name) for name in ("a", "b", "c")}

    timings = interleaved(calls, rounds=3, min_seconds=0, warmup=1)

    assert turns == [*"aabbcc", *"ccbbaa", *"aabbcc"]
    assert list(timings) == ["a", "b", "c"]


def test_warm_up_calls_are_not_counted() -> None:
    calls = [0]

    def count() -> None:
        calls[0] += 1

    timing = interleaved({"count": count}, rounds=4, min_seconds=0, warmup=3)["count"]

    assert calls[0] == 16
    assert timing.calls == 4


def test_a_turn_lasts_as_long_as_asked() -> None:
    timing = interleaved({"nothing": lambda: None}, rounds=2, min_seconds=0.01)["nothing"]
    assert timing.calls > 100


def test_progress_hears_of_every_round() -> None:
    rounds: list[int] = []
    interleaved({"nothing": lambda: None}, rounds=3, min_seconds=0, progress=rounds.append)
    assert rounds == [0, 1, 2]


def test_percentiles_are_in_milliseconds() -> None:
    timing = summary([1_000_000 * n for n in range(1, 12)])
    assert (timing.p10_ms, timing.median_ms, timing.p90_ms, timing.calls) == (2.0, 6.0, 10.0, 11)
    assert str(timing) == "6.000 ms (2.000 to 10.000, 11 calls)"


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(FlexgroupError, match="nothing to time"):
        interleaved({})


def test_with_a_rest_every_call_comes_that_long_after_the_one_before() -> None:
    began: list[float] = []
    timing = interleaved(
        {"note": lambda: began.append(time.perf_counter())}, rounds=3, min_seconds=0, warmup=0, rest=0.005
    )["note"]
    assert 3 <= timing.calls <= 3 * CALLS_WITH_REST
    assert min(np.diff(began)) >= 0.005


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"min_seconds": -1.0}, {"warmup": -1}, {"rest": -1}, {"rest": float("inf")}]
)
def test_numbers_that_cannot_be_timed_with_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(FlexgroupError, match="use at least one round, and numbers that are not negative or infinite"):
        interleaved({"nothing": lambda: None}, **wrong)
