"""Budgets: how many groups may stay, settled exactly from prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups._lines import FixedPoint, Lines, Mask, expand_blocks, lines_of
from flexgroup.groups._price import LANES, Ints, count_kept, kept_range, price_for, trace
from flexgroup.groups._spec import Groups

BUDGETS = ("line", "layer", "global")


@dataclass(frozen=True, eq=False)
class Selection:
    """The groups to keep.

    ``masks`` maps each layer to a bool (rows, columns) array, ``kept`` to its number of groups. ``score`` is the total
    score of all kept weights. ``price`` is what a group's score had to exceed: one number for a global budget, one a
    layer for a layer budget, and for a line budget the mean of a layer's line prices.
    """

    masks: dict[str, Mask]
    kept: dict[str, int]
    score: float
    price: float | dict[str, float]


def select(
    scores: Mapping[str, npt.NDArray[Any]],
    groups: Groups,
    keep: float | Mapping[str, float],
    budget: str = "global",
) -> Selection:
    """Keep the groups with the largest total score under a budget: the exact optimum.

    ``scores`` maps layer names to (rows, columns) arrays of non-negative scores, one a weight. ``keep`` is the share of
    the weights that stay (0..1), or a mapping with a share for every layer. Rounded to whole groups it is met exactly,
    ties included: ties go to the lower index, so the result is the same on every machine and for any thread count.

    - ``budget="global"``: one budget over all layers together;
    - ``budget="layer"``: a budget in every layer;
    - ``budget="line"`` (balanced): every line of a layer keeps the same number of groups, up to one where the layer's
      number is not a multiple of its lines; those go where they gain most.

    Scores are compared in fixed point (about 40 bits for the largest), so that sums do not depend on their order.

    Raises `FlexgroupError` for groups that do not fit a layer, scores that are negative, NaN or infinite, shares
    outside 0..1, and mappings that do not name the layers.

    >>> scores = {"conv": np.array([[1.0], [5.0], [6.0], [2.0]])}
    >>> select(scores, Groups("2x1", unaligned="rows"), keep=0.5).masks["conv"][:, 0].astype(int)
    array([0, 1, 1, 0])
    """
    _check(scores, groups, keep, budget)
    if isinstance(keep, Mapping):
        shares = {name: float(keep[name]) for name in scores}
        if budget == "global":
            raise FlexgroupError("a share for every layer needs budget='layer' or 'line'; 'global' takes one number")
    else:
        shares = dict.fromkeys(scores, float(keep))
    largest = max((_largest(name, matrix) for name, matrix in scores.items()), default=0.0)
    if groups.unaligned is None:
        largest *= groups.weights  # the entries of aligned lines are sums over whole blocks
    problems = {name: lines_of(matrix, groups) for name, matrix in scores.items()}
    point = FixedPoint.covering(problems.values(), largest)
    wanted = {
        name: min(round(shares[name] * matrix.size / groups.weights), problems[name].most * problems[name].count)
        for name, matrix in scores.items()
    }
    if budget == "global":
        weights = sum(matrix.size for matrix in scores.values())
        fits = sum(lines.most * lines.count for lines in problems.values())
        share = float(keep) if not isinstance(keep, Mapping) else 0.0
        solved = _solve_together(problems, point, min(round(share * weights / groups.weights), fits))
    elif budget == "layer":
        solved = {}
        for name, lines in problems.items():
            solved |= _solve_together({name: lines}, point, wanted[name])
    else:
        solved = {name: _solve_balanced(lines, point, wanted[name]) for name, lines in problems.items()}
    return _as_selection(solved, problems, scores, groups, point, budget)


@dataclass(frozen=True, eq=False)
class _Solved:
    price: Ints  # of every line
    targets: Ints  # groups of every line


def _solve_together(problems: dict[str, Lines], point: FixedPoint, target: int) -> dict[str, _Solved]:
    """One price over all lines of ``problems``, and the groups of every line so that they add up to ``target``."""
    price = _search_price(problems, point, target)
    ranges = {name: kept_range(lines, point, price) for name, lines in problems.items()}
    spare = target - sum(int(fewest.sum()) for fewest, _ in ranges.values())
    solved = {}
    for name, (fewest, most) in ranges.items():
        room = most - fewest
        extra = np.clip(spare - (np.cumsum(room) - room), 0, room)
        spare -= int(extra.sum())
        solved[name] = _Solved(np.full(fewest.size, price, dtype=np.int64), fewest + extra)
    return solved


def _solve_balanced(lines: Lines, point: FixedPoint, target: int) -> _Solved:
    """The same number of groups in every line; what does not divide goes one each to the largest marginal gains."""
    base, extra = divmod(target, lines.count)
    price = price_for(lines, point, base)
    targets = np.full(lines.count, base, dtype=np.int64)
    targets[np.argsort(-price, kind="stable")[:extra]] += 1
    return _Solved(price, targets)


def _search_price(problems: dict[str, Lines], point: FixedPoint, target: int) -> int:
    """A price at which exactly ``target`` groups of all lines together can be an optimum."""
    highest = 0
    fits = sampled_fits = 0
    samples = {}
    for name, lines in problems.items():
        top = float(lines.scores.max(initial=0.0)) * lines.width * lines.window
        highest = max(highest, int(top * point.scale) + lines.width * lines.window)
        blocks = -(-lines.count // LANES)
        samples[name] = max(1, min(32, blocks // 4))
        fits += lines.most * lines.count
        sampled_fits += lines.most * sum(
            min(LANES, lines.count - block * LANES) for block in range(0, blocks, samples[name])
        )

    def count(prices: Ints) -> Ints:
        return sum((count_kept(lines, point, prices) for lines in problems.values()), np.zeros_like(prices))

    def count_sample(prices: Ints) -> Ints:
        parts = [count_kept(lines, point, prices, sample=samples[name]) for name, lines in problems.items()]
        return sum(parts, np.zeros_like(prices))

    guess = None
    if max(samples.values(), default=1) > 1 and fits:
        guess = _find_price(count_sample, round(target * sampled_fits / fits), highest, sampled_fits, None)
    return _find_price(count, target, highest, fits, guess)


def _find_price(count: Callable[[Ints], Ints], target: int, highest: int, fits: int, guess: int | None) -> int:
    """A price at which exactly ``target`` groups stay, or, where ties jump over it, the price of those ties.

    ``count`` tells how many groups stay at prices, the fewest on ties; it falls from ``fits`` below price -1 to 0 at
    ``highest``. Every round asks for several prices at once, because one pass over the scores costs more than one
    price: some around the straight line between the known counts (or around ``guess``), the others evenly spread, so
    that the bracket shrinks at least fivefold a round and usually much faster.
    """
    below, above = -2, highest
    at_below, at_above = fits, 0
    centre, reach = guess, max(1, (guess or 0) >> 7)
    while above - below > 1:
        spread = [below + (above - below) * step // 5 for step in range(1, 5)]
        if centre is None:
            ahead = (at_below - target) / max(1, at_below - at_above)
            centre, reach = below + int((above - below) * ahead), max(1, (above - below) >> 6)
        near = [centre - reach, centre, centre + reach]
        prices = sorted({price for price in spread + near if below < price < above})
        centre = None
        for price, kept in zip(prices, count(np.array(prices, dtype=np.int64)).tolist(), strict=True):
            if kept == target:
                return price
            if kept > target:
                below, at_below = price, kept
            else:
                above, at_above = price, kept
                break
    return above


def _as_selection(
    solved: dict[str, _Solved],
    problems: dict[str, Lines],
    scores: Mapping[str, npt.NDArray[Any]],
    groups: Groups,
    point: FixedPoint,
    budget: str,
) -> Selection:
    masks, kept, price = {}, {}, {}
    total = 0
    for name, answer in solved.items():
        lines = problems[name]
        flat, score = trace(lines, point, answer.price, answer.targets)
        shape = scores[name].shape
        masks[name] = (
            expand_blocks(flat.reshape(lines.count, lines.positions), groups, (shape[0], shape[1]))
            if groups.unaligned is None
            else flat.reshape(shape)
        )
        kept[name] = int(answer.targets.sum())
        price[name] = float(np.maximum(answer.price, 0).mean()) / point.scale if answer.price.size else 0.0
        total += score
    one_price = next(iter(price.values()), 0.0) if budget == "global" else price
    return Selection(masks, kept, total / point.scale, one_price)


def _largest(name: str, scores: npt.NDArray[Any]) -> float:
    """The largest score, once all are known to be finite and non-negative."""
    if not scores.size:
        return 0.0
    low, high = float(scores.min()), float(scores.max())
    if not (low >= 0 and high < np.inf):
        bad = int((~np.isfinite(scores)).sum())
        what = f"{bad} NaN or infinite scores" if bad else f"negative scores (down to {low:g})"
        raise FlexgroupError(f"layer {name!r}: {what}; scores must be finite and non-negative, such as |weight|")
    return high


def _check(
    scores: Mapping[str, npt.NDArray[Any]], groups: Groups, keep: float | Mapping[str, float], budget: str
) -> None:
    if budget not in BUDGETS:
        raise FlexgroupError(f"budget={budget!r} is not known; use one of {', '.join(map(repr, BUDGETS))}")
    for name, matrix in scores.items():
        if matrix.ndim != 2:
            raise FlexgroupError(f"layer {name!r}: scores have shape {matrix.shape}; give a 2-D (rows, columns) array")
        groups.check_fits((matrix.shape[0], matrix.shape[1]), name)
    shares: Sequence[tuple[str, float]]
    if isinstance(keep, Mapping):
        if set(keep) != set(scores):
            odd = sorted(set(keep) ^ set(scores))
            raise FlexgroupError(f"keep and scores must name the same layers; they differ in {', '.join(odd[:5])}")
        shares = [(f"layer {name!r}: ", share) for name, share in keep.items()]
    else:
        shares = [("", keep)]
    for where, share in shares:
        if not 0 <= share <= 1:
            raise FlexgroupError(f"{where}keep={share} is not a share of the weights; use a number from 0 to 1")
