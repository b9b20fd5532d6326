"""The process that runs one engine: it answers one line of JSON for each line it is given.

    python -c CODE BENCHMARKS MODULE CLASS      where CODE is `_process.START`

Requests: {"do": "versions"}, {"do": "convert", "case", "own"}, {"do": "load", "key", "case", "own", "threads"},
{"do": "output", "key"}, {"do": "time", "key", "seconds"}, {"do": "drop"}. Answers: {"ok": ...} or {"error": "..."}.
Runs in the environment of the engine, which has numpy but neither torch nor flexgroup.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from _peers._engine import Call, Engine, Files

WARM_CALLS, WARM_SECONDS = 2, 0.02


class Worker:
    """An engine and the networks it has loaded."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: dict[str, Call] = {}

    def answer(self, request: dict[str, Any]) -> Any:
        """Do what a request says."""
        request = dict(request)
        return getattr(self, request.pop("do"))(**request)

    def versions(self) -> dict[str, str]:
        return self.engine.versions()

    def convert(self, case: str, own: str) -> None:
        self.engine.convert(Files(Path(case), Path(own)))

    def load(self, key: str, case: str, own: str, threads: int) -> list[float]:
        """Load a network; its first output, which is where compilers that wait for a call do their work."""
        self.calls[key] = self.engine.load(Files(Path(case), Path(own)), threads)
        return self.output(key)

    def output(self, key: str) -> list[float]:
        return [float(value) for value in np.asarray(self.calls[key]()).ravel()]

    def time(self, key: str, seconds: float) -> list[int]:
        """Nanoseconds of each call in a turn, after enough calls that caches and clocks are warm."""
        call, clock = self.calls[key], time.perf_counter_ns
        end = clock() + int(WARM_SECONDS * 1e9)
        for number in range(1_000_000):
            call()
            if number + 1 >= WARM_CALLS and clock() >= end:
                break
        samples: list[int] = []
        now = clock()
        end = now + int(seconds * 1e9)
        while now < end or not samples:
            call()
            samples.append(clock() - now)
            now = clock()
        return samples

    def drop(self) -> None:
        """Let go of all networks."""
        self.calls.clear()
        gc.collect()


def serve(module: str, name: str) -> None:
    """Answer requests from standard input until it ends."""
    replies = _own_output()
    worker = Worker(getattr(importlib.import_module(module), name)())
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"ok": worker.answer(json.loads(line))}
        except Exception as error:
            text = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {text[:300]}"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def _own_output() -> TextIO:
    """Standard output for answers alone: what engines print goes where errors go."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies
