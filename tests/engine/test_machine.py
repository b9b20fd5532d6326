"""What the machine can do is measured once, kept, and asked by thread count and size."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from flexgroup.engine import Program, _machine
from flexgroup.engine._cache import Cache, this_cache
from flexgroup.engine._machine import Level, Machine, cache_sizes, measure_machine, measured_machine, usable_cores
from flexgroup.engine._plan import ARENA, Constants, Plan, Step, reference
from flexgroup.kernels import F32, host_target
from flexgroup.kernels.bandwidth import BandwidthKernel

HOST = host_target()
LEVELS = (Level("L1", 1000, 400.0, 800.0), Level("L2", 5000, 100.0, 200.0), Level("memory", 0, 10.0, 12.0))
MACHINE = Machine("fast", "x86-64", 2, 50.0, 90.0, LEVELS, 8.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Measurements of a moment, and a cache of the test's own."""
    monkeypatch.setattr(_machine, "SMALLEST_MEMORY", 1 << 20)
    monkeypatch.setattr(_machine, "LARGEST_MEMORY", 1 << 20)
    monkeypatch.setattr(_machine, "CACHED_BYTES", 1 << 16)
    monkeypatch.setattr(_machine, "PEAK_ROUNDS", 10)
    monkeypatch.setattr(_machine, "source_digest", lambda *_: "as they are")
    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path))
    measured_machine.cache_clear()
    yield
    measured_machine.cache_clear()


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("caches", [{"L1": 32768, "L2": 262144}, {"L1": 4096, "L2": 65536, "L3": 524288}])
def test_every_rate_of_every_level_is_measured(small, cores, caches):
    machine = measure_machine(HOST, cores, caches)
    assert machine.cores == cores
    assert [(level.name, level.size) for level in machine.levels] == [*caches.items(), ("memory", 0)]
    rates = [machine.peak, machine.peak_all, machine.copy]
    rates += [rate for level in machine.levels for rate in (level.bandwidth, level.bandwidth_all)]
    assert all(0 < rate < 1e18 for rate in rates)


def test_a_machine_is_measured_once(small, monkeypatch):
    calls = []
    measure = _machine.measure_machine
    monkeypatch.setattr(_machine, "measure_machine", lambda *facts: calls.append(facts) or measure(*facts))
    first = measured_machine()
    assert measured_machine() is first
    measured_machine.cache_clear()  # another process
    assert measured_machine() == first
    assert len(calls) == 1
    monkeypatch.setattr(_machine, "usable_cores", lambda: 3)  # another machine
    measured_machine.cache_clear()
    assert measured_machine().cores == 3


def test_a_machine_of_an_unknown_format_is_measured_again(small):
    first = measured_machine()
    (entry,) = this_cache().folder.glob("machine-*.entry")
    Cache(entry.parent).put("machine", entry.stem.removeprefix("machine-"), b"\2\0\0\0\0\0\0\0[]")
    measured_machine.cache_clear()
    assert measured_machine().cpu == first.cpu


def test_rates_go_up_with_the_threads_until_the_cores_are_used_up():
    assert [MACHINE.peak_of(threads) for threads in (1, 2, 3)] == [50, 90, 90]
    assert [MACHINE.bandwidth_of(900, threads) for threads in (1, 2)] == [400, 800]
    assert [MACHINE.level_of(size).name for size in (1, 1000, 1001, 5000, 5001, 1 << 40)] == [
        *("L1", "L1", "L2", "L2", "memory", "memory")
    ]
    single = Machine("slow", "x86-64", 1, 50.0, 50.0, LEVELS, 8.0)
    assert single.peak_of(1) == single.peak_of(4) == 50


def test_a_machine_says_what_it_is_in_one_line():
    assert str(measured_machine()).count("\n") == 0
    assert "GFLOP/s, reads L1" in str(measured_machine())


def test_cache_sizes_are_read_from_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    caches = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1M"), ("3", "Unified", "32768K")]
    for number, facts in enumerate(caches):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, fact in zip(("level", "type", "size"), facts, strict=True):
            (folder / name).write_text(fact + "\n")
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}
    (tmp_path / "index3" / "size").write_text("many")
    (tmp_path / "index2" / "type").unlink()
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 512 << 10}
    assert cache_sizes(tmp_path / "absent") == {"L1": 32 << 10, "L2": 512 << 10}


def test_cache_sizes_are_asked_of_macos(monkeypatch):
    told = {"hw.perflevel0.l1dcachesize": "131072", "hw.l2cachesize": "4194304", "hw.l3cachesize": "words"}

    def run(command, **_):
        if command[-1] not in told:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0, told[command[-1]], "")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    assert cache_sizes() == {"L1": 131072, "L2": 4194304}


def test_there_is_a_core_to_run_on():
    assert usable_cores() >= 1


@pytest.mark.parametrize("unroll", [4, 16])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_bandwidth_kernel_reads_every_vector_in_every_round(unroll, rounds):
    kernel = BandwidthKernel(unroll)
    words = HOST.vector_bytes // 8
    memory = np.random.default_rng(0).integers(0, 1 << 62, (3 * unroll, words))
    constants = Constants()
    fields = {"rounds": rounds, "source": constants.add(memory), "vectors": len(memory), "sink": reference(ARENA, 0)}
    step = Step("read", kernel, (tuple(kernel.signature.pack(fields)),))
    plan = Plan(
        target=HOST,
        element=F32,
        threads=1,
        inputs=(),
        outputs=(),
        steps=(step,),
        constants=constants.block(),
        arena_bytes=4096,
        clear_bytes=0,
    )
    program = Program(plan)
    program.run([], 1)
    found = np.ctypeslib.as_array((ctypes.c_int64 * words).from_buffer(program._arena))
    once = np.bitwise_xor.reduce(memory, axis=0)
    assert np.array_equal(found, once if rounds % 2 else np.zeros_like(once))
