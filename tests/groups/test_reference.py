"""The published methods do what their papers say, and how good they are stands in the right order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flexgroup import FlexgroupError
from flexgroup.groups.reference import bed, best_windows, dynamic_programme, greedy

METHODS = [dynamic_programme, bed, greedy]
WHOLE = st.integers(0, 4).map(float)  # many ties, and sums without rounding
ENTRIES = st.one_of(WHOLE, st.floats(0, 10, width=32))


def layers(positions: int, count: int, number: int, entries: st.SearchStrategy[float]) -> st.SearchStrategy:
    shapes = st.tuples(st.integers(0, positions), st.integers(1, count))
    return st.lists(hnp.arrays(np.float64, shapes, elements=entries), min_size=1, max_size=number)


def fits(lines: list[np.ndarray], window: int) -> int:
    return sum(layer.shape[0] // window * layer.shape[1] for layer in lines)


def total(lines: list[np.ndarray], masks: list[np.ndarray]) -> float:
    return sum(float(layer[mask].sum()) for layer, mask in zip(lines, masks, strict=True))


def windows_in(lines: list[np.ndarray], masks: list[np.ndarray], window: int) -> int:
    """How many windows tile the masks; fails if a run in a line is no whole number of windows long."""
    count = 0
    for layer, mask in zip(lines, masks, strict=True):
        assert mask.dtype == np.bool_
        assert mask.shape == layer.shape
        for line in mask.T:
            for kept, run in itertools.groupby(line):
                length = len(list(run))
                assert not kept or length % window == 0
                count += length // window if kept else 0
    return count


def columns(lines: list[np.ndarray]) -> list[list[float]]:
    return [column.tolist() for layer in lines for column in layer.T]


def brute_force(lines: list[np.ndarray], window: int, keep: int) -> float:
    """The best total of ``keep`` disjoint windows, by trying all sets of them."""
    every = columns(lines)
    starts = [(index, start) for index, line in enumerate(every) for start in range(len(line) - window + 1)]
    return max(
        sum(sum(every[index][start : start + window]) for index, start in chosen)
        for chosen in itertools.combinations(starts, keep)
        if all(a != b or t - s >= window for (a, s), (b, t) in itertools.pairwise(chosen))
    )


def taken_one_by_one(lines: list[np.ndarray], window: int, keep: int, *, join: bool) -> list[list[bool]]:
    """BED (``join``) and greedy word for word: scan all lines for the best window, take it out, and again."""
    every = columns(lines)
    left = [list(range(len(line))) for line in every]
    masks = [[False] * len(line) for line in every]
    for _ in range(keep):
        best = None
        for index, line in enumerate(every):
            for at in range(len(left[index]) - window + 1):
                entries = left[index][at : at + window]
                score = sum(line[i] for i in entries)
                adjacent = entries[-1] - entries[0] == window - 1
                if (join or adjacent) and (best is None or score > best[0]):
                    best = score, index, entries
        if best is None:
            break
        _, index, entries = best
        for i in entries:
            masks[index][i] = True
            left[index].remove(i)
    return masks


@settings(max_examples=150, deadline=None)
@given(layers(6, 2, 2, ENTRIES), st.integers(1, 3), st.data())
def test_the_dynamic_programme_equals_brute_force(lines, window, data):
    keep = data.draw(st.integers(0, min(5, fits(lines, window))))
    masks = dynamic_programme(lines, window, keep)
    assert windows_in(lines, masks, window) == keep
    assert total(lines, masks) == pytest.approx(brute_force(lines, window, keep), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 60), st.just(1)), elements=ENTRIES), st.integers(1, 6), st.data()
)
def test_on_one_line_the_dynamic_programme_is_the_textbook_one(line, window, data):
    keep = data.draw(st.integers(0, len(line) // window))
    score, _ = best_windows(line[:, 0], window, keep)
    assert total([line], dynamic_programme([line], window, keep)) == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize(("method", "join"), [(bed, True), (greedy, False)])
@settings(max_examples=150, deadline=None)
@given(lines=layers(20, 3, 3, WHOLE), window=st.integers(1, 5), data=st.data())
def test_taking_the_best_window_first_is_done_to_the_letter_ties_included(method, join, lines, window, data):
    keep = data.draw(st.integers(0, fits(lines, window)))
    every = [column.tolist() for mask in method(lines, window, keep) for column in mask.T]
    assert every == taken_one_by_one(lines, window, keep, join=join)


@settings(max_examples=100, deadline=None)
@given(layers(40, 4, 3, ENTRIES), st.integers(1, 6), st.data())
def test_all_keep_disjoint_windows_and_none_beats_the_dynamic_programme(lines, window, data):
    most = fits(lines, window)
    keep = data.draw(st.integers(0, most))
    best = total(lines, dynamic_programme(lines, window, keep))
    joined = bed(lines, window, keep)
    assert windows_in(lines, joined, window) == keep
    assert total(lines, joined) <= best * (1 + 1e-9)
    apart = greedy(lines, window, keep)
    assert min(keep, -(-most // 2)) <= windows_in(lines, apart, window) <= keep
    assert total(lines, apart) <= best * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(layers(30, 4, 3, WHOLE), st.data())
def test_windows_of_one_entry_are_chosen_by_sorting(lines, data):
    flat = np.concatenate([layer.T.ravel() for layer in lines])
    keep = data.draw(st.integers(0, flat.size))
    wanted = np.zeros(flat.size, np.bool_)
    wanted[np.argsort(-flat, kind="stable")[:keep]] = True  # ties to the lower (layer, line, position)
    for method in METHODS:
        assert np.array_equal(np.concatenate([mask.T.ravel() for mask in method(lines, 1, keep)]), wanted)


def test_bed_spans_gaps_and_the_joined_run_divides():
    line = np.array([[0.0], [3.0], [4.0], [9.0], [9.0], [5.0], [1.0], [0.0]])
    kept = [bed([line], 2, keep)[0][:, 0].astype(int).tolist() for keep in (1, 2, 3)]
    assert kept == [
        [0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],  # 4 and 5 join over the gap: the run divides into (4, 9) and (9, 5)
        [0, 1, 1, 1, 1, 1, 1, 0],  # 3 and 1 join over both
    ]
    assert greedy([line], 2, 2)[0][:, 0].astype(int).tolist() == [0, 1, 1, 1, 1, 0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(layers(40, 3, 2, WHOLE), st.data())
def test_bed_is_exact_for_windows_of_two(lines, data):
    keep = data.draw(st.integers(0, fits(lines, 2)))
    assert total(lines, bed(lines, 2, keep)) == total(lines, dynamic_programme(lines, 2, keep))


def test_bed_can_miss_the_best_windows_of_three():
    line = np.array([[1.0], [0.0], [2.0], [0.0], [2.0], [0.0], [1.0]])
    assert total([line], dynamic_programme([line], 3, 2)) == 6
    assert total([line], bed([line], 3, 2)) == 5


@pytest.mark.parametrize("window", [3, 4, 8])
def test_on_average_bed_beats_greedy_and_the_dynamic_programme_beats_bed(window):
    random = np.random.default_rng(window)
    scores = []
    for _ in range(40):
        lines = [np.abs(random.standard_normal((64, 8)))]
        keep = round(random.uniform(0.05, 0.6) * lines[0].size / window)
        scores.append([total(lines, method(lines, window, keep)) for method in METHODS])
    best, joined, apart = np.mean(scores, axis=0)
    assert best > joined > apart


def test_greedy_runs_out_of_room_and_then_returns_fewer():
    line = np.array([[0.0], [1.0], [1.0], [0.0]])
    assert windows_in([line], greedy([line], 2, 2), 2) == 1
    assert bed([line], 2, 2)[0].all()
    assert dynamic_programme([line], 2, 2)[0].all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fill", [0.0, 0.1, -1.0])
def test_constant_entries_go_by_index(method, fill):
    lines = [np.full((7, 2), fill), np.full((3, 3), fill)]
    masks = method(lines, 3, 4)
    assert masks[0][:6].all()
    assert not masks[0][6].any()
    assert not masks[1].any()


@pytest.mark.parametrize("method", METHODS)
def test_lines_that_hold_no_window_stay_empty(method):
    lines = [np.ones((2, 5)), np.zeros((0, 4)), np.ones((4, 1))]
    assert [mask.sum() for mask in method(lines, 4, 1)] == [0, 0, 4]
    assert method([], 4, 0) == []
    assert not method([np.ones((2, 5))], 4, 0)[0].any()


def test_windows_that_crowd_one_peak_do_not_end_the_search_early():
    # The windows with the highest scores all overlap the peak, so the first ones to be sorted are not enough.
    line = np.ones((5000, 1))
    line[2000:2040] = 1000 + np.arange(40)[:, None]
    for window, keep in [(4, 12), (16, 5), (16, 100)]:
        assert windows_in([line], bed([line], window, keep), window) == keep
        assert windows_in([line], greedy([line], window, keep), window) == keep


@pytest.mark.parametrize("method", METHODS)
def test_the_input_is_left_as_it_was(method):
    line = np.random.default_rng(0).random((30, 3))
    copy = line.copy()
    method([line], 4, 6)
    assert np.array_equal(line, copy)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("lines", "window", "keep", "message"),
    [
        ([np.ones((4, 2)), np.ones(4)], 2, 1, r"layer 1: entries have shape \(4,\); give a 2-D \(positions, count\)"),
        ([np.full((4, 2), np.nan)], 2, 1, r"layer 0: 8 entries are NaN, infinite or beyond .*; scale them down"),
        ([np.array([[1.0], [1e308]])], 2, 1, r"layer 0: 1 entries are NaN, infinite or beyond .*; scale them down"),
        ([np.ones((5, 2))], 0, 1, r"window=0: a window has at least one entry; use 1 or more"),
        ([np.ones((5, 2))], 2, 5, r"keep=5: 4 windows of 2 entries fit these lines; use 0 to 4"),
        ([np.ones((5, 2))], 2, -1, r"keep=-1: 4 windows of 2 entries fit these lines; use 0 to 4"),
    ],
)
def test_errors_say_what_is_wrong(method, lines, window, keep, message):
    with pytest.raises(FlexgroupError, match=message):
        method(lines, window, keep)
