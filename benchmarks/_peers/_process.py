"""The driver's side of a worker: start it, ask it, wait until it is idle, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from _peers._engine import Engine

# The folder goes last: its other scripts must not hide an installed package of the same name.
START = "import sys; sys.path.append(sys.argv[1]); from _peers._worker import serve; serve(*sys.argv[2:])"
BENCHMARKS = Path(__file__).parents[1]
ERROR_LINES = 3
ANSWER_LIMIT = 600
IDLE_SHARE, IDLE_WINDOW, IDLE_LIMIT = 0.02, 0.02, 2.0


class WorkerError(Exception):
    """An engine could not do what it was asked; the text says why."""


class Process:
    """A worker. ``python`` is the interpreter of its environment; ``log`` gets what the engine prints."""

    def __init__(self, engine: Engine, python: Path, log: Path, threads: int) -> None:
        self.engine = engine
        self.log = log
        variables = os.environ | {"OMP_NUM_THREADS": str(threads), **engine.variables}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [python, "-c", START, BENCHMARKS, type(engine).__module__, type(engine).__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=variables,
                cwd=log.parent,
                text=True,
            )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a request and wait for the answer; raises `WorkerError`."""
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None
        assert taken is not None
        try:
            given.write(json.dumps({"do": do} | arguments) + "\n")
            given.flush()
            if not select.select([taken], [], [], ANSWER_LIMIT)[0]:
                self._process.kill()
                raise WorkerError(f"no answer to {do!r} in {ANSWER_LIMIT} seconds")
            line = taken.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"its process ended ({self._process.wait()}): {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["ok"]

    @property
    def number(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    def settle(self) -> bool:
        """Wait until the process uses no processor time; False where it does not stop within two seconds.

        Threads that wait for more work by spinning would take the cores from the engine that is timed next.
        """
        end = time.monotonic() + IDLE_LIMIT
        before = self._processor_seconds()
        while time.monotonic() < end:
            time.sleep(IDLE_WINDOW)
            now = self._processor_seconds()
            if now - before <= IDLE_SHARE * IDLE_WINDOW:
                return True
            before = now
        return False

    def _processor_seconds(self) -> float:
        """Processor time of all threads so far; without Linux's files for it, always the same."""
        total = 0
        for file in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            try:
                total += int(file.read_text().split()[0])
            except (OSError, IndexError):  # a thread that just ended
                continue
        return total / 1e9

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-ERROR_LINES:])[:300]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
