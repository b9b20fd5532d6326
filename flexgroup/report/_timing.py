"""How long calls take, measured side by side so that a noisy machine is unfair to nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np

from flexgroup._errors import FlexgroupError

CALLS_WITH_REST = 10  # that fit a turn at most


@dataclass(frozen=True)
class Timing:
    """Time of one call in milliseconds: the median and the 10th and 90th percentile of ``calls`` calls."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    calls: int

    def __str__(self) -> str:
        return f"{self.median_ms:.3f} ms ({self.p10_ms:.3f} to {self.p90_ms:.3f}, {self.calls} calls)"


def interleaved(
    callables: Mapping[str, Callable[[], object]],
    rounds: int = 20,
    min_seconds: float = 0.01,
    warmup: int = 2,
    progress: Callable[[int], object] | None = None,
    rest: float = 0.0,
) -> dict[str, Timing]:
    """Time several callables against each other in one process; ``callables`` maps a name to each.

    Every round gives each callable one turn: ``warmup`` calls that are not counted (they bring its weights
    back into the caches), then at least ``min_seconds`` of calls, each timed alone. The order is reversed
    from round to round, so a machine that slows down or is shared does so for all of them. ``progress`` is
    called with the round's number after each round.

    With ``rest``, every call begins that many seconds after the end of the one before, as in a program that waits for
    the next picture of a camera: processors slow down, threads fall asleep, and caches are lost to others. A turn then
    takes ten rests, or ``min_seconds``, whichever is longer.

    Raises `FlexgroupError` for fewer than one round or nothing to time.
    """
    if not callables:
        raise FlexgroupError("nothing to time: callables is empty")
    if rounds < 1 or min(min_seconds, warmup, rest) < 0 or not isfinite(rest):
        raise FlexgroupError(
            f"cannot time with rounds={rounds}, min_seconds={min_seconds}, warmup={warmup}, rest={rest}; "
            "use at least one round, and numbers that are not negative or infinite"
        )
    names = list(callables)
    samples: dict[str, list[int]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            _turn(callables[name], samples[name], max(min_seconds, CALLS_WITH_REST * rest), warmup, rest)
        if progress is not None:
            progress(number)
    return {name: summary(samples[name]) for name in names}


def _turn(call: Callable[[], object], samples: list[int], min_seconds: float, warmup: int, rest: float) -> None:
    clock = time.perf_counter_ns
    for _ in range(warmup):
        call()
    now = clock()
    end = now + int(min_seconds * 1e9)
    while True:
        if rest:
            time.sleep(rest)
        before = clock()
        call()
        now = clock()
        samples.append(now - before)
        if now >= end:
            return


def summary(nanoseconds: list[int]) -> Timing:
    """The percentiles of single calls' times, which are in nanoseconds, as a `Timing` in milliseconds."""
    p10, median, p90 = np.percentile(np.asarray(nanoseconds, dtype=np.float64) / 1e6, [10, 50, 90])
    return Timing(median_ms=float(median), p10_ms=float(p10), p90_ms=float(p90), calls=len(nanoseconds))
