"""What the machine was like meanwhile: how busy with other programs, and how far apart its cores.

Two threads that wait for each other lose most where they share a core. Where cores share no cache, as two of a virtual
machine may at one moment and not at the next, waiting and handing over data take several times as long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flexgroup.engine import Plan, Program, Step
from flexgroup.engine._plan import ARENA, Constants, reference
from flexgroup.kernels import F32, FillKernel, host_target

STAT = Path("/proc/stat")
QUIET = 0.05
"""Cores that others may use without a warning."""
IMAGES = 20
FAR = 600e-9
"""Seconds for two threads to wait for each other, from which on their cores share no cache."""


class Others:
    """Counts from when it is made; our own programs are this one and the processes whose numbers are given."""

    def __init__(self, own: Iterable[int]) -> None:
        self._own = tuple(own)
        self._began = time.monotonic()
        self._before = self._seconds()

    def cores(self) -> float:
        """How many cores other programs kept busy, on average; 0 where the system does not tell."""
        elapsed = time.monotonic() - self._began
        return max(0.0, (self._seconds() - self._before) / elapsed) if elapsed else 0.0

    def _seconds(self) -> float:
        if not STAT.exists():
            return 0.0
        user, nice, system, _, _, irq, softirq = map(int, STAT.read_text().split()[1:8])
        ticks = user + nice + system + irq + softirq - sum(map(_ticks_of, self._own))
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _ticks_of(process: int) -> int:
    """Processor time of a process, with its threads that have ended; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def barrier_seconds(steps: int = 500) -> float:
    """How long two threads of the engine take to wait for each other: a network of steps that do next to nothing."""
    kernel, constants = FillKernel(), Constants()
    targets = constants.add(np.arange(0, 2 << 12, 1 << 12, dtype=np.int32))
    fields = {"targets": targets, "target": reference(ARENA, 0), "vectors": 1}
    parts = tuple(tuple(kernel.signature.pack(fields | {"first": thread, "last": thread + 1})) for thread in (0, 1))
    step = Step("wait", kernel, parts)
    program = Program(Plan(host_target(), F32, 2, (), (), (step,) * steps, constants.block(), 1 << 14, 1 << 14))
    try:
        program.run([], IMAGES)
        began = time.perf_counter()
        program.run([], IMAGES)
        return (time.perf_counter() - began) / (IMAGES * steps)
    finally:
        program.close()
