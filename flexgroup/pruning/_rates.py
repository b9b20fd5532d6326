"""How the learning rate goes: named, pure functions of the step, so that a resumed run needs no state of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError

if TYPE_CHECKING:
    from flexgroup.pruning._pruner import Pruner

Rate = Callable[[float], float]
"""``rate(progress) -> share``: of the highest learning rate; progress runs from 0 (warm) to 1 (the end)."""

WARM_UP = 0.05  # share of the steps over which the learning rate rises


def cosine(progress: float, floor: float = 0.0) -> float:
    """Half a cosine from 1 to ``floor`` (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts)."""
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(progress: float, floor: float = 0.0) -> float:
    """A straight line from 1 to ``floor``."""
    return floor + (1.0 - floor) * (1.0 - progress)


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def polynomial(progress: float, power: float = 2.0, floor: float = 0.0) -> float:
    """``(1 - progress) ** power``, from 1 to ``floor``."""
    return float(floor + (1.0 - floor) * (1.0 - progress) ** power)


def exponential(progress: float, last: float = 0.01) -> float:
    """A constant factor a step, from 1 to ``last``."""
    return float(last**progress)


def step(progress: float, at: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1) -> float:
    """Times ``factor`` at each share of the training in ``at`` (He et al. 2015, arXiv 1512.03385: a half, 3/4)."""
    return float(factor ** sum(progress >= share for share in at))


def restarts(progress: float, cycles: int = 4, floor: float = 0.0) -> float:
    """``cycles`` times `cosine`, one after the other (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return cosine(progress * cycles % 1.0 if progress < 1.0 else 1.0, floor)


RATES = MappingProxyType(
    {rate.__name__: rate for rate in (cosine, linear, constant, polynomial, exponential, step, restarts)}
)


def find_rate(name: str, steps: int, options: dict[str, Any], warm_up: float = WARM_UP) -> Callable[[int], float]:
    """The learning rate at each step from 0, as a share of the highest: a linear rise, then the rate of that name.

    Raises `FlexgroupError` for an unknown name, options that it does not take, and a warm-up that is not a share.
    """
    if name not in RATES:
        raise FlexgroupError(f"lr_schedule {name!r} is not known; use one of {', '.join(sorted(RATES))}")
    if not 0.0 <= warm_up < 1.0:
        raise FlexgroupError(f"warm_up {warm_up!r} is not a share of the steps, 0 to below 1")
    rate: Any = RATES[name]
    try:
        for progress in (0.0, 0.5, 1.0):
            value = rate(progress, **options)
            if not 0.0 <= value < math.inf:
                raise ValueError(f"gives {value:g} times the learning rate")
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise FlexgroupError(f"lr_schedule {name!r} with {options}: {error}; see flexgroup.pruning.RATES") from error
    warm = max(1, round(warm_up * steps)) if warm_up else 0

    def at(done: int) -> float:
        if done < warm:
            return (done + 1) / (warm + 1)
        return float(rate(min(1.0, (done - warm) / max(1, steps - warm)), **options))

    return at


def rewound_places(pruner: Pruner | None, made: int, steps: int, rewind_lr: bool) -> list[int] | None:
    """For each of a training's ``steps``, the step at which a learning rate that is rewound is; None if it is not.

    ``made`` of them the pruner has made already. A pruner that has chosen for the last time rewinds nothing.
    """
    schedule: Any = None if pruner is None else pruner.schedule
    if pruner is None or not (rewind_lr or getattr(schedule, "rewind", None) is not None):
        return None
    before = pruner.steps - made
    if before >= schedule.last:
        return None
    return [schedule.position(before + step) for step in range(steps)]


def check_rewinding(pruner: Pruner | None, rewind_lr: bool) -> None:
    """Raise `FlexgroupError` if a learning rate is to be rewound, and the schedule does not say to where."""
    schedule = None if pruner is None else pruner.schedule
    rewinds = getattr(schedule, "rewind", None) is not None
    if (rewind_lr or rewinds) and not hasattr(schedule, "position"):
        raise FlexgroupError(
            f"{'rewind_lr=True' if rewind_lr else 'the learning rate'} goes back after each choice of a schedule with "
            f"a `position`, such as Iterative, and there is {'no pruner' if schedule is None else repr(schedule)}; "
            f"use one, or leave {'rewind_lr' if rewind_lr else 'its rewind'} out"
        )
