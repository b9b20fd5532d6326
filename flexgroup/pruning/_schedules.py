"""When a network is pruned, and how far: schedules are values, and pure functions of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flexgroup._errors import FlexgroupError


class Schedule(Protocol):
    """What `Pruner` asks of a schedule. Steps count from 0; the pruner's constructor is step 0.

    A schedule of your own needs only these three; it must reach ``final`` at ``last``, and choose there. If it has
    ``rewind`` (a step before the first choice, or None), the model's weights go back to those of that step after
    every choice.
    """

    @property
    def last(self) -> int:
        """The step of the last choice; nothing changes after it."""

    def sparsity(self, step: int, final: float) -> float:
        """The share of the targeted weights to prune at ``step``, if ``final`` is where the schedule ends."""

    def chooses(self, step: int) -> bool:
        """Whether the groups to keep are chosen anew at ``step``."""


@dataclass(frozen=True)
class OneShot:
    """Prune once, to the final sparsity, at step ``at``.

    ``OneShot(at=0)`` prunes when the `Pruner` is made, before the first training step.

    >>> [OneShot(at=2).sparsity(step, final=0.9) for step in range(4)]
    [0.0, 0.0, 0.9, 0.9]
    """

    at: int = 0

    def __post_init__(self) -> None:
        _check_count("OneShot", "at", self.at, least=0)

    @property
    def last(self) -> int:
        return self.at

    def sparsity(self, step: int, final: float) -> float:
        return final if step >= self.at else 0.0

    def chooses(self, step: int) -> bool:
        return step == self.at


@dataclass(frozen=True)
class Cubic:
    """Prune quickly at first, while there is much to spare, then ever more gently, every ``every`` steps.

    ``s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** 3`` from ``begin`` to ``end``:
    equation 1 of Zhu and Gupta, "To prune, or not to prune" (2017, arXiv 1710.01878). Nothing is pruned
    before ``begin``. The last choice is at ``end``, at exactly the final sparsity, even where ``end - begin``
    is not a multiple of ``every``.

    >>> schedule = Cubic(begin=0, end=4, every=2)
    >>> [round(schedule.sparsity(step, final=0.8), 3) for step in range(6)]
    [0.0, 0.463, 0.7, 0.788, 0.8, 0.8]
    >>> [step for step in range(6) if schedule.chooses(step)]
    [0, 2, 4]
    """

    begin: int
    end: int
    every: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        _check_count("Cubic", "begin", self.begin, least=0)
        _check_count("Cubic", "end", self.end, least=1)
        _check_count("Cubic", "every", self.every, least=1)
        if self.end <= self.begin:
            raise FlexgroupError(
                f"Cubic(begin={self.begin}, end={self.end}) ends before it begins; "
                f"use an end after {self.begin}, or OneShot(at={self.begin}) to prune in one step"
            )
        check_sparsity(self.initial, "Cubic's initial sparsity")

    @property
    def last(self) -> int:
        return self.end

    def sparsity(self, step: int, final: float) -> float:
        if self.initial > final:
            raise FlexgroupError(
                f"Cubic(initial={self.initial}) begins above the final sparsity {final}; "
                f"use an initial of at most {final}"
            )
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return final
        left = 1.0 - (step - self.begin) / (self.end - self.begin)
        return final + (self.initial - final) * left**3

    def chooses(self, step: int) -> bool:
        if step == self.end:
            return True
        return self.begin <= step < self.end and (step - self.begin) % self.every == 0


@dataclass(frozen=True)
class Constant:
    """Prune to the final sparsity at ``begin``, and choose the groups anew every ``every`` steps until ``end``.

    For criteria and regrowths that let a pattern move at a fixed sparsity (SR-STE, sparse training). The last choice
    is at ``end``, even where ``end - begin`` is not a multiple of ``every``.

    >>> schedule = Constant(begin=1, end=6, every=2)
    >>> [schedule.sparsity(step, final=0.9) for step in range(3)]
    [0.0, 0.9, 0.9]
    >>> [step for step in range(9) if schedule.chooses(step)]
    [1, 3, 5, 6]
    """

    begin: int
    end: int
    every: int

    def __post_init__(self) -> None:
        _check_count("Constant", "begin", self.begin, least=0)
        _check_count("Constant", "end", self.end, least=1)
        _check_count("Constant", "every", self.every, least=1)
        if self.end <= self.begin:
            raise FlexgroupError(
                f"Constant(begin={self.begin}, end={self.end}) ends before it begins; "
                f"use an end after {self.begin}, or OneShot(at={self.begin}) to choose once"
            )

    @property
    def last(self) -> int:
        return self.end

    def sparsity(self, step: int, final: float) -> float:
        return final if step >= self.begin else 0.0

    def chooses(self, step: int) -> bool:
        return step == self.end or (self.begin <= step < self.end and (step - self.begin) % self.every == 0)


@dataclass(frozen=True)
class Iterative:
    """Train ``every`` steps, prune, and so on for ``rounds`` rounds; each prunes the same share of what is left.

    After round i, ``1 - (1 - final) ** (i / rounds)`` is pruned (Frankle and Carbin 2019, arXiv 1803.03635). With
    ``rewind``, a step before the first choice, parameters and batch-norm statistics go back to what they were then,
    after every choice. Rewinding means to train as from there on: drive the learning rate by `position`. Without
    ``rewind`` the weights stay, and `position` counts from the choice: learning-rate rewinding. Both are of Renda,
    Frankle and Carbin, "Comparing rewinding and fine-tuning in neural network pruning" (2020, arXiv 2003.02389);
    the last round trains after ``last``. An optimizer's momentum is not rewound; it forgets in some ten steps. With
    ``regrowth="memory"`` rewound weights that were pruned compete again; with ``"none"`` they are gone, as in the
    paper.

    >>> schedule = Iterative(rounds=2, every=100, rewind=10)
    >>> [round(schedule.sparsity(step, final=0.75), 3) for step in (0, 99, 100, 200, 300)]
    [0.0, 0.0, 0.5, 0.75, 0.75]
    >>> [schedule.position(step) for step in (0, 99, 100, 199, 200, 280)]
    [0, 99, 10, 109, 10, 90]
    """

    rounds: int
    every: int
    rewind: int | None = None

    def __post_init__(self) -> None:
        _check_count("Iterative", "rounds", self.rounds, least=1, what="how often to prune")
        _check_count("Iterative", "every", self.every, least=1)
        if self.rewind is not None:
            _check_count("Iterative", "rewind", self.rewind, least=0)
            if self.rewind >= self.every:
                raise FlexgroupError(
                    f"Iterative(every={self.every}, rewind={self.rewind}) rewinds to a step that is not before "
                    f"the first choice; use a rewind below {self.every}"
                )

    @property
    def last(self) -> int:
        return self.rounds * self.every

    def sparsity(self, step: int, final: float) -> float:
        done = min(step // self.every, self.rounds)
        return final if done == self.rounds else 1.0 - (1.0 - final) ** (done / self.rounds)

    def chooses(self, step: int) -> bool:
        return 0 < step <= self.last and step % self.every == 0

    def position(self, step: int) -> int:
        """The step of the learning-rate schedule that belongs to training step ``step``."""
        done = min(step // self.every, self.rounds)
        return step if not done else (self.rewind or 0) + step - done * self.every


def check_sparsity(sparsity: float, what: str = "sparsity") -> float:
    """Return ``sparsity`` as a float; raise `FlexgroupError` unless it is a number in [0, 1)."""
    number = isinstance(sparsity, (int, float)) and not isinstance(sparsity, bool)
    if not number or not 0.0 <= sparsity < 1.0:
        percent = number and 1.0 <= sparsity < 100.0
        remedy = f"; it is a share, write {sparsity / 100:g} for {sparsity:g} %" if percent else ""
        raise FlexgroupError(f"{what} {sparsity!r} is not in [0, 1){remedy}")
    return float(sparsity)


def _check_count(owner: str, field: str, value: int, least: int, what: str = "a number of steps") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FlexgroupError(f"{owner}({field}={value!r}): {field} is {what}, an integer of at least {least}")
