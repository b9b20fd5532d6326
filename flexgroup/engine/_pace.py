"""Whether threads are worth their company: all of them run a call, or the caller alone, whichever was faster lately.

Threads wait for each other after every layer, and hand over what they wrote. Where their cores share no cache, or where
another program has one of them, that costs more than it gains: a small network then takes up to three times as long as
on one thread. Which of the two it is changes from second to second on a virtual machine, so it is measured all along.
"""

from __future__ import annotations

from collections import deque

TRIAL = 4  # calls the other way, the first of which, when threads wake up and caches fill, does not count
FIRST_TRIAL = 8  # calls before the first trial
COST = {True: 0.002, False: 0.02}  # share of the time for trials that fail: while all threads run, or the caller alone
MOST_CALLS = 100_000  # between trials
GAIN = 1.05  # the other way has to be that many times as fast
SLOWER = 1.1  # times what the caller alone took: then that is tried at once


class Pace:
    """What the times of calls say about the next one.

    ``always`` decides it once and for all, for measurements: all threads run every call (True), or the caller alone.
    """

    def __init__(self, *, always: bool | None = None) -> None:
        self.is_team = True
        """Whether all threads run the usual call."""
        self._always = always
        self._recent: deque[float] = deque(maxlen=TRIAL)
        self._other = float("inf")  # seconds of the other way, when it was tried last
        self._trial: list[float] | None = None  # seconds of the calls of a trial, while there is one
        self._due = FIRST_TRIAL  # calls to the next trial

    def by_team(self) -> bool:
        """Whether all threads run the next call."""
        return self.is_team == (self._trial is None) if self._always is None else self._always

    def note(self, seconds: float) -> None:
        """Note how long that call took, for each of its images."""
        if self._trial is not None:
            self._trial.append(seconds)
            if len(self._trial) == TRIAL:
                self._decide(min(self._trial[1:]))
                self._trial = None
            return
        self._recent.append(seconds)
        self._due -= 1
        is_slow = self.is_team and len(self._recent) == TRIAL and min(self._recent) > SLOWER * self._other
        if self._due <= 0 or is_slow:
            self._trial = []

    def _decide(self, tried: float) -> None:
        """Keep the faster way; the more the other one cost, the later it is tried again."""
        usual = min(self._recent)
        if tried * GAIN < usual:
            self.is_team = not self.is_team
            self._recent.clear()
            self._other, self._due = usual, FIRST_TRIAL
        else:
            lost = TRIAL * (tried / usual - 1)  # calls
            self._other, self._due = tried, min(max(FIRST_TRIAL, round(lost / COST[self.is_team])), MOST_CALLS)
