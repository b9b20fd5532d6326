"""Threads that wait in native code for the next job, and the few things of the C library that they need."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.engine._runner import POOL

PATIENCE = 20_000  # rounds that a worker spins for the next job before it sleeps, well below a millisecond


class Workers:
    """``count`` threads that help to run jobs, without the interpreter's lock.

    They keep off the processor of whoever calls, where there are enough others. Without that, a system may wake a
    thread beside its caller while other processors rest (virtual machines look busy to their own systems then); the
    two take turns, a call takes several times as long, and where the program rests between calls it stays that way.
    """

    def __init__(self, submit: Callable[[int, int], object], work: Callable[[int, int], object], count: int) -> None:
        self._submit = submit
        self._work = work
        self._count = count
        self._library = ctypes.CDLL(None)
        self._hire()

    def _hire(self) -> None:
        self._process = os.getpid()
        self._pool = aligned(4096)[: 8 * len(POOL.fields)].view(np.int64)
        self._pool_address = address(self._pool)
        self._lock = np.zeros(128, dtype=np.uint8)
        self._wake = np.zeros(128, dtype=np.uint8)
        movable = hasattr(os, "sched_setaffinity")
        self._processor = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if movable else None
        self._allowed = self._given = os.sched_getaffinity(0) if movable else set()
        self._avoided = -1
        if len(self._allowed) <= self._count:
            self._processor = None
        self._library.pthread_mutex_init(ctypes.c_void_p(address(self._lock)), None)
        self._library.pthread_cond_init(ctypes.c_void_p(address(self._wake)), None)
        values = {"lock": address(self._lock), "wake": address(self._wake), "patience": PATIENCE}
        for name in ("mutex_lock", "mutex_unlock", "cond_wait", "cond_broadcast"):
            values[name] = symbol(f"pthread_{name}")
        for name, value in values.items():
            self._pool[POOL.fields.index(name)] = value
        self._threads = [
            threading.Thread(target=_serve, args=(self._work, self._pool, thread), daemon=True)
            for thread in range(1, self._count + 1)
        ]
        for thread in self._threads:
            thread.start()

    def revive(self) -> bool:
        """Start the threads again in a forked process, which has none; whether that was so."""
        if os.getpid() == self._process:
            return False
        self._hire()
        return True

    def run(self, job: int) -> None:
        """Run the job at this address with all threads, the caller's among them."""
        if self._processor is not None and (here := self._processor()) != self._avoided:
            self._keep_off(here)
        self._submit(self._pool_address, job)

    def _keep_off(self, processor: int) -> None:
        """Let the workers run anywhere but there, unless somebody else has said where they may run."""
        self._avoided, others = processor, self._allowed - {processor}
        threads = [each.native_id for each in self._threads if each.native_id is not None]
        try:
            if any(os.sched_getaffinity(thread) != self._given for thread in threads):
                self._processor = None
                return
            for thread in threads:
                os.sched_setaffinity(thread, others)
            self._given = others
        except OSError:  # processors went away, or it is forbidden
            self._processor = None

    def stop(self) -> None:
        """End the threads; none of them may be in a job."""
        if os.getpid() != self._process:
            return
        lock = ctypes.c_void_p(address(self._lock))
        self._library.pthread_mutex_lock(lock)
        self._pool[POOL.fields.index("stop")] = 1
        self._pool[POOL.fields.index("generation")] += 1
        self._library.pthread_cond_broadcast(ctypes.c_void_p(address(self._wake)))
        self._library.pthread_mutex_unlock(lock)
        for thread in self._threads:
            thread.join()


def _serve(work: Callable[[int, int], object], pool: npt.NDArray[np.int64], thread: int) -> None:
    work(address(pool), thread)


def address(array: npt.NDArray[Any]) -> int:
    """Where the array's data begins.

    Through the buffer, which only writable arrays with something in them give: a third of the time of numpy's ways.
    """
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):
        return int(array.__array_interface__["data"][0])


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """``size`` zero bytes that start on a page."""
    page = 4096
    memory = np.zeros(size + page, dtype=np.uint8)
    start = -address(memory) % page
    return memory[start : start + size]


def symbol(name: str) -> int:
    """The address of a function of the C library."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, TypeError):
        raise FlexgroupError(f"the C library of this system has no {name}: the engine needs a POSIX system") from None
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
