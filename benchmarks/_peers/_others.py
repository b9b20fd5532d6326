"""What the machine was like meanwhile: how busy with other programs, how far apart its cores, and at what pace.

Two threads that wait for each other lose most where they share a core. Where cores share no cache, as two of a virtual
machine may at one moment and not at the next, waiting and handing over data take several times as long.

A core of a virtual machine may be one of two hardware threads, and what runs on the other one is nobody's to see: for
seconds or minutes loops of multiply-adds and loads then take a quarter longer, though the clock is as it was.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch

import flexgroup
from flexgroup.engine import Plan, Program, Step
from flexgroup.engine._plan import ARENA, Constants, reference
from flexgroup.kernels import F32, FillKernel, host_target

QUIET = 0.05
"""Cores that others may use without a warning."""
FAR = 200e-9
"""Seconds for two threads to wait for each other, from which on their cores share no cache."""
STEADY = 0.9
"""The share of turns at full pace below which there is a remark."""
IMAGES = 20
PACE_SECONDS = 0.01


class Pace:
    """At what pace ``threads`` cores go: the time of a dense layer whose data are always near."""

    def __init__(self, threads: int) -> None:
        self._image = torch.randn(1, 192, 16, 24)
        self._layer = flexgroup.compile(torch.nn.Conv2d(192, 256, 1), (self._image,), threads=threads)

    def seconds(self) -> float:
        """How long the layer takes now: a median, without the first calls, in which cores come out of their rest."""
        clock, times = time.perf_counter, []
        end = clock() + PACE_SECONDS
        while (began := clock()) < end:
            self._layer(self._image)
            times.append(clock() - began)
        return median(times[len(times) // 2 :])


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
