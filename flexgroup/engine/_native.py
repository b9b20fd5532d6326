"""A plan that runs: its machine code, called through ctypes, its memory, and its threads."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.engine._objects import load
from flexgroup.engine._pace import Pace
from flexgroup.engine._plan import Plan
from flexgroup.engine._runner import BARRIER_FIELDS, JOB, MAX_REGIONS
from flexgroup.engine._workers import Workers, address, aligned, symbol
from flexgroup.kernels import F32
from flexgroup.kernels.stamp import StampKernel

_IMAGES, _TICKS, _STEPS, _THREADS = (JOB.fields.index(name) for name in ("images", "ticks", "steps", "threads"))
_FIRST_PART = 2  # in the row of a step, after the kernel's address and whether a barrier follows
_STAMP = StampKernel()


class Program:
    """A plan in machine code, its constants and arena, and the worker threads that help to run it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._engine, addresses = load(plan.kernels(), plan.target)
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(addresses["run"])
        self._submit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(addresses["submit"])
        self._work = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(addresses["work"])
        self._constants = aligned(plan.constants.nbytes)
        self._constants[:] = plan.constants
        self._arena = aligned(plan.arena_bytes)
        self._blocks, self._steps = self._step_table(addresses)
        regions = 2 + len(plan.inputs) + len(plan.outputs)
        if regions > MAX_REGIONS:
            raise FlexgroupError(
                f"{regions - 2} inputs and outputs are too many; at most {MAX_REGIONS - 2} are supported"
            )
        ports = [*plan.inputs, *plan.outputs]
        # Small ctypes arrays: writing their entries on every call is several times quicker than numpy's.
        self._bases = (ctypes.c_int64 * regions)(address(self._constants), address(self._arena))
        self._strides = (ctypes.c_int64 * regions)(0, 0, *(port.elements * F32.bytes for port in ports))
        # On a page of its own: what else lay on its cache lines would be fetched anew after every step.
        self._barrier = aligned(BARRIER_FIELDS * 8).view(np.int64)
        fields = {
            "bases": ctypes.addressof(self._bases),
            "base_count": regions,
            "strides": ctypes.addressof(self._strides),
            "images": 0,
            "steps": address(self._steps),
            "first": 0,
            "last": len(plan.steps),
            "parts": plan.threads,
            "threads": plan.threads,
            "barrier": address(self._barrier),
            "yield": symbol("sched_yield"),
            "clock": symbol("clock_gettime"),
            "ticks": 0,
        }
        self._job = (ctypes.c_int64 * len(JOB.fields))(*JOB.pack(fields))
        self._job_address = ctypes.addressof(self._job)
        self._busy = threading.Lock()
        self.pace = Pace()
        self._workers = Workers(self._submit, self._work, plan.threads - 1) if plan.threads > 1 else None
        # Runs when the program is collected, or at exit while threads can still end.
        self.close = weakref.finalize(self, _close, self._busy, self._workers)

    def _step_table(self, addresses: dict[str, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The argument blocks, and for every step its kernel's address and the blocks' addresses."""
        steps = self.plan.steps
        longest = max((len(step.kernel.signature.fields) for step in steps), default=1)
        blocks = np.zeros((len(steps), self.plan.threads, longest), dtype=np.int64)
        table = np.zeros((len(steps), _FIRST_PART + self.plan.threads), dtype=np.int64)
        for i, step in enumerate(steps):
            table[i, :_FIRST_PART] = addresses[step.kernel.name], step.barrier
            for thread, part in enumerate(step.parts):
                if part is not None:
                    blocks[i, thread, : len(part)] = part
                    table[i, _FIRST_PART + thread] = blocks[i, thread].ctypes.data
        return blocks, table

    def run(self, pointers: list[int], images: int) -> None:
        """Run ``images`` images; ``pointers``: the addresses of all inputs, then all outputs (dense, batch first)."""
        if images == 0:
            return
        with self._busy:
            if self._workers is None:
                self._start(pointers, images)
                return
            began = time.perf_counter()
            self._start(pointers, images, alone=not self.pace.by_team())
            self.pace.note((time.perf_counter() - began) / images)

    def time_steps(self, pointers: list[int], rounds: int) -> npt.NDArray[np.float64]:
        """Seconds of every step for one image, as a (rounds, steps) array."""
        ticks = np.zeros((len(self.plan.steps) + 1, 2), dtype=np.int64)
        seconds = np.zeros((rounds, len(self.plan.steps)))
        with self._busy:
            self._job[_TICKS] = address(ticks)
            try:
                for round_seconds in seconds:
                    self._start(pointers, 1)
                    round_seconds[:] = np.diff(ticks[:, 0]) + np.diff(ticks[:, 1]) * 1e-9
            finally:
                self._job[_TICKS] = 0
        return seconds

    def trace_steps(self, pointers: list[int], rounds: int) -> npt.NDArray[np.float64]:
        """When every step begins and ends on every thread, for one image, as a (rounds, steps, threads, 2) array.

        In seconds from the first beginning of a round; NaN where a thread has no part in a step.
        """
        engine, addresses = load([_STAMP], self.plan.target)
        table = self._steps.copy()
        parts = table[:, _FIRST_PART:]
        taken = parts != 0
        ticks = np.zeros((*parts.shape, 2, 2), dtype=np.int64)
        stamps = np.zeros((*parts.shape, len(_STAMP.signature.fields)), dtype=np.int64)
        clock = {"clock": symbol("clock_gettime"), "clock_id": time.CLOCK_MONOTONIC}
        for place in zip(*np.nonzero(taken), strict=True):
            kernel, arguments, noted = int(table[place[0], 0]), int(parts[place]), address(ticks[place])
            fields = {"kernel": kernel, "arguments": arguments, "ticks": noted, **clock}
            stamps[place] = _STAMP.signature.pack(fields)
            parts[place] = address(stamps[place])
        table[:, 0] = addresses[_STAMP.name]
        found = np.full((rounds, *parts.shape, 2), np.nan)
        with self._busy:
            self._job[_STEPS] = address(table)
            try:
                for times in found:
                    self._start(pointers, 1)
                    nanoseconds = (ticks[..., 0] * 1_000_000_000 + ticks[..., 1])[taken]
                    times[taken] = (nanoseconds - nanoseconds.min(initial=np.iinfo(np.int64).max)) * 1e-9
            finally:
                self._job[_STEPS] = address(self._steps)
                del engine  # owns the code that was called until here
        return found

    def _start(self, pointers: list[int], images: int, *, alone: bool = False) -> None:
        if not self.close.alive:
            raise FlexgroupError("the compiled network was closed; compile it again to run it")
        for region, pointer in enumerate(pointers, start=2):
            self._bases[region] = pointer
        self._job[_IMAGES] = images
        self._job[_THREADS] = 1 if alone else self.plan.threads
        if self._workers is None or alone:
            self._run(self._job_address, 0)
        else:
            if self._workers.revive():
                self._barrier[:] = 0
            self._workers.run(self._job_address)


def _close(busy: threading.Lock, workers: Workers | None) -> None:
    """Stop the workers once no call is running; a program without workers has nothing to stop."""
    if workers is not None:
        with busy:
            workers.stop()
