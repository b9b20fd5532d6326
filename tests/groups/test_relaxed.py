"""`select_relaxed` against its definition, read off every window one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup import FlexgroupError
from flexgroup.groups import Groups, select, select_relaxed


def best_windows(matrix: npt.NDArray[np.float64], groups: Groups) -> npt.NDArray[np.float64]:
    """The largest sum of any window on a weight, -1 where no window is."""
    best = np.full(matrix.shape, -1.0)
    down = 1 if groups.unaligned == "rows" else groups.rows
    right = 1 if groups.unaligned == "cols" else groups.cols
    for row in range(0, matrix.shape[0] - groups.rows + 1, down):
        for col in range(0, matrix.shape[1] - groups.cols + 1, right):
            place = (slice(row, row + groups.rows), slice(col, col + groups.cols))
            best[place] = np.maximum(best[place], matrix[place].sum())
    return best


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(4, 11), st.integers(4, 11)),
    size=st.sampled_from(
        [("1x1", None), ("2x2", None), ("4x1", "rows"), ("2x3", "rows"), ("1x4", "cols"), ("3x2", "cols")]
    ),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
def test_the_weights_of_the_best_windows_stay(
    shape: tuple[int, int], size: tuple[str, str | None], share: float, seed: int
) -> None:
    groups = Groups(*size)
    matrix = np.random.default_rng(seed).integers(1, 1 << 30, shape).astype(np.float64)
    kept = select_relaxed({"a": matrix}, groups, share)["a"]
    best = best_windows(matrix, groups)
    inside = best >= 0
    assert not kept[~inside].any()
    assert kept.sum() >= min(np.floor(share * kept.size), inside.sum())
    if kept.any() and not kept[inside].all():
        assert best[kept].min() > best[inside & ~kept].max()
        assert (best > best[kept].min()).sum() < max(1, np.ceil(share * kept.size))  # no more than asked, but for ties


def test_neighbours_of_a_good_group_stay_open() -> None:
    line = np.array([0.0, 1, 9, 9, 1, 0, 0, 5, 5, 0])[:, None]
    groups = Groups("2x1", unaligned="rows")
    exact = select({"a": line}, groups, 0.4).masks["a"][:, 0]
    relaxed = select_relaxed({"a": line}, groups, 0.4)["a"][:, 0]
    assert np.flatnonzero(exact).tolist() == [2, 3, 7, 8]
    assert np.flatnonzero(relaxed).tolist() == [1, 2, 3, 4, 7, 8]  # 1+9, 9+1 and 5+5 tie: all of them


def test_budgets_count_over_the_network_or_the_layer() -> None:
    scores = {"small": np.ones((4, 4)), "large": 2 + np.arange(16.0).reshape(4, 4)}
    whole = select_relaxed(scores, Groups("1x1"), 0.5)
    assert not whole["small"].any()
    assert whole["large"].all()
    each = select_relaxed(scores, Groups("1x1"), {"small": 0.0, "large": 0.25}, budget="layer")
    assert not each["small"].any()
    assert np.flatnonzero(each["large"]).tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize("groups", [Groups("2:4"), Groups("2x2", unaligned="free")])
def test_groups_without_lines_are_refused(groups: Groups) -> None:
    with pytest.raises(FlexgroupError, match="cannot be relaxed"):
        select_relaxed({"a": np.ones((4, 4))}, groups, 0.5, budget="layer")
