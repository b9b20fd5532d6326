"""Free groups: disjoint rectangles anywhere, exactly as many as asked, between the best of one axis and the bound."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flexgroup._errors import FlexgroupError
from flexgroup.groups import Groups, select
from flexgroup.groups._free import (
    FreeSolution,
    _add_highest,
    _Choice,
    _drop_lowest,
    _improve_bands,
    _Problem,
    select_free,
)
from flexgroup.groups._free_bound import Relaxation, window_sums

Matrix = npt.NDArray[np.float64]

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def matrices(draw: st.DrawFn, most: int, side: int) -> list[Matrix]:
    """Up to ``most`` matrices of up to ``side`` rows and columns; small whole scores, so that ties are common."""
    shapes = draw(st.lists(st.tuples(st.integers(1, side), st.integers(1, side)), min_size=1, max_size=most))
    scores = st.integers(0, 6).map(float)
    return [draw(hnp.arrays(np.float64, shape, elements=scores)) for shape in shapes]


def best_of_one(matrix: Matrix, rows: int, cols: int) -> list[float]:
    """The best total of 0, 1, 2, ... disjoint groups of ``matrix``: all sets of windows, one after another."""
    places = list(product(range(matrix.shape[0] - rows + 1), range(matrix.shape[1] - cols + 1)))
    taken = np.zeros(matrix.shape, dtype=np.bool_)
    best = {0: 0.0}

    def extend(first: int, count: int, score: float) -> None:
        best[count] = max(best.get(count, 0.0), score)
        for at in range(first, len(places)):
            row, col = places[at]
            window = (slice(row, row + rows), slice(col, col + cols))
            if not taken[window].any():
                taken[window] = True
                extend(at + 1, count + 1, score + float(matrix[window].sum()))
                taken[window] = False

    extend(0, 0, 0.0)
    return [best[count] for count in range(len(best))]


def best_by_brute_force(scores: list[Matrix], rows: int, cols: int) -> list[float]:
    """The best total of 0, 1, 2, ... disjoint groups of all matrices together."""
    best = [0.0]
    for matrix in scores:
        here = best_of_one(matrix, rows, cols)
        joined = [0.0] * (len(best) + len(here) - 1)
        for (a, before), (b, score) in product(enumerate(best), enumerate(here)):
            joined[a + b] = max(joined[a + b], before + score)
        best = joined
    return best


def splits_into_groups(mask: npt.NDArray[np.bool_], rows: int, cols: int) -> bool:
    """Whether disjoint ``rows x cols`` rectangles make up ``mask``: the first weight left must be a top left corner."""
    left = mask.copy()
    while left.any():
        row, col = np.unravel_index(int(left.argmax()), left.shape)
        window = left[row : row + rows, col : col + cols]
        if window.shape != (rows, cols) or not window.all():
            return False
        window[:] = False
    return True


def check_is_a_choice(chosen: FreeSolution, scores: list[Matrix], rows: int, cols: int, keep: int) -> None:
    assert [mask.shape for mask in chosen.masks] == [matrix.shape for matrix in scores]
    assert [int(mask.sum()) for mask in chosen.masks] == [count * rows * cols for count in chosen.kept]
    assert all(splits_into_groups(mask, rows, cols) for mask in chosen.masks)
    assert sum(chosen.kept) == keep
    total = sum(float(matrix[mask].sum(dtype=np.float64)) for matrix, mask in zip(scores, chosen.masks, strict=True))
    assert chosen.score == pytest.approx(total, rel=1e-9)
    assert chosen.score <= chosen.bound


def fits(scores: list[Matrix], rows: int, cols: int) -> int:
    return sum((matrix.shape[0] // rows) * (matrix.shape[1] // cols) for matrix in scores)


@settings(deadline=None, max_examples=150)
@given(matrices(most=2, side=5), SIZES, st.data())
def test_the_optimum_lies_between_score_and_bound(
    scores: list[Matrix], size: tuple[int, int], data: st.DataObject
) -> None:
    rows, cols = size if size[0] * size[1] > 2 else (2, 2)
    optimum = best_by_brute_force(scores, rows, cols)
    keep = data.draw(st.integers(0, len(optimum) - 1))
    chosen = select_free(scores, rows, cols, keep)
    check_is_a_choice(chosen, scores, rows, cols, keep)
    assert chosen.score <= optimum[keep] + 1e-6
    assert optimum[keep] <= chosen.bound + 1e-6


def test_small_choices_are_nearly_always_the_optimum() -> None:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(40):
        matrix = random.random((5, 6))
        keep = int(random.integers(1, 5))
        optimum = best_by_brute_force([matrix], 2, 2)[keep]
        hits += select_free([matrix], 2, 2, keep).score > optimum - 1e-6
    assert hits >= 36


@settings(deadline=None, max_examples=100)
@given(matrices(most=3, side=14), SIZES, st.floats(0, 1))
def test_free_groups_are_at_least_as_good_as_one_free_axis(
    scores: list[Matrix], size: tuple[int, int], share: float
) -> None:
    rows, cols = size
    # Whole strips only: a short last strip holds groups that are no whole group.
    scores = [np.repeat(np.repeat(matrix, rows, axis=0), cols, axis=1) for matrix in scores]
    scores = [matrix * np.arange(1, matrix.shape[1] + 1) for matrix in scores]
    keep = round(share * fits(scores, rows, cols))
    chosen = select_free(scores, rows, cols, keep)
    check_is_a_choice(chosen, scores, rows, cols, keep)
    weights = sum(matrix.size for matrix in scores)
    for axis in ("rows", "cols"):
        named = {str(i): matrix for i, matrix in enumerate(scores)}
        one = select(named, Groups(f"{rows}x{cols}", unaligned=axis), keep=keep * rows * cols / weights)
        assert sum(one.kept.values()) == keep
        assert chosen.score >= one.score * (1 - 1e-9)


@settings(deadline=None, max_examples=60)
@given(matrices(most=2, side=9), SIZES, st.integers(0, 40))
def test_exactly_as_many_groups_as_wanted_or_as_fit(scores: list[Matrix], size: tuple[int, int], keep: int) -> None:
    chosen = select_free(scores, *size, keep)
    check_is_a_choice(chosen, scores, *size, min(keep, fits(scores, *size)))


def test_a_group_off_both_grids_is_found() -> None:
    matrix = np.zeros((5, 7))
    matrix[1:3, 3:5] = [[1, 2], [3, 4]]
    matrix[3:5, 2:4] = 1
    chosen = select_free([matrix], 2, 2, 2)
    assert (chosen.masks[0] == (matrix > 0)).all()
    assert (chosen.score, chosen.bound) == (14.0, 14.0)


@pytest.mark.parametrize("shape", [(8, 12), (7, 11)])
@pytest.mark.parametrize("keep", [0, 1, 5, 15])
def test_constant_scores_are_solved_and_proven(shape: tuple[int, int], keep: int) -> None:
    chosen = select_free([np.full(shape, 0.3)], 2, 2, keep)
    check_is_a_choice(chosen, [np.full(shape, 0.3)], 2, 2, keep)
    assert chosen.bound == chosen.score == pytest.approx(1.2 * keep)


def test_zero_scores_keep_what_was_asked() -> None:
    chosen = select_free([np.zeros((6, 9))], 3, 2, 4)
    assert (chosen.kept, chosen.score, chosen.bound) == ([4], 0.0, 0.0)


def test_keeping_everything_is_proven() -> None:
    scores = [np.random.default_rng(0).random((6, 8)), np.random.default_rng(1).random((4, 4))]
    chosen = select_free(scores, 2, 4, 8)
    assert all(mask.all() for mask in chosen.masks)
    assert chosen.bound == chosen.score == pytest.approx(scores[0].sum() + scores[1].sum())


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 4), (3, 1)])
def test_with_one_row_or_column_the_exact_optimum_is_its_own_bound(rows: int, cols: int) -> None:
    matrix = np.random.default_rng(2).random((12, 16))
    chosen = select_free([matrix], rows, cols, 9)
    exact = select(
        {"a": matrix}, Groups(f"{rows}x{cols}", unaligned="cols" if rows == 1 else "rows"), keep=9 * rows * cols / 192
    )
    assert chosen.bound == chosen.score == pytest.approx(exact.score)


def test_matrices_too_small_for_a_group_keep_nothing() -> None:
    scores = [np.full((1, 9), 100.0), np.full((4, 4), 1.0), np.zeros((0, 3)), np.full((9, 1), 100.0)]
    chosen = select_free(scores, 2, 2, 3)
    assert chosen.kept == [0, 3, 0, 0]
    assert [int(mask.sum()) for mask in chosen.masks] == [0, 12, 0, 0]
    assert select_free(scores[:1], 2, 2, 3).kept == [0]
    assert select_free([], 2, 2, 3).masks == []


def test_the_same_input_gives_the_same_groups_and_is_left_alone() -> None:
    scores = [np.random.default_rng(i).integers(0, 9, (20, 30)).astype(np.float32) for i in range(3)]
    before = [matrix.copy() for matrix in scores]
    first, second = select_free(scores, 2, 3, 60), select_free(scores, 2, 3, 60)
    assert all((a == b).all() for a, b in zip(first.masks, second.masks, strict=True))
    assert (first.score, first.bound) == (second.score, second.bound)
    assert all((a == b).all() for a, b in zip(scores, before, strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_scores_does_not_matter(scale: float) -> None:
    matrix = np.random.default_rng(5).random((16, 24))
    plain, scaled = select_free([matrix], 2, 2, 20), select_free([matrix * scale], 2, 2, 20)
    assert scaled.score == pytest.approx(plain.score * scale, rel=1e-6)
    assert scaled.bound / scaled.score == pytest.approx(plain.bound / plain.score, rel=1e-4)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.int64, (5, 7), elements=st.integers(0, 50)), SIZES, st.integers(0, 150))
def test_re_choosing_bands_never_loses_and_keeps_groups_disjoint(
    cells: npt.NDArray[np.int64], size: tuple[int, int], price: int
) -> None:
    rows, cols = size
    windows = window_sums(cells, rows, cols)
    starts, taken = np.zeros(windows.shape, dtype=np.bool_), np.zeros(cells.shape, dtype=np.int8)
    worth = 0
    while _improve_bands(windows, starts, taken, rows, cols, price):
        now = int(windows[starts].sum()) - price * int(starts.sum())
        assert now > worth
        worth = now
        covered = np.zeros_like(taken)
        for row, col in np.argwhere(starts):
            covered[row : row + rows, col : col + cols] += 1
        assert (covered == taken).all()
        assert covered.max() <= 1
    if cells.shape[0] == 2 * rows - 1:  # one band is the whole matrix: its choice is the optimum
        optima = best_by_brute_force([cells.astype(np.float64)], rows, cols)
        assert worth == max(score - price * count for count, score in enumerate(optima))


@settings(deadline=None, max_examples=40)
@given(matrices(most=1, side=5), st.integers(0, 30), st.data())
def test_the_bound_holds_after_any_number_of_steps(scores: list[Matrix], steps: int, data: st.DataObject) -> None:
    optimum = best_by_brute_force(scores, 2, 2)
    if len(optimum) == 1:
        return
    keep = data.draw(st.integers(1, len(optimum) - 1))
    cells = scores[0].astype(np.int64) * 1000
    shape = (cells.shape[0], cells.shape[1])
    relaxation = Relaxation([window_sums(cells, 2, 2)], [shape], 2, 2, keep, unit=data.draw(st.floats(1, 1e5)))
    relaxation.advance(steps)
    assert relaxation.bound(highest_rent=4 * 6000)[0] >= optimum[keep] * 1000


def test_the_relaxation_proves_random_choices_to_one_percent() -> None:
    matrix = np.abs(np.random.default_rng(7).standard_normal((64, 144)))
    chosen = select_free([matrix], 2, 2, round(0.1 * matrix.size / 4))
    assert chosen.bound <= 1.01 * chosen.score


@pytest.mark.parametrize(("size", "share"), [((2, 2), 0.1), ((2, 4), 0.1), ((4, 4), 0.1), ((2, 2), 0.5)])
def test_resnet20_is_chosen_within_a_thousandth_of_the_bound(
    shared_data: Path, size: tuple[int, int], share: float
) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    weights = load_file(shared_data / "cifar10_resnet" / "resnet20.safetensors")
    scores = [
        np.abs(weight.reshape(weight.shape[0], -1))
        for name, weight in sorted(weights.items())
        if weight.shape[2:] == (3, 3) and name != "conv1.weight"
    ]
    rows, cols = size
    keep = round(share * sum(matrix.size for matrix in scores) / (rows * cols))
    chosen = select_free(scores, rows, cols, keep)
    check_is_a_choice(chosen, scores, rows, cols, keep)
    assert chosen.bound <= 1.001 * chosen.score


@pytest.mark.parametrize(
    ("scores", "size", "keep", "text"),
    [
        (np.ones(4), (2, 2), 1, "matrix 0: scores have shape (4,); give a 2-D (rows, columns) array"),
        (np.array([[1.0, np.nan]]), (1, 1), 1, "matrix 0: scores from nan to nan; they must be finite"),
        (np.array([[1.0, -2.0]]), (1, 1), 1, "matrix 0: scores from -2 to 1; they must be finite and non-negative"),
        (np.array([[1.0, np.inf]]), (1, 1), 1, "matrix 0: scores from 1 to inf; they must be finite"),
        (np.ones((4, 4)), (0, 2), 1, "groups of 0x2 are empty; use at least one row and one column"),
        (np.ones((4, 4)), (2, 2), -1, "keep=-1 is not a number of groups; use 0 or more"),
    ],
)
def test_bad_input_is_refused_in_one_line(scores: Matrix, size: tuple[int, int], keep: int, text: str) -> None:
    with pytest.raises(FlexgroupError) as error:
        select_free([scores], *size, keep)
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


def test_the_lowest_groups_go_first_and_the_highest_come_back() -> None:
    blocks = [np.kron(np.diag(values), np.ones((2, 2))).astype(np.int64) for values in ([5, 1, 4], [2, 3])]
    whole = [(block > 0).astype(np.int8) for block in blocks]
    starts = [np.zeros((block.shape[0] - 1, block.shape[1] - 1), dtype=np.bool_) for block in blocks]
    for start in starts:
        start[::2, ::2] = np.eye((start.shape[0] + 1) // 2, dtype=np.bool_)
    shapes = [(block.shape[0], block.shape[1]) for block in blocks]
    problem = _Problem([window_sums(block, 2, 2) for block in blocks], shapes, 2, 2, keep=3)
    choice = _Choice(starts, [taken.copy() for taken in whole])
    _drop_lowest(problem, choice, 2)
    assert [block[taken > 0].tolist() for block, taken in zip(blocks, choice.taken, strict=True)] == [
        [5] * 4 + [4] * 4,
        [3] * 4,
    ]
    assert (choice.count, choice.score(problem)) == (3, 48)
    _add_highest(problem, choice, 2)
    assert all((taken == all_taken).all() for taken, all_taken in zip(choice.taken, whole, strict=True))
