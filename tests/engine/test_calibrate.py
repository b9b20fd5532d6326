"""The constants of the cost model: found again from what they predict, and never nonsense."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from flexgroup import FlexgroupError
from flexgroup.engine import _calibrate, _others, plan_graph, predicted_seconds
from flexgroup.engine._calibrate import LARGEST_FACTOR, fitted, machine_costs, probe_plan
from flexgroup.engine._costs import Costs, default_costs
from flexgroup.engine._machine import Level, Machine
from flexgroup.kernels import F32, TARGETS, ChannelsKernel, host_target

HOST = host_target()
USUAL = default_costs(HOST)
TRUE = replace(USUAL, displaced_load=1.2, missed_load=8.0, row=3.0, store=1.0, stream=3.0, window=3.0, move=8.0)


@pytest.fixture(scope="module")
def estimates():
    return probe_plan(HOST, USUAL)[1]


def slots(estimates, costs: Costs) -> np.ndarray:
    return np.array([each.slots(costs) for each in estimates])


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_can_run_what_is_measured(target):
    plan, found = probe_plan(TARGETS[target], default_costs(TARGETS[target]))
    assert len(plan.steps) == len(found)
    assert all(each.slots(USUAL) > 0 for each in found)
    wide = TARGETS[target].lanes(F32) >= 16
    assert any(isinstance(step.kernel, ChannelsKernel) for step in plan.steps) == wide


def test_constants_are_found_from_the_times_they_lead_to(estimates):
    wanted = slots(estimates, TRUE)
    found = slots(estimates, fitted(estimates, wanted, USUAL, 1000.0))
    before = np.abs(np.log(slots(estimates, USUAL) / wanted))
    after = np.abs(np.log(found / wanted))
    assert np.median(after) < 0.3 * np.median(before)
    assert np.median(after) < 0.05


def test_constants_stay_near_the_usual_ones_and_nonsense_gives_those(estimates):
    slow = fitted(estimates, 3 * slots(estimates, USUAL), USUAL, 1000.0)
    for name, value in asdict(slow).items():
        assert 1 / LARGEST_FACTOR - 1e-9 <= value / getattr(USUAL, name) <= LARGEST_FACTOR + 1e-9
    noise = np.exp(np.random.default_rng(0).normal(0, 3, len(estimates)))
    assert fitted(estimates, noise * slots(estimates, USUAL), USUAL, 1000.0) == USUAL
    assert fitted(estimates, 1e6 * slots(estimates, USUAL), USUAL, 1000.0) == USUAL


def test_other_targets_and_a_wish_get_the_usual_constants(monkeypatch):
    measured = replace(USUAL, row=1.0)
    monkeypatch.setattr(_calibrate, "_measured_costs", lambda: measured)
    assert machine_costs(HOST) == USUAL  # the tests' environment asks for them
    monkeypatch.delenv("FLEXGROUP_COSTS")
    assert machine_costs(HOST) == measured
    wasm = TARGETS["wasm32"]
    assert machine_costs(wasm) == default_costs(wasm)
    assert default_costs(wasm).far_read == 4 * Costs().far_read  # of 64 bytes, in vectors of 16
    monkeypatch.setenv("FLEXGROUP_COSTS", "cheap")
    with pytest.raises(FlexgroupError, match="FLEXGROUP_COSTS='cheap'; set it to default, or to measured"):
        machine_costs(HOST)


@pytest.fixture
def measurements(monkeypatch, tmp_path):
    """A machine that others use as the test says, and the number of times that it was measured."""
    state = {"others": 0.0, "load": 0.1, "count": 0}

    class Others:
        def cores(self) -> float:
            return state["others"]

    def measure(target):
        state["count"] += 1
        return replace(USUAL, row=float(state["count"]))

    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path))
    monkeypatch.setattr(_calibrate, "source_digest", lambda *_: "as they are")
    monkeypatch.setattr(_calibrate, "measured_machine", lambda: None)
    monkeypatch.setattr(_calibrate, "Others", Others)
    monkeypatch.setattr(_calibrate, "measure_costs", measure)
    monkeypatch.setattr("os.getloadavg", lambda: (state["load"], 0.0, 0.0))
    return state


def in_a_new_process() -> Costs:
    _calibrate._measured_costs.cache_clear()
    try:
        return _calibrate._measured_costs()
    finally:
        _calibrate._measured_costs.cache_clear()


def test_a_quiet_machine_is_measured_once(measurements):
    assert in_a_new_process() == in_a_new_process() == replace(USUAL, row=1.0)
    measurements["load"] = 5.0
    assert in_a_new_process().row == 1.0


def test_a_busy_machine_is_measured_again_once_it_is_quiet(measurements):
    measurements |= {"others": 1.5, "load": 3.0}
    assert in_a_new_process().row == in_a_new_process().row == 1.0  # it is no use to measure as long as it is busy
    measurements["load"] = 0.2
    measurements["others"] = 0.0
    assert in_a_new_process().row == in_a_new_process().row == 2.0


def test_what_the_system_does_not_tell_makes_nothing_busy(measurements, monkeypatch, tmp_path):
    def untold():
        raise OSError

    measurements["others"] = 1.5
    monkeypatch.setattr("os.getloadavg", untold)
    assert in_a_new_process().row == in_a_new_process().row == 1.0
    monkeypatch.setattr(_others, "STAT", tmp_path / "absent")
    assert _others.Others().cores() == 0.0


@pytest.mark.skipif(not _others.STAT.exists(), reason="this system does not tell how busy it is")
def test_a_busy_process_is_seen():
    others = _others.Others()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.6)
        assert others.cores() > 0.1
    finally:
        busy.kill()
        busy.wait()


def test_a_plan_takes_the_sum_of_its_steps_at_the_peak_of_the_machine():
    plan, _ = probe_plan(HOST, USUAL)
    machine = Machine("any", HOST.name, 1, 1e9, 1e9, (Level("memory", 0, 1e9, 1e9),), 1e9)
    plan = replace(plan, steps=tuple(replace(step, slots=100.0) for step in plan.steps))
    lanes = HOST.vector_bytes // 4
    assert predicted_seconds(plan, machine) == pytest.approx(len(plan.steps) * 100 * 2 * lanes / 1e9)
    elsewhere = replace(plan, target=TARGETS["aarch64-linux"])
    assert predicted_seconds(elsewhere, machine) == 0.0


def test_every_step_of_a_plan_is_predicted():
    graph, _ = _calibrate._network()
    assert all(step.slots > 0 for step in plan_graph(graph, HOST).steps)
