"""What this machine can do, measured once: its rate of multiply-adds, and how fast it reads and copies memory.

All numbers are the best of several rounds: what the machine is capable of, not what it happened to do. They are kept
on disk for the next process, for the processor, its cores and its caches.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

from flexgroup.engine._cache import content_key, source_digest
from flexgroup.engine._kept import kept
from flexgroup.engine._native import Program
from flexgroup.engine._plan import ARENA, Constants, Plan, Step, reference
from flexgroup.kernels import F32, CopyKernel, KernelSpec, PeakKernel, Target, host_target
from flexgroup.kernels.bandwidth import BandwidthKernel

ROUNDS = 5
PEAK_ROUNDS = 20_000
CACHED_BYTES = 64 << 20  # read from a cache in one go: a fraction of a millisecond
SMALLEST_MEMORY, LARGEST_MEMORY = 64 << 20, 512 << 20  # bytes that are read and copied to measure the memory

_SOURCES = ("engine/_machine.py", "kernels/bandwidth.py", "kernels/copy.py", "kernels/emit.py", "kernels/peak.py")
_ORDER = ("L1", "L2", "L3")
_USUAL = {"L1": 32 << 10, "L2": 512 << 10}  # where the system does not tell


@dataclass(frozen=True)
class Level:
    """A level of the memory: its size in bytes (0: no end), and bytes a second read by one core, and by all together.

    Caches that cores share have the size of the whole.
    """

    name: str
    size: int
    bandwidth: float
    bandwidth_all: float


@dataclass(frozen=True)
class Machine:
    """A processor: fp32 operations a second of one core and of all (a multiply-add is two), and its memory.

    ``copy`` is how many bytes a second one core reads and writes, added up, when it copies from memory to memory.
    """

    cpu: str
    target: str
    cores: int
    peak: float
    peak_all: float
    levels: tuple[Level, ...]
    copy: float

    def peak_of(self, threads: int) -> float:
        """Operations a second of ``threads`` cores, by a straight line between one and all."""
        return self._between(self.peak, self.peak_all, threads)

    def level_of(self, size: int) -> Level:
        """The smallest level that holds ``size`` bytes."""
        return next((level for level in self.levels if size <= level.size), self.levels[-1])

    def bandwidth_of(self, size: int, threads: int) -> float:
        """Bytes a second that ``threads`` cores read from the level that holds ``size`` bytes."""
        return self.bandwidth_at(self.level_of(size), threads)

    def bandwidth_at(self, level: Level, threads: int) -> float:
        """Bytes a second that ``threads`` cores read from a level."""
        return self._between(level.bandwidth, level.bandwidth_all, threads)

    def _between(self, one: float, every: float, threads: int) -> float:
        share = (min(threads, self.cores) - 1) / max(self.cores - 1, 1)
        return one + (every - one) * share

    def __str__(self) -> str:
        rates = ", ".join(f"{level.name} {level.bandwidth / 1e9:.0f} GB/s" for level in self.levels)
        return f"{self.cpu}, one core of {self.cores}: {self.peak / 1e9:.0f} GFLOP/s, reads {rates}"


@functools.lru_cache(maxsize=1)
def measured_machine() -> Machine:
    """This machine; measured (in less than a second) where no process has done so before."""
    target, cores, caches = host_target(), usable_cores(), cache_sizes()
    sources = source_digest(*_SOURCES)
    facts = [str(sources), repr(target), llvm.get_host_cpu_features().flatten(), str(cores), str(caches)]
    key = None if sources is None else content_key(facts)
    return kept("machine", key, lambda: measure_machine(target, cores, caches), Machine)


def measure_machine(target: Target, cores: int, caches: dict[str, int]) -> Machine:
    """Measure now; ``caches`` has the bytes of L1, L2 and, if there is one, L3."""
    memory = max(SMALLEST_MEMORY, min(4 * max(caches.values()), LARGEST_MEMORY))
    sizes = {**caches, "memory": 0}
    one = _rates(_Bench(target, 1, sizes, memory))
    every = _rates(_Bench(target, cores, sizes, memory)) if cores > 1 else one
    levels = tuple(Level(name, size, one[name], every[name]) for name, size in sizes.items())
    return Machine(llvm.get_host_cpu_name(), target.name, cores, one["peak"], every["peak"], levels, one["copy"])


def _rates(bench: _Bench) -> dict[str, float]:
    """Operations or bytes a second of every step, the best of all rounds but the first, which fills the memory."""
    steps, amounts = zip(*bench.steps(), strict=True)
    constants = bench.constants.block()
    plan = Plan(
        target=bench.target,
        element=F32,
        threads=bench.threads,
        inputs=(),
        outputs=(),
        steps=steps,
        constants=constants,
        arena_bytes=bench.memory + bench.threads * _Bench.SINK,
        clear_bytes=0,
    )
    program = Program(plan)
    try:
        seconds = program.time_steps([], 1 + ROUNDS)[1:].min(axis=0)
    finally:
        program.close()
    return {
        step.name: amount / max(float(time), 1e-9) for step, amount, time in zip(steps, amounts, seconds, strict=True)
    }


@dataclass
class _Bench:
    """The steps that measure with ``threads`` threads; every thread has its part of the memory, and a sink after it."""

    target: Target
    threads: int
    caches: dict[str, int]
    memory: int

    SINK = 4096

    def __post_init__(self) -> None:
        self.constants = Constants()
        self.zero = self.constants.add(np.zeros(1, np.int32))
        self.part = self.memory // self.threads // self.SINK * self.SINK

    def steps(self) -> Iterator[tuple[Step, int]]:
        """Every step with what it does: bytes or operations of all threads."""
        half = self.part // 2 // self.SINK * self.SINK
        for name, forth in (("fill", half), ("copy", 0)):  # there and back, so that all memory is written
            yield self._step(name, CopyKernel(1), functools.partial(self._copy, half, forth)), 2 * half * self.threads
        peak = PeakKernel.for_target(self.target)
        yield self._step("peak", peak, self._peak), 2 * peak.macs(PEAK_ROUNDS, self.target) * self.threads
        kernel = BandwidthKernel()
        block = kernel.unroll * self.target.vector_bytes
        for name, size in self.caches.items():
            shared = self.threads if name not in ("L1", "L2") else 1
            read = min(size // 2 // shared or self.part, self.part) // block * block
            rounds = max(1, CACHED_BYTES // read) if size else 1
            step = self._step(name, kernel, functools.partial(self._read, read // self.target.vector_bytes, rounds))
            yield step, read * rounds * self.threads

    def _step(self, name: str, kernel: KernelSpec, fields: Callable[[int, int], dict[str, int]]) -> Step:
        """``fields`` gives the arguments of a thread whose part and sink are at these references."""
        parts = []
        for thread in range(self.threads):
            sink = reference(ARENA, self.memory + thread * self.SINK)
            parts.append(tuple(kernel.signature.pack(fields(reference(ARENA, thread * self.part), sink))))
        return Step(name, kernel, tuple(parts))

    def _copy(self, half: int, forth: int, memory: int, _: int) -> dict[str, int]:
        places = {"source": memory + half - forth, "target": memory + forth, "sources": self.zero, "targets": self.zero}
        sizes = {"source_row": 0, "target_row": 0, "rows": 1, "columns": half // F32.bytes, "gap": 0}
        return {**places, **sizes, "first": 0, "last": 1}

    @staticmethod
    def _peak(_: int, sink: int) -> dict[str, int]:
        return {"rounds": PEAK_ROUNDS, "arena": sink}

    @staticmethod
    def _read(vectors: int, rounds: int, memory: int, sink: int) -> dict[str, int]:
        return {"rounds": rounds, "source": memory, "vectors": vectors, "sink": sink}


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_sizes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Bytes of the data caches that the first core uses, L1 first; usual sizes where the system does not tell."""
    told = _sizes_from_sysctl() if sys.platform == "darwin" else _sizes_from_linux(folder)
    sizes: dict[str, int] = {}
    for name in _ORDER:
        size = told.get(name, _USUAL.get(name, 0))
        if size > max(sizes.values(), default=0):  # a virtual machine may tell nonsense
            sizes[name] = size
    return sizes


def _sizes_from_linux(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and found:
            sizes[f"L{level}"] = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]
    return sizes


def _sizes_from_sysctl() -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, key in (("L1", "l1dcachesize"), ("L2", "l2cachesize"), ("L3", "l3cachesize")):
        for variable in (f"hw.perflevel0.{key}", f"hw.{key}"):
            try:
                told = subprocess.run(["sysctl", "-n", variable], capture_output=True, text=True, check=True, timeout=5)
                sizes[name] = int(told.stdout)
                break
            except (OSError, ValueError, subprocess.SubprocessError):
                continue
    return sizes
