"""Exact optima under a budget: from a price to the groups of every line, ties settled, and the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexgroup.groups import _price
from flexgroup.groups._lines import FixedPoint, Ints, Lines
from flexgroup.groups._search import Crew, Layer, blocks_of, find_price


@dataclass(frozen=True, eq=False)
class Solved:
    """What a layer's masks follow from: prices, and the groups of every line (None: the fewest at the price)."""

    price: int | Ints
    targets: Ints | None = None

    @property
    def mean_price(self) -> float:
        return float(np.maximum(self.price, 0).mean()) if np.size(self.price) else 0.0


def solve_together(layers: Sequence[Layer], point: FixedPoint, budget: float, crew: Crew) -> tuple[int, list[Solved]]:
    """One budget over all ``layers``: the price, and the solution of every layer.

    Layers whose optimum at that price breaks their limits get a price of their own, at the limit.
    """
    price, met = find_price(layers, point, budget, crew)
    groups = [min(max(layer.fewest, layer.least), layer.most) for layer in layers]
    if met:
        return price, [
            Solved(layer.price(price)) if count == layer.fewest else solve_alone(layer, point, count, crew)
            for layer, count in zip(layers, groups, strict=True)
        ]
    # The budget lies among ties: at this price, or a hair below it where costs differ, layers may have more groups.
    spare = budget - sum(layer.cost * count for layer, count in zip(layers, groups, strict=True))
    solved = []
    for layer, count in zip(layers, groups, strict=True):
        room = min(max(layer.most_found, layer.least), layer.most) - count
        extra = max(0, min(room, int(spare / layer.cost + 1e-9)))
        spare -= layer.cost * extra
        count += extra
        if count == layer.fewest:
            solved.append(Solved(layer.price(price)))
        elif layer.cost == 1.0 and layer.fewest < count <= layer.most_found:
            solved.append(_filled(layer.lines, point, price, count, crew))
        else:
            solved.append(solve_alone(layer, point, count, crew))
    return price, solved


def solve_alone(layer: Layer, point: FixedPoint, groups: int, crew: Crew) -> Solved:
    """Exactly ``groups`` groups in one layer."""
    free = Layer(layer.lines, 0, layer.lines.fits)
    price, met = find_price([free], point, groups, crew)
    if met:
        return Solved(price)
    return _filled(layer.lines, point, price, groups, crew)


def solve_balanced(lines: Lines, point: FixedPoint, target: int, crew: Crew) -> Solved:
    """The same number of groups in every line; what does not divide goes one each to the largest marginal gains."""
    base, extra = divmod(target, lines.count)
    price = np.zeros(lines.count, dtype=np.int64)

    def work(first: int, last: int) -> None:
        _price.bisect_blocks(lines.scores, lines.geometry(), point.scale, point.count_bits, base, first, last, price)

    crew.run([(blocks_of(lines), work)])
    targets = np.full(lines.count, base, dtype=np.int64)
    targets[np.argsort(-price, kind="stable")[:extra]] += 1
    return Solved(price, targets)


def _filled(lines: Lines, point: FixedPoint, price: int, total: int, crew: Crew) -> Solved:
    """``total`` groups at a price at which that many can be optimal; among ties the first lines get more."""
    fewest, most = np.zeros(lines.count, dtype=np.int64), np.zeros(lines.count, dtype=np.int64)

    def work(first: int, last: int) -> None:
        _price.range_blocks(
            lines.scores, lines.geometry(), point.scale, point.count_bits, price, first, last, fewest, most
        )

    crew.run([(blocks_of(lines), work)])
    room = most - fewest
    extra: Ints = np.clip(total - int(fewest.sum()) - (np.cumsum(room) - room), 0, room)
    return Solved(price, fewest + extra)


@dataclass(frozen=True, eq=False)
class Traced:
    """A layer's mask, flat in the order of its scores, with its groups and their score (fixed point)."""

    mask: npt.NDArray[np.bool_]
    kept: int
    score: int


def trace(problems: Sequence[tuple[Lines, Solved, FixedPoint]], crew: Crew) -> list[Traced]:
    """The masks of solved layers."""
    jobs: list[tuple[int, Callable[[int, int], object]]] = []
    arrays = []
    for lines, solved, point in problems:
        mask = np.zeros(lines.scores.size, dtype=np.bool_)
        kept, score = np.zeros(lines.count, dtype=np.int64), np.zeros(lines.count, dtype=np.int64)
        if solved.targets is not None:
            kept[:] = solved.targets
        jobs.append((blocks_of(lines), _tracer(lines, solved, point, mask, kept, score)))
        arrays.append((mask, kept, score))
    crew.run(jobs)
    return [Traced(mask, int(kept.sum()), sum(score.tolist())) for mask, kept, score in arrays]


def _tracer(
    lines: Lines, solved: Solved, point: FixedPoint, mask: npt.NDArray[np.bool_], kept: Ints, score: Ints
) -> Callable[[int, int], object]:
    """What writes the blocks first..last of one layer."""
    common = lines.scores, lines.geometry(), point.scale, point.count_bits
    if solved.targets is None:
        price = int(solved.price)
        return lambda first, last: _price.trace_fewest(*common, price, first, last, mask, kept, score)
    prices = np.broadcast_to(np.asarray(solved.price, dtype=np.int64), (lines.count,)).copy()
    return lambda first, last: _price.trace_targets(*common, prices, kept, first, last, mask, score)
