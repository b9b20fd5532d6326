"""What a selection is asked for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups._spec import Groups

BUDGETS = ("line", "band", "layer", "global")
LARGEST = 1e200  # score: sums of many stay finite
METHODS = ("exact", "dp", "bed", "greedy")

Shares: TypeAlias = "float | Mapping[str, float]"
Limits: TypeAlias = "tuple[float, float] | Mapping[str, tuple[float, float]]"


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments of `select`, with defaults filled in for every layer."""

    scores: Mapping[str, npt.NDArray[Any]]
    groups: Groups
    budget: str
    method: str
    bands: int
    shares: dict[str, float]  # of a layer's weights to keep
    limits: dict[str, tuple[float, float]]  # least and most of them
    costs: dict[str, float]  # of one group
    largest: float  # score


def check_request(
    scores: Mapping[str, npt.NDArray[Any]],
    groups: Groups,
    keep: Shares,
    budget: str = "global",
    method: str = "exact",
    limits: Limits | None = None,
    cost: Mapping[str, float] | None = None,
    bands: int = 1,
) -> Request:
    """The request, or `FlexgroupError` for the first thing that is wrong with it."""
    _check_words(groups, budget, method, limits, cost, bands, isinstance(keep, Mapping))
    for name, matrix in scores.items():
        if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "fiub":
            kind = f"array of {matrix.dtype}" if isinstance(matrix, np.ndarray) else type(matrix).__name__
            raise FlexgroupError(f"layer {name!r}: scores are a {kind}; give a numpy array of real numbers")
        if matrix.ndim != 2:
            raise FlexgroupError(f"layer {name!r}: scores have shape {matrix.shape}; give a 2-D (rows, columns) array")
        shape = (matrix.shape[0] // bands if budget == "band" else matrix.shape[0], matrix.shape[1])
        groups.check_fits(shape, f"{name}, one of {bands} bands" if budget == "band" else name)
    shares = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(scores, keep)
    _check_names("keep", shares, scores)
    for name, share in shares.items():
        if not isinstance(share, Real) or not 0 <= share <= 1:
            where = f"layer {name!r}: " if isinstance(keep, Mapping) else ""
            raise FlexgroupError(f"{where}keep={share!r} is not a share of the weights; use a number from 0 to 1")
    costs = dict(cost) if cost is not None else dict.fromkeys(scores, 1.0)
    _check_names("cost", costs, scores)
    for name, value in costs.items():
        if not 0 < value < float("inf"):
            raise FlexgroupError(f"layer {name!r}: cost={value} of a group; use a positive number")
    largest = max((_largest(name, matrix) for name, matrix in scores.items()), default=0.0)
    every = _layer_limits(limits, scores)
    return Request(scores, groups, budget, method, bands, shares, every, costs, largest)


def _check_words(
    groups: Groups,
    budget: str,
    method: str,
    limits: Limits | None,
    cost: Mapping[str, float] | None,
    bands: int,
    several: bool,
) -> None:
    """Words that are known, and that go together."""
    if budget not in BUDGETS:
        raise FlexgroupError(f"budget={budget!r} is not known; use one of {', '.join(map(repr, BUDGETS))}")
    if method not in METHODS:
        raise FlexgroupError(f"method={method!r} is not known; use one of {', '.join(map(repr, METHODS))}")
    if several and budget == "global":
        raise FlexgroupError(
            "a share for every layer needs budget='layer', 'band' or 'line'; 'global' takes one number"
        )
    if not isinstance(bands, int) or bands < 1:
        raise FlexgroupError(f"bands={bands!r}; give the number of parallel units that share a layer's rows, 1 or more")
    if (limits is not None or cost is not None) and budget != "global":
        raise FlexgroupError(
            f"limits and cost trade layers against each other; they need budget='global', not {budget!r}"
        )
    if method != "exact" and (budget not in ("global", "layer") or limits is not None or cost is not None):
        raise FlexgroupError(f"method={method!r} knows budget='global' and 'layer' only, without limits and cost")
    special = groups.n_of_m is not None or groups.unaligned == "free"
    if special and (method != "exact" or limits is not None or cost is not None or budget in ("line", "band")):
        raise FlexgroupError(f"groups {groups} take budget='global' or 'layer' only, and no method, limits or cost")
    if groups.is_symbolic and (method != "exact" or cost is not None):
        raise FlexgroupError(f"groups {groups} differ in size between layers: leave method and cost out")


def _check_names(what: str, given: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
    if set(given) != set(scores):
        odd = sorted(set(given) ^ set(scores))
        raise FlexgroupError(f"{what} and scores must name the same layers; they differ in {', '.join(odd[:5])}")


def _layer_limits(limits: Limits | None, scores: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """(least, most) for every layer."""
    if isinstance(limits, Mapping):
        unknown = sorted(set(limits) - set(scores))
        if unknown:
            raise FlexgroupError(f"limits name layers that scores do not have: {', '.join(unknown[:5])}")
        every = {name: limits.get(name, (0.0, 1.0)) for name in scores}
    else:
        every = dict.fromkeys(scores, limits or (0.0, 1.0))
    for name, (least, most) in every.items():
        if not 0 <= least <= most <= 1:
            raise FlexgroupError(
                f"layer {name!r}: limits ({least}, {most}) on the share that is kept; "
                "use two numbers from 0 to 1, the smaller first"
            )
    return every


def _largest(name: str, scores: npt.NDArray[Any]) -> float:
    """The largest score, once all are known to be finite and non-negative."""
    if not scores.size:
        return 0.0
    low, high = float(scores.min()), float(scores.max())
    if not (low >= 0 and high <= LARGEST):
        bad = int((~np.isfinite(scores)).sum())
        what = f"negative scores (down to {low:g})" if low < 0 else f"scores up to {high:g}"
        what = f"{bad} NaN or infinite scores" if bad else what
        raise FlexgroupError(
            f"layer {name!r}: {what}; scores must be finite, not negative and below {LARGEST:g}, such as |weight|"
        )
    return high
