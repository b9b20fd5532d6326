"""Selection is the exact optimum, meets its budget to the group, and refuses what it cannot do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flexgroup import FlexgroupError, Groups, select
from flexgroup.groups.reference import best_windows

# Whole numbers make many ties; floats make few.
ENTRIES = st.one_of(st.integers(0, 3).map(float), st.floats(0, 10, width=32))
SMALL = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=ENTRIES)
MEDIUM = hnp.arrays(np.float32, st.tuples(st.integers(4, 40), st.integers(1, 70)), elements=ENTRIES)
SHARES = st.floats(0, 1)


def lines(matrix: np.ndarray, groups: Groups) -> list[np.ndarray]:
    """Every line as a 1-D array of the sums across it."""
    scores = matrix.astype(np.float64)
    if groups.unaligned == "rows":
        return [scores[:, c : c + groups.cols].sum(axis=1) for c in range(0, matrix.shape[1], groups.cols)]
    return [scores[r : r + groups.rows].sum(axis=0) for r in range(0, matrix.shape[0], groups.rows)]


def curve(line: np.ndarray, window: int) -> list[float]:
    """F(0), F(1), ...: the best total of k windows, by trying all of them."""
    starts = range(len(line) - window + 1)
    best = [0.0]
    for k in range(1, len(line) // window + 1):
        sums = [
            sum(line[s : s + window].sum() for s in chosen)
            for chosen in itertools.combinations(starts, k)
            if all(b - a >= window for a, b in itertools.pairwise(chosen))
        ]
        best.append(max(sums))
    return best


def best_split(curves: list[list[float]], total: int) -> float:
    """The best sum of one point of every curve with ``total`` groups together."""
    together = [0.0]
    for points in curves:
        merged = [-np.inf] * (len(together) + len(points) - 1)
        for a, x in enumerate(together):
            for b, y in enumerate(points):
                merged[a + b] = max(merged[a + b], x + y)
        together = merged
    return together[total]


def fitted(matrix: np.ndarray, size: tuple[int, int], unaligned: str | None) -> Groups:
    """Groups of ``size``, cut down to what fits the matrix."""
    return Groups(f"{min(size[0], matrix.shape[0])}x{min(size[1], matrix.shape[1])}", unaligned=unaligned)


def groups_in(mask: np.ndarray, groups: Groups) -> int:
    """How many whole groups tile ``mask``; fails if it is not a union of disjoint groups."""
    left, count = mask.copy(), 0
    rows = mask.shape[0] if groups.unaligned == "cols" else None
    for r, c in itertools.product(range(mask.shape[0]), range(mask.shape[1])):
        if not left[r, c]:
            continue
        height = min(groups.rows, (rows or mask.shape[0]) - r)
        width = min(groups.cols, mask.shape[1] - c)
        assert groups.unaligned == "rows" or r % groups.rows == 0
        assert groups.unaligned == "cols" or c % groups.cols == 0
        assert left[r : r + height, c : c + width].all()
        left[r : r + height, c : c + width] = False
        count += 1
    return count


@settings(max_examples=150, deadline=None)
@given(SMALL, st.tuples(st.integers(1, 3), st.integers(1, 3)), st.sampled_from(["rows", "cols"]), SHARES)
def test_one_layer_equals_brute_force(matrix, size, unaligned, keep):
    groups = fitted(matrix, size, unaligned)
    window = groups.rows if unaligned == "rows" else groups.cols
    selection = select({"layer": matrix}, groups, keep, budget="layer")
    curves = [curve(line, window) for line in lines(matrix, groups)]
    wanted = min(round(keep * matrix.size / groups.weights), sum(len(points) - 1 for points in curves))
    assert selection.kept["layer"] == wanted == groups_in(selection.masks["layer"], groups)
    assert selection.score == pytest.approx(best_split(curves, wanted), rel=1e-6, abs=1e-6)
    assert matrix[selection.masks["layer"]].sum(dtype=np.float64) == pytest.approx(selection.score, rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(MEDIUM, st.integers(1, 5), st.integers(1, 2), st.sampled_from(["rows", "cols"]), SHARES)
def test_one_layer_equals_the_dynamic_programme(matrix, along, across, unaligned, keep):
    groups = fitted(matrix, (along, across) if unaligned == "rows" else (across, along), unaligned)
    window = groups.rows if unaligned == "rows" else groups.cols
    selection = select({"layer": matrix}, groups, keep, budget="layer")
    every = lines(matrix, groups)
    curves = [[best_windows(line, window, k)[0] for k in range(len(line) // window + 1)] for line in every]
    assert selection.score == pytest.approx(best_split(curves, selection.kept["layer"]), rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(SMALL, min_size=1, max_size=3), st.integers(1, 3), SHARES)
def test_a_global_budget_is_the_best_split_over_layers(matrices, rows, keep):
    rows = min([rows, *(matrix.shape[0] for matrix in matrices)])
    groups = Groups(f"{rows}x1", unaligned="rows")
    scores = {f"layer{i}": matrix for i, matrix in enumerate(matrices)}
    selection = select(scores, groups, keep)
    curves = [curve(line, rows) for matrix in matrices for line in lines(matrix, groups)]
    weights = sum(matrix.size for matrix in matrices)
    wanted = min(round(keep * weights / rows), sum(len(points) - 1 for points in curves))
    assert sum(selection.kept.values()) == wanted
    assert selection.score == pytest.approx(best_split(curves, wanted), rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(SMALL, st.integers(1, 3), st.sampled_from(["rows", "cols"]), SHARES)
def test_a_line_budget_is_balanced_and_the_best_of_its_kind(matrix, along, unaligned, keep):
    groups = fitted(matrix, (along, 1) if unaligned == "rows" else (1, along), unaligned)
    window = max(groups.rows, groups.cols)
    selection = select({"layer": matrix}, groups, keep, budget="line")
    mask = selection.masks["layer"] if unaligned == "cols" else selection.masks["layer"].T
    counts = mask.sum(axis=1) // window
    assert counts.max() - counts.min() <= 1
    curves = [curve(line, window) for line in lines(matrix, groups)]
    base, extra = divmod(selection.kept["layer"], len(curves))
    gains = sorted((points[base + 1] - points[base] for points in curves if len(points) > base + 1), reverse=True)
    best = sum(points[base] for points in curves) + sum(gains[:extra])
    assert selection.score == pytest.approx(best, rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(MEDIUM, st.tuples(st.integers(1, 4), st.integers(1, 4)), SHARES, st.sampled_from(["line", "layer", "global"]))
def test_aligned_groups_are_the_blocks_with_the_largest_sums(matrix, size, keep, budget):
    groups = fitted(matrix, size, None)
    selection = select({"layer": matrix}, groups, keep, budget=budget)
    assert selection.kept["layer"] == groups_in(selection.masks["layer"], groups)
    blocks = -(-matrix.shape[0] // groups.rows) * -(-matrix.shape[1] // groups.cols)
    assert selection.kept["layer"] == min(round(keep * matrix.size / groups.weights), blocks)
    if budget != "line":
        padded = np.pad(matrix, [(0, -matrix.shape[0] % groups.rows), (0, -matrix.shape[1] % groups.cols)])
        rows, cols = padded.shape[0] // groups.rows, padded.shape[1] // groups.cols
        sums = padded.reshape(rows, groups.rows, cols, groups.cols).sum(axis=(1, 3), dtype=np.float64)
        best = np.sort(sums.ravel())[::-1][: selection.kept["layer"]].sum()
        assert selection.score == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("budget", ["line", "layer", "global"])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_constant_scores_still_meet_the_budget_exactly(budget, fill):
    selection = select({"a": np.full((10, 7), fill)}, Groups("3x1", unaligned="rows"), keep=0.3, budget=budget)
    assert selection.kept["a"] == 7
    assert selection.masks["a"].sum() == 21


def test_keeping_everything_and_nothing():
    scores = {"a": np.ones((8, 3), np.float32)}
    assert select(scores, Groups("4x1", unaligned="rows"), keep=1).masks["a"].all()
    assert not select(scores, Groups("4x1", unaligned="rows"), keep=0).masks["a"].any()


def test_shares_can_differ_between_layers():
    scores = {"a": np.ones((8, 8)), "b": np.ones((8, 8))}
    selection = select(scores, Groups("4x1"), keep={"a": 0.25, "b": 0.75}, budget="layer")
    assert selection.kept == {"a": 4, "b": 12}


def test_large_layers_take_the_sampled_search_to_the_same_answer():
    scores = {"a": np.random.default_rng(0).random((64, 9000), dtype=np.float32)}
    together = select(scores, Groups("4x1", unaligned="rows"), keep=0.1)
    assert together.kept["a"] == round(0.1 * 64 * 9000 / 4)
    price = together.price
    kept, left = [], []
    for column in range(0, 9000, 500):
        mask = together.masks["a"][:, column]
        line = scores["a"][:, column].astype(np.float64)
        k = int(mask.sum()) // 4
        score, _ = best_windows(line, 4, k)
        assert line[mask].sum() == pytest.approx(score)
        kept.append(score - best_windows(line, 4, k - 1)[0] if k else np.inf)
        left.append(best_windows(line, 4, k + 1)[0] - score)
    assert max(left) <= price * (1 + 1e-6)
    assert min(kept) >= price * (1 - 1e-6)


@pytest.mark.parametrize(
    ("scores", "groups", "keep", "budget", "message"),
    [
        ({"conv": np.ones((3, 9))}, Groups("4x1"), 0.5, "global", r"layer 'conv': groups of 4x1 do not fit its 3x9"),
        ({"conv": np.full((4, 4), np.nan)}, Groups("2x1"), 0.5, "global", r"layer 'conv': 16 NaN or infinite scores"),
        (
            {"conv": np.full((4, 4), -1.0)},
            Groups("2x1"),
            0.5,
            "layer",
            r"layer 'conv': negative scores \(down to -1\); scores must be",
        ),
        ({"conv": np.ones((4, 4))}, Groups("2x1"), 1.5, "global", r"keep=1.5 is not a share of the weights"),
        ({"conv": np.ones((4, 4))}, Groups("2x1"), {"fc": 0.5}, "layer", r"same layers; they differ in conv, fc"),
        ({"conv": np.ones((4, 4))}, Groups("2x1"), {"conv": 0.5}, "global", r"needs budget='layer', 'band' or 'line'"),
        ({"conv": np.ones((4, 4))}, Groups("2x1"), 0.5, "row", r"budget='row' is not known; use one of 'line'"),
        ({"conv": np.ones(4)}, Groups("2x1"), 0.5, "global", r"layer 'conv': scores have shape \(4,\)"),
    ],
)
def test_errors_say_what_is_wrong(scores, groups, keep, budget, message):
    with pytest.raises(FlexgroupError, match=message):
        select(scores, groups, keep, budget=budget)
