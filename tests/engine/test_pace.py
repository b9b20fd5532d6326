"""All threads, or the caller alone: whichever is faster, and the same results to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import CompiledModel, plan_graph
from flexgroup.engine._pace import COST, TRIAL, Pace
from tests.engine.test_in_place import graph_of
from tests.kernels.here import HOST


def spent(pace: Pace, team: float, alone: float, calls: int) -> float:
    """Seconds of so many calls, when these take so long."""
    total = 0.0
    for _ in range(calls):
        seconds = team if pace.by_team() else alone
        pace.note(seconds)
        total += seconds
    return total


times = st.floats(1e-5, 1e-1)


@given(times, times)
def test_the_faster_way_is_found_and_kept(team, alone):
    pace = Pace()
    spent(pace, team, alone, 100)
    if max(team, alone) > 1.06 * min(team, alone):
        assert pace.is_team == (team < alone)
    calls, fast = 10_000, min(team, alone)
    assert spent(pace, team, alone, calls) <= (1.06 + COST[False]) * fast * calls + 2 * TRIAL * max(team, alone)


@given(times, st.floats(1.2, 5.0), st.floats(1.2, 5.0))
def test_a_change_is_noticed(alone, gain, loss):
    pace = Pace()
    spent(pace, alone / gain, alone, 10_000)
    assert pace.is_team
    spent(pace, alone * loss, alone, 3 * TRIAL)
    assert not pace.is_team, "a slow team is noticed at once"
    spent(pace, alone * loss, alone, 10_000)
    spent(pace, alone / gain, alone, round(TRIAL * loss / COST[False]) + TRIAL)
    assert pace.is_team


def test_one_slow_call_changes_nothing():
    pace = Pace()
    spent(pace, 1.0, 2.0, 1000)
    for _ in range(50):
        pace.note(100.0)
        spent(pace, 1.0, 2.0, TRIAL)
        assert pace.is_team


@pytest.mark.parametrize("threads", [2, 3])
def test_the_caller_alone_gets_the_same(threads):
    """Convolutions with a border, by positions and by channels, a depthwise layer, a pool and a classifier."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1, groups=24)]
    layers += [nn.Conv2d(24, 40, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10)]
    model = nn.Sequential(*layers).eval()
    compiled = CompiledModel(plan_graph(graph_of(model, (3, 56, 56)), HOST, threads=threads), 0.0)
    x = torch.randn(3, 3, 56, 56)
    found = []
    for call in range(40):
        compiled._program.pace = Pace(always=call % 2 == 0)
        found.append(compiled(x))
    for each in found:
        assert torch.equal(each, found[0])


def test_calls_are_timed_and_tried_alone():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).eval()
    compiled = CompiledModel(plan_graph(graph_of(model, (8, 16, 16)), HOST, threads=2), 0.0)
    x, ways = torch.randn(1, 8, 16, 16), []
    for _ in range(12 + TRIAL):
        ways.append(compiled._program.pace.by_team())
        compiled(x)
    assert True in ways
    assert False in ways
