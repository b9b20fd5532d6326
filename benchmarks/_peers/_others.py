"""What the machine was like meanwhile: how busy with other programs, and how far apart its cores.

Two threads that wait for each other lose most where they share a core. Where cores share no cache, as two of a virtual
machine may at one moment and not at the next, waiting and handing over data take several times as long.
"""

from __future__ import annotations

import time

import numpy as np

from flexgroup.engine import Plan, Program, Step
from flexgroup.engine._plan import ARENA, Constants, reference
from flexgroup.kernels import F32, FillKernel, host_target

QUIET = 0.05
"""Cores that others may use without a warning."""
FAR = 200e-9
"""Seconds for two threads to wait for each other, from which on their cores share no cache."""
IMAGES = 20


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
