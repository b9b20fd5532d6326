"""`select`: which groups stay under a budget, by the exact method or one of those it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.groups import reference
from flexgroup.groups._exact import select_exact
from flexgroup.groups._free import select_free
from flexgroup.groups._lines import entries_of, lines_of
from flexgroup.groups._request import Limits, Request, Shares, check_request
from flexgroup.groups._selection import Mask, Selection
from flexgroup.groups._spec import Groups


def select(
    scores: Mapping[str, npt.NDArray[Any]],
    groups: Groups,
    keep: Shares,
    budget: str = "global",
    *,
    method: str = "exact",
    limits: Limits | None = None,
    cost: Mapping[str, float] | None = None,
    bands: int = 1,
) -> Selection:
    """Keep the groups with the largest total score under a budget: the exact optimum.

    ``scores`` maps layer names to (rows, columns) arrays of non-negative scores, one a weight. ``keep`` is the share of
    the weights that stay (0..1), or a mapping with a share for every layer. Rounded to whole groups it is met exactly,
    ties included: ties go to the lower index, so the result is the same on every machine and for any thread count.

    - ``budget="global"``: one budget over all layers together. ``limits`` = (least, most) bounds the share that stays
      in every layer, or in those of a mapping. ``cost`` maps layers to the cost of one of their groups: ``keep`` is
      then the share of the cost of all groups that may be spent, and is met to within one group;
    - ``budget="layer"``: a budget in every layer;
    - ``budget="band"``: a layer's rows are cut into ``bands`` equal parts, one a parallel unit, with as many groups in
      each (the first ones have one more where that does not divide);
    - ``budget="line"`` (balanced): every line of a layer keeps the same number of groups, up to one where the layer's
      number is not a multiple of its lines; those go where they gain most. The lines of aligned groups are strips of
      rows.

    ``method`` is "exact", or a published one: "dp" (dynamic programme, exact and slow), "bed", "greedy".

    Scores are compared in fixed point, so that sums do not depend on their order: about 40 bits for the largest score
    of a layer, or, for a global budget, of all layers (30 bits where lines have 100,000 positions). The optimum is
    exact for the scores so rounded.

    Raises `FlexgroupError` for groups that do not fit a layer, scores that are negative, NaN or infinite, shares and
    limits outside 0..1 or impossible together, and mappings that do not name the layers.

    >>> scores = {"conv": np.array([[1.0], [5.0], [6.0], [2.0]])}
    >>> select(scores, Groups("2x1", unaligned="rows"), keep=0.5).masks["conv"][:, 0].astype(int)
    array([0, 1, 1, 0])
    """
    request = check_request(scores, groups, keep, budget, method, limits, cost, bands)
    if groups.n_of_m is not None:
        return _n_of_m(request, groups.n_of_m)
    if groups.unaligned == "free":
        return _free(request)
    exact = select_exact(request)
    return exact if method == "exact" else _published(request, exact)


def _published(request: Request, exact: Selection) -> Selection:
    """By a method of the papers, with as many groups as the exact one; its score is the bound."""
    run = {"dp": reference.dynamic_programme, "bed": reference.bed, "greedy": reference.greedy}[request.method]
    lines = {name: lines_of(matrix, request.groups) for name, matrix in request.scores.items()}
    entries = {name: entries_of(line) for name, line in lines.items()}
    window = next((line.window for line in lines.values()), 1)
    if request.budget == "global":
        chosen = dict(zip(lines, run(list(entries.values()), window, sum(exact.kept.values())), strict=True))
    else:
        chosen = {name: run([entries[name]], window, exact.kept[name])[0] for name in lines}
    masks = {name: line.expand(chosen[name]).reshape(request.scores[name].shape) for name, line in lines.items()}
    kept = {name: int(mask.sum()) // window for name, mask in chosen.items()}
    score = float(sum(entries[name][mask].sum() for name, mask in chosen.items()))
    price: float | dict[str, float] = float("nan")
    if request.budget != "global":
        price = dict.fromkeys(masks, float("nan"))
    return Selection(masks, kept, score, price, exact.score)


def _free(request: Request) -> Selection:
    """Groups that are bound to no grid at all (see `_free`)."""
    rows, cols = request.groups.rows, request.groups.cols
    together = [list(request.scores)] if request.budget == "global" else [[name] for name in request.scores]
    masks: dict[str, Mask] = {}
    kept: dict[str, int] = {}
    score = bound = 0.0
    for names in together:
        matrices = [request.scores[name] for name in names]
        weights = sum(matrix.size for matrix in matrices)
        found = select_free(matrices, rows, cols, round(request.shares[names[0]] * weights / (rows * cols)))
        masks |= dict(zip(names, found.masks, strict=True))
        kept |= dict(zip(names, found.kept, strict=True))
        score, bound = score + found.score, bound + found.bound
    nan = float("nan")
    return Selection(masks, kept, score, nan if request.budget == "global" else dict.fromkeys(masks, nan), bound)


def _n_of_m(request: Request, pattern: tuple[int, int]) -> Selection:
    """The ``n`` best of every ``m`` adjacent weights of a row; of a short last block, as large a share, rounded up."""
    n, m = pattern
    wrong = [share for share in request.shares.values() if abs(share - n / m) > 1e-6]
    if wrong:
        raise FlexgroupError(f"{n}:{m} keeps {n / m:g} of the weights, not {wrong[0]:g}; use keep={n / m:g}")
    masks = {}
    for name, matrix in request.scores.items():
        rows, cols = matrix.shape
        padded = np.full((rows, -(-cols // m) * m), -1.0)
        padded[:, :cols] = matrix
        ranks = (-padded).reshape(rows, -1, m).argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
        stay = np.full(ranks.shape[1], n)
        if cols % m:
            stay[-1] = -(-n * (cols % m) // m)
        masks[name] = (ranks < stay[None, :, None]).reshape(rows, -1)[:, :cols]
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    score = float(sum(request.scores[name][mask].sum(dtype=np.float64) for name, mask in masks.items()))
    zero: float | dict[str, float] = 0.0 if request.budget == "global" else dict.fromkeys(masks, 0.0)
    return Selection(masks, kept, score, zero, score)
