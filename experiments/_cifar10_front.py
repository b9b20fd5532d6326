"""Networks as places in a plane of time and error, and the front of those that nothing beats in both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from statistics import fmean

from _cifar10_results import (
    COMPARED,
    ENDS,
    Mean,
    Result,
    error_of,
    less_error,
    main_budget,
    mean_of,
    measure_of,
    shapes_of,
)


@dataclass(frozen=True)
class Place:
    """A network over its seeds; ``x`` is milliseconds an image, or whatever else it is drawn against."""

    x: float
    error: Mean
    name: str = ""
    role: str | None = None


def places(results: Sequence[Result], measure: str) -> list[Place]:
    """Every network that was timed and has an error, its seeds together, the quickest first."""
    together: dict[tuple[object, ...], list[Result]] = {}
    for one in results:
        together.setdefault((one.network, one.groups, one.role, one.sparsity, one.budget), []).append(one)
    found = []
    for ones in together.values():
        error, ms = error_of(ones, measure), mean_of(one.ms for one in ones if one.ms is not None)
        if error is not None and ms is not None:
            found.append(Place(ms.value, error, _name(ones[0]), ones[0].role))
    return sorted(found, key=lambda place: (place.x, place.error.value))


def front_of(found: Iterable[Place]) -> list[Place]:
    """The places that no other beats in time and in error, the quickest first."""
    front: list[Place] = []
    for place in sorted(found, key=lambda place: (place.x, place.error.value)):
        if not front or place.error.value < front[-1].error.value:
            front.append(place)
    return front


def compared(results: Sequence[Result], recipe: str) -> list[Result]:
    """What stands in one plot: the networks of one training with the budget that most have, 2:4, and all dense ones."""

    budget = main_budget(results, recipe)

    def belongs(one: Result) -> bool:
        return one.recipe == recipe and (one.budget == budget or one.groups == "2:4")

    return [one for one in results if one.is_dense or belongs(one)]


def front_sentence(results: Sequence[Result], recipe: str) -> str | None:
    """Which networks are on the front; None where no pruned network was timed."""
    found = places(compared(results, recipe), measure_of(results))
    front = front_of(found)
    if all(place.role is None for place in found):
        return None
    free = sum((place.role or "").startswith("unaligned") for place in front)
    return (
        f"{free} of the {len(front)} networks than which nothing is both faster and better have unaligned groups: "
        f"{', '.join(f'{place.name} ({place.x:.3f} ms, {place.error.value:.2f} %)' for place in front)}."
    )


def equal_time_sentence(results: Sequence[Result], recipe: str) -> str | None:
    """Unaligned groups against what takes the same time, on the lines of the plot; None where no times meet."""
    measure = measure_of(results)
    together: dict[tuple[str | None, str | None], list[Result]] = {}
    for one in compared(results, recipe):
        together.setdefault((one.groups, one.role), []).append(one)
    lines = {key: places(ones, measure) for key, ones in together.items()}
    shapes = [shape for shape in shapes_of(results) if (shape, "unaligned") in lines]
    said = []
    for (ours, theirs), name in COMPARED.items():
        gaps: dict[str, float] = {}
        for shape in shapes:
            line = lines.get((shape, ours), [])
            found = [(error_at(line, place.x), place.error.value) for place in lines.get((shape, theirs), [])]
            apart = [mine - other for mine, other in found if mine is not None]
            if apart:
                gaps[shape] = fmean(apart)
        if gaps:
            said.append(f"against {name}: {less_error(gaps)}")
    for place in [*lines.get(("1x1", "aligned"), []), *lines.get((None, None), [])]:
        errors = {shape: error_at(lines[shape, "unaligned"], place.x) for shape in shapes}
        known = {shape: error for shape, error in errors.items() if error is not None}
        if known:
            best = min(known, key=lambda shape: known[shape])
            said.append(f"against {place.name} ({place.x:.3f} ms): {best}, {known[best] - place.error.value:+.2f}")
    return f"In the same time, on the lines of the plot, unaligned groups {'; '.join(said)}." if said else None


def error_at(line: Sequence[Place], x: float) -> float | None:
    """The error of a line of places at ``x``, straight in the logarithms of both; None beyond its ends."""
    for left, right in pairwise(sorted(line, key=lambda place: place.x)):
        if left.x <= x <= right.x:
            share = log(x / left.x) / log(right.x / left.x) if right.x > left.x else 0.0
            return left.error.value * (right.error.value / left.error.value) ** share
    return None


def _name(result: Result) -> str:
    if result.groups is None:
        return f"dense {result.network}"
    role = "" if result.groups in ENDS else f" {result.role}"
    return f"{ENDS.get(result.groups, result.groups)}{role} {100 * result.sparsity:g} %"
