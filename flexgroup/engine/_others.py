"""What other programs do while something is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

STAT = Path("/proc/stat")


class Others:
    """Counts from when it is made; our own programs are this process and those whose numbers are given."""

    def __init__(self, own: Iterable[int] = ()) -> None:
        self._own = tuple(own)
        self._began = time.monotonic()
        self._before = self._seconds()

    def cores(self) -> float:
        """How many cores other programs kept busy, on average; 0 where the system does not tell."""
        elapsed = time.monotonic() - self._began
        return max(0.0, (self._seconds() - self._before) / elapsed) if elapsed else 0.0

    def _seconds(self) -> float:
        try:
            user, nice, system, _, _, irq, softirq = map(int, STAT.read_text().split()[1:8])
        except (OSError, ValueError):
            return 0.0
        ticks = user + nice + system + irq + softirq - sum(map(_ticks_of, self._own))
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _ticks_of(process: int) -> int:
    """Processor time of a process, with its threads that have ended; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
