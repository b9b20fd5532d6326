"""What a group is, and finding groups in zeros."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flexgroup import FlexgroupError, Groups
from flexgroup.groups import cover


def test_a_size_is_rows_by_columns():
    groups = Groups("4x2", unaligned="cols")
    assert (groups.rows, groups.cols, groups.weights) == (4, 2, 8)
    assert str(groups) == "4x2 unaligned cols"
    assert str(Groups("1x1")) == "1x1 aligned"


@pytest.mark.parametrize("size", ["4", "0x1", "4x", "-1x2", "4X1", "four", "", 4])
def test_other_spellings_are_refused(size):
    with pytest.raises(FlexgroupError, match=r"is not ROWSxCOLS; write for example '4x1'"):
        Groups(size)


def test_an_unknown_axis_is_refused():
    with pytest.raises(FlexgroupError, match=r"unaligned='row' is not an axis; use 'rows', 'cols', 'free' or None"):
        Groups("4x1", unaligned="row")


def fewest_windows(column: np.ndarray, rows: int) -> int:
    """The fewest windows that cover the non-zeros of one column, by trying all sets."""
    starts = range(len(column))
    for k in range(len(column) + 1):
        for chosen in itertools.combinations(starts, k):
            covered = np.zeros(len(column) + rows, bool)
            for start in chosen:
                covered[start : start + rows] = True
            if covered[: len(column)][column].all():
                return k
    raise AssertionError


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 3))), st.integers(1, 5))
def test_a_cover_covers_with_the_fewest_windows(pattern, rows):
    starts = cover(pattern, rows)
    for c in range(pattern.shape[1]):
        covered = np.zeros(pattern.shape[0] + rows, bool)
        for start in np.flatnonzero(starts[:, c]):
            assert not covered[start], "windows overlap"
            covered[start : start + rows] = True
        assert covered[: len(pattern)][pattern[:, c]].all()
        assert starts[:, c].sum() == fewest_windows(pattern[:, c], rows)
