"""A profile adds up, and says what every layer could have reached; an explanation says what was chosen, and why."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.engine import Machine, Memory, Plan, Step
from flexgroup.engine._explain import explain_plan
from flexgroup.engine._machine import Level
from flexgroup.engine._plan import Constants
from flexgroup.engine._profile import least_seconds, profile_rows
from flexgroup.kernels import F16, F32, ConvKernel, CopyKernel, FillKernel, host_target
from tests.engine.networks import Residual, prune, randomise

CONV, COPY, FILL = ConvKernel("ring", 2, 3, False), CopyKernel(1), FillKernel(F32)
LEVELS = (Level("L1", 1000, 1000.0, 2000.0), Level("memory", 0, 100.0, 100.0))
MACHINE = Machine("fast", "x86-64", 2, 1000.0, 2000.0, LEVELS, 80.0)


def plan(*steps: Step, threads: int = 1) -> Plan:
    """A plan that says how long things take, and is never run."""
    return Plan(
        target=host_target(),
        element=F32,
        threads=threads,
        inputs=(),
        outputs=(),
        steps=steps,
        constants=Constants().block(),
        arena_bytes=3 << 20,
        clear_bytes=0,
    )


A = Step("a", CONV, ((1,),), macs=300, useful_macs=200, dense_macs=800, reason="fast", bytes=500)
BANDED = (
    Step("in", COPY, ((1,),), bytes=4000),
    replace(A, chain=0, slots=2.0),
    Step("b", FILL, ((1,),), chain=0),
    Step("b", CONV, ((1,),), macs=100, useful_macs=100, dense_macs=100, chain=0),
    replace(A, dense_macs=0, useful_macs=0, chain=0, slots=1.0),
    Step("b", CONV, ((1,),), macs=100, chain=0),
)
SECONDS = np.array([[1.0, 2, 1, 3, 2, 4]])


def test_kernel_calls_of_one_layer_are_one_row():
    profile = profile_rows(plan(*BANDED), np.repeat(SECONDS, 3, axis=0), first=2 * SECONDS[0])
    assert [(row.name, row.calls) for row in profile.rows] == [("in", 1), ("a", 2), ("b", 3)]
    assert [row.ms for row in profile.rows] == [1000, 4000, 8000]
    assert [row.first_ms for row in profile.rows] == [2000, 8000, 16000]
    assert [row.cumulative for row in profile.rows] == pytest.approx([1 / 13, 5 / 13, 1])
    assert [row.node_type for row in profile.rows] == ["copy", "conv", "conv"]
    assert [row.gflops for row in profile.rows] == pytest.approx([0, 2 * 600 / 4 / 1e9, 2 * 200 / 8 / 1e9])
    assert [row.bytes for row in profile.rows] == [4000, 1000, 0]
    assert profile.ms == 13000


def test_families_of_kernels_add_up_to_the_same_total():
    profile = profile_rows(plan(*BANDED), SECONDS)
    assert [(row.node_type, row.layers, row.calls, row.ms) for row in profile.types] == [
        ("conv", 2, 4, 11000),
        ("copy", 1, 1, 1000),
        ("fill", 1, 1, 1000),
    ]
    assert profile.types[-1].cumulative == pytest.approx(1)


def test_times_are_medians():
    seconds = np.array([[1.0], [9.0], [2.0]])
    (row,) = profile_rows(plan(A), seconds).rows
    assert row.ms == 2000


@pytest.mark.parametrize(("threads", "peak"), [(1, 1000), (2, 2000)])
def test_rates_stand_beside_what_as_many_cores_of_the_machine_can_do(threads, peak):
    (row,) = profile_rows(plan(A, threads=threads), np.array([[2.0]]), machine=MACHINE).rows
    assert row.of_peak == pytest.approx(2 * 300 / 2 / peak)
    assert row.of_bandwidth == pytest.approx(500 / peak / 2)  # from the first level


def test_the_bound_is_that_of_the_level_that_holds_what_a_call_moves():
    (row,) = profile_rows(plan(Step("in", COPY, ((1,),), bytes=4000)), np.array([[80.0]]), machine=MACHINE).rows
    assert row.of_bandwidth == pytest.approx(4000 / 100 / 80)
    assert row.of_peak is None


def test_the_roofline_is_the_longer_of_both_bounds_call_by_call():
    moving = replace(A, macs=1, bytes=900)  # 0.002 s of multiply-adds, 0.9 s of bytes; A has 0.6 s and 0.5 s
    steps = plan(A, moving, BANDED[0], BANDED[2])
    profile = profile_rows(steps, np.array([[2.0, 2, 80, 1]]), machine=MACHINE)
    assert [row.least_ms for row in profile.rows] == pytest.approx([600 + 900, 40_000, None])
    assert profile.least_ms == pytest.approx(41_500)
    assert least_seconds(steps, MACHINE) == pytest.approx(41.5)
    assert "Roofline: 41500.0000 ms, all layers at one of these rates; 49% of it reached" in str(profile)
    assert profile_rows(steps, np.ones((1, 4))).least_ms is None
    halves = replace(plan(A), element=F16)  # twice as many in a vector
    assert least_seconds(halves, MACHINE) == pytest.approx(0.5)


def test_without_a_machine_or_anything_to_count_there_is_no_comparison():
    (row,) = profile_rows(plan(A), np.array([[2.0]])).rows
    assert row.of_peak is row.of_bandwidth is None
    (row,) = profile_rows(plan(Step("in", COPY, ((1,),))), np.array([[2.0]]), machine=MACHINE).rows
    assert row.of_peak is row.of_bandwidth is None


def test_the_calls_are_those_of_the_run_in_the_middle_on_every_thread():
    nan = float("nan")
    run = np.array([[[0.0, 2], [1, 3]], [[3, 4], [nan, nan]], [[nan, nan], [4, 6]]])
    steps = plan(A, BANDED[0], BANDED[3], threads=2)
    calls = profile_rows(steps, np.ones((1, 3)), traced=np.stack([3 * run, run, 2 * run])).calls
    assert [(call.name, call.thread, call.start, call.seconds) for call in calls] == [
        ("a", 0, 0, 4),
        ("a", 1, 2, 4),
        ("in", 0, 6, 2),
        ("b", 1, 8, 4),
    ]
    assert calls[0].kernel == CONV.name
    assert calls[0].macs == 300
    assert profile_rows(steps, np.ones((1, 3))).calls == ()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_traced_calls_follow_each_other_and_compute_what_any_call_does(threads):
    model = Residual(8, 8, 1, 3)
    randomise(model, 0)
    x = torch.randn(1, 8, 9, 9)
    compiled = flexgroup.compile(model, (x,), threads=threads)
    before = compiled(x)
    calls = compiled.profile(x, rounds=3).calls
    parts = sum(part is not None for step in compiled.plan.steps for part in step.parts)
    assert len(calls) == parts
    assert min(call.start for call in calls) == 0
    for thread in range(threads):
        mine = [call for call in calls if call.thread == thread]
        assert all(a.start + a.seconds < b.start + 1e-9 for a, b in pairwise(mine))
    assert all(call.seconds >= 0 for call in calls)
    assert torch.equal(compiled(x), before)


def test_printed_it_has_the_columns_of_litert_and_a_summary():
    lines = str(profile_rows(plan(*BANDED), SECONDS, first=SECONDS[0], machine=MACHINE)).splitlines()
    assert lines[0] == "Time of every layer, 1 thread"
    columns = "[node type] [first] [avg ms] [%] [cdf%] [mem KB] [times called] [GFLOP/s] [peak%] [bw%] [kernel] [Name]"
    assert " ".join(lines[1].split()) == columns
    assert lines[3].split() == [
        *("conv", "4000.0000", "4000.0000", "30.8%", "38.5%", "1.0", "2", "0.0", "30.0%", "25.0%", CONV.name, "a")
    ]
    assert lines[6] == "Summary by node type"
    assert " ".join(lines[7].split()) == "[node type] [count] [avg ms] [%] [cdf%] [mem KB] [times called]"
    assert lines[-4] == "Total 13000.0000 ms (avg: medians of 1 runs; mem: read and written)"
    assert lines[-3].startswith("Machine: fast, one core of 2")
    assert lines[-2].startswith("Roofline: ")
    assert lines[-1] == "Memory: activations 3.0 MiB, constants 0.0 MiB"


def test_a_network_that_runs_accounts_for_every_step():
    model = Residual(8, 8, 1, 3)
    randomise(model, 0)
    x = torch.randn(1, 8, 9, 9)
    compiled = flexgroup.compile(model, (x,))
    profile = compiled.profile(x, rounds=5)
    assert [row.name for row in profile.rows if row.node_type == "conv"] == ["conv1", "conv2"]
    assert all(row.ms >= 0 and row.first_ms >= 0 for row in profile.rows)
    assert sum(row.calls for row in profile.rows) == len(compiled.plan.steps)
    assert len(profile.calls) == len(compiled.plan.steps)
    assert profile.rows[-1].cumulative == pytest.approx(1.0)
    assert profile.rounds == 5
    assert profile.machine is not None
    with pytest.raises(FlexgroupError, match="the batch is empty"):
        compiled.profile(x[:0])


def test_a_compiled_network_knows_its_memory():
    model = Residual(8, 8, 1, 3)
    randomise(model, 0)
    compiled = flexgroup.compile(model, (torch.randn(1, 8, 9, 9),))
    assert compiled.memory == Memory(compiled.plan.arena_bytes, compiled.plan.constants.nbytes)
    assert compiled.memory == compiled.explain().memory == compiled.profile(torch.randn(1, 8, 9, 9), rounds=1).memory
    assert str(Memory(3 << 20, 1 << 19)) == "activations 3.0 MiB, constants 0.5 MiB"


def test_an_explanation_adds_up_the_calls_of_a_layer_and_names_the_chains(monkeypatch):
    monkeypatch.setattr("flexgroup.engine._explain.measured_machine", lambda: MACHINE)
    explanation = explain_plan(plan(*BANDED))
    a, b = explanation.layers
    assert (a.name, a.kernel, a.macs, a.dense_macs, a.calls, a.chain, a.reason) == (
        *("a", CONV.name, 600, 800, 2, 0, "fast"),
    )
    assert a.sparsity == 0.75
    # Three vector multiply-adds on a machine of 1000 operations a second.
    assert a.predicted_us == pytest.approx(1e6 * 3 * 2 * host_target().lanes(F32) / 1000)
    assert (b.macs, b.calls, b.predicted_us) == (200, 3, 0)
    assert explanation.chains == (("a", "b"),)
    text = str(explanation)
    assert "in 2 calls: fast" in text
    assert "predicted us" in text
    assert "band by band: a, b" in text
    assert text.endswith("memory: activations 3.0 MiB, constants 0.0 MiB")


def test_layers_without_a_prediction_or_a_chain_do_not_mention_them():
    text = str(explain_plan(plan(replace(A, slots=0.0))))
    assert "predicted" not in text
    assert "band" not in text
    assert "calls" not in text


def test_the_explanation_of_a_pruned_network_names_every_layer_with_weights():
    model = Residual(8, 8, 1, 3)
    randomise(model, 0)
    prune(model, "4x1 rows", 0.1)
    explanation = flexgroup.compile(model, (torch.randn(1, 8, 9, 9),)).explain()
    assert [layer.name for layer in explanation.layers] == ["conv1", "conv2"]
    assert all(0.5 < layer.sparsity < 1 and layer.reason for layer in explanation.layers)
