"""Limits, costs, bands, named sizes, N:M and the published methods."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup import FlexgroupError, Groups, select
from flexgroup.groups.reference import best_windows

ROWS4 = Groups("4x1", unaligned="rows")


def random_scores(seed: int, shapes: list[tuple[int, int]], ties: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    draw = (lambda shape: rng.integers(0, 4, shape).astype(np.float32)) if ties else rng.random
    return {f"layer{i}": draw(shape) * (i + 1) for i, shape in enumerate(shapes)}


def layer_curve(matrix: np.ndarray, window: int) -> np.ndarray:
    """The best score of 0, 1, ... groups in one layer with lines down the columns, by the dynamic programme."""
    total = np.zeros(1)
    for column in matrix.T.astype(np.float64):
        line = np.array([best_windows(column, window, k)[0] for k in range(len(column) // window + 1)])
        merged = np.full(len(total) + len(line) - 1, -np.inf)
        for k, value in enumerate(line):
            merged[k : k + len(total)] = np.maximum(merged[k : k + len(total)], total + value)
        total = merged
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.floats(0.1, 0.9), st.floats(0, 0.4), st.floats(0.5, 1.0))
def test_limits_hold_and_the_rest_is_the_best_split(seed, ties, keep, least, most):
    scores = random_scores(seed, [(6, 4), (8, 3), (4, 5)], ties)
    groups = Groups("2x1", unaligned="rows")
    bounds = {
        name: (int(np.ceil(least * m.size / 2 - 1e-9)), int(most * m.size / 2 + 1e-9)) for name, m in scores.items()
    }
    total = round(keep * sum(m.size for m in scores.values()) / 2)
    lowest, highest = (sum(bound[i] for bound in bounds.values()) for i in (0, 1))
    if not lowest <= total <= highest:
        with pytest.raises(FlexgroupError, match=r"but the limits (ask for at least|allow at most)"):
            select(scores, groups, keep, limits=(least, most))
        return
    selection = select(scores, groups, keep, limits=(least, most))
    assert sum(selection.kept.values()) == total
    assert all(bounds[name][0] <= kept <= bounds[name][1] for name, kept in selection.kept.items())
    curves = [layer_curve(matrix, 2) for matrix in scores.values()]
    best = max(
        sum(curve[k] for curve, k in zip(curves, counts, strict=True))
        for counts in itertools.product(
            *(range(a, min(b, len(c) - 1) + 1) for (a, b), c in zip(bounds.values(), curves, strict=True))
        )
        if sum(counts) == total
    )
    assert selection.score == pytest.approx(best, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.floats(0, 1), st.sampled_from([0.5, 2.0, 3.0]))
def test_with_costs_the_score_is_the_best_for_what_is_spent(seed, ties, keep, dear):
    scores = random_scores(seed, [(6, 4), (8, 3)], ties)
    cost = {"layer0": 1.0, "layer1": dear}
    selection = select(scores, Groups("2x1", unaligned="rows"), keep, cost=cost)
    budget = keep * sum(cost[name] * matrix.size / 2 for name, matrix in scores.items())
    spent = sum(cost[name] * kept for name, kept in selection.kept.items())
    assert spent <= budget + 1e-6
    fits = {name: (matrix.shape[0] // 2) * matrix.shape[1] for name, matrix in scores.items()}
    if any(selection.kept[name] < fits[name] for name in scores):
        assert spent > budget - max(cost.values())
    curves = [layer_curve(matrix, 2) for matrix in scores.values()]
    best = max(
        curves[0][a] + curves[1][b]
        for a in range(len(curves[0]))
        for b in range(len(curves[1]))
        if a + dear * b <= spent + 1e-9
    )
    assert selection.score >= best * (1 - 1e-6) - 1e-9


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1000),
    st.booleans(),
    st.floats(0, 1),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["rows", "cols", None]),
)
def test_bands_carry_the_same_number_of_groups(seed, ties, keep, bands, unaligned):
    scores = random_scores(seed, [(16, 6)], ties)
    groups = Groups("2x2", unaligned=unaligned)
    selection = select(scores, groups, keep, budget="band", bands=bands)
    parts = np.array_split(selection.masks["layer0"], bands)
    counts = [part.sum() // 4 for part in parts]
    fits = sum((p.shape[0] // 2) * (p.shape[1] // 2) for p in parts)
    assert sum(counts) == selection.kept["layer0"] == min(round(keep * 96 / 4), fits)
    assert max(counts) - min(counts) <= 1
    for part, rows in zip(parts, np.array_split(scores["layer0"], bands), strict=True):
        alone = select({"": rows}, groups, part.sum() / part.size, budget="layer")
        assert rows[part].sum() == pytest.approx(alone.score, rel=1e-6)


def test_filters_and_single_inputs_are_groups_too():
    scores = random_scores(0, [(8, 6), (4, 10)])
    filters = select(scores, Groups("1xK"), 0.5, budget="layer")
    assert all((mask.all(axis=1) | ~mask.any(axis=1)).all() for mask in filters.masks.values())
    best = np.sort(scores["layer0"].sum(axis=1))[-4:].sum() + np.sort(scores["layer1"].sum(axis=1))[-2:].sum()
    assert filters.score == pytest.approx(best)
    inputs = select(scores, Groups("Mx1"), 0.5, budget="layer")
    assert all((mask.all(axis=0) | ~mask.any(axis=0)).all() for mask in inputs.masks.values())


def test_filters_of_different_length_share_a_global_budget_by_weights():
    scores = random_scores(1, [(8, 6), (4, 10)])
    selection = select(scores, Groups("1xK"), 0.5)
    kept = sum(int(mask.sum()) for mask in selection.masks.values())
    assert 0.5 * 88 - 10 < kept <= 0.5 * 88


def test_two_of_four():
    scores = {"a": np.array([[4, 3, 2, 1, 0, 0, 0, 0, 5, 1], [1, 2, 1, 2, 9, 8, 7, 6, 1, 2]], np.float32)}
    selection = select(scores, Groups("2:4"), keep=0.5)
    wanted = [[1, 1, 0, 0, 1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 1, 0, 0, 0, 1]]
    assert selection.masks["a"].astype(int).tolist() == wanted
    with pytest.raises(FlexgroupError, match=r"2:4 keeps 0.5 of the weights, not 0.25; use keep=0.5"):
        select(scores, Groups("2:4"), keep=0.25)


@pytest.mark.parametrize("unaligned", ["rows", "cols", None])
@pytest.mark.parametrize("budget", ["global", "layer"])
def test_published_methods_never_beat_the_exact_one(unaligned, budget):
    scores = random_scores(2, [(16, 9), (12, 8)])
    size = {"rows": "4x1", "cols": "1x4", None: "4x2"}[unaligned]
    groups = Groups(size, unaligned=unaligned)
    exact = select(scores, groups, 0.3, budget)
    found = {method: select(scores, groups, 0.3, budget, method=method) for method in ("dp", "bed", "greedy")}
    assert found["dp"].score == pytest.approx(exact.score, rel=1e-6)
    assert exact.gap == 0
    for selection in found.values():
        assert selection.score <= exact.score * (1 + 1e-6)
        assert selection.bound == exact.score
        assert selection.gap == pytest.approx(1 - selection.score / exact.score, abs=1e-6)
        score = sum(scores[name][mask].sum(dtype=np.float64) for name, mask in selection.masks.items())
        assert score == pytest.approx(selection.score, rel=1e-6)
    if unaligned is None:
        assert found["greedy"].score == pytest.approx(exact.score, rel=1e-6)


def test_free_groups_are_at_least_as_good_as_one_free_axis():
    scores = random_scores(3, [(12, 14), (8, 9)])
    free = select(scores, Groups("2x2", unaligned="free"), 0.25)
    assert sum(free.kept.values()) == round(0.25 * (12 * 14 + 8 * 9) / 4)
    for axis in ("rows", "cols"):
        assert free.score >= select(scores, Groups("2x2", unaligned=axis), 0.25).score * (1 - 1e-6)
    assert free.score <= free.bound * (1 + 1e-9)
    assert 0 <= free.gap < 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, r"method='magic' is not known; use one of 'exact', 'dp', 'bed', 'greedy'"),
        ({"method": "bed", "budget": "line"}, r"method='bed' knows budget='global' and 'layer' only"),
        ({"limits": (0.5, 0.2)}, r"layer 'a': limits \(0.5, 0.2\) on the share that is kept"),
        ({"limits": {"b": (0, 1)}}, r"limits name layers that scores do not have: b"),
        ({"limits": (0.0, 0.4)}, r"keep=0.5 asks for 8 groups .* the limits allow at most 6; lower keep"),
        ({"limits": (0.6, 1.0)}, r"keep=0.5 allows 8 groups .* the limits ask for at least 10; raise keep"),
        ({"limits": (0.51, 0.52)}, r"layer 'a': no number of groups lies within its limits \(0.51, 0.52\)"),
        ({"limits": (0.0, 1.0), "budget": "layer"}, r"limits and cost trade layers against each other"),
        ({"cost": {"a": 0.0}}, r"layer 'a': cost=0.0 of a group; use a positive number"),
        ({"cost": {"b": 1.0}}, r"cost and scores must name the same layers; they differ in a, b"),
        ({"budget": "band", "bands": 0}, r"bands=0; give the number of parallel units"),
        ({"budget": "band", "bands": 4}, r"layer 'a, one of 4 bands': groups of 4x1 do not fit its 2x8"),
        ({"groups": Groups("2x2", unaligned="free"), "budget": "line"}, r"take budget='global' or 'layer' only"),
        ({"groups": Groups("1xK"), "method": "bed"}, r"differ in size between layers: leave method and cost out"),
    ],
)
def test_impossible_requests_say_what_would_fit(changes, message):
    arguments = {"scores": {"a": np.ones((8, 8))}, "groups": ROWS4, "keep": 0.5} | changes
    with pytest.raises(FlexgroupError, match=message):
        select(**arguments)


@pytest.mark.parametrize(
    ("size", "unaligned", "message"),
    [
        ("4:2", None, r"keeps 4 of 2 weights; write the smaller number first"),
        ("2:4", "rows", r"has fixed blocks of 4; leave unaligned out"),
        ("KxM", None, r"is not ROWSxCOLS"),
    ],
)
def test_impossible_groups_are_refused(size, unaligned, message):
    with pytest.raises(FlexgroupError, match=message):
        Groups(size, unaligned=unaligned)


def test_costs_that_differ_a_thousandfold_still_find_the_best():
    rng = np.random.default_rng(0)
    scores = {"cheap": rng.random((64, 96)), "dear": rng.random((64, 96))}
    groups = Groups("2x1", unaligned="rows")
    for dear in (1e3, 1e7):
        selection = select(scores, groups, 0.01, cost={"cheap": 1.0, "dear": dear})
        assert selection.kept["cheap"] == 64 * 96 // 2


@pytest.mark.parametrize("budget", ["layer", "line", "band"])
def test_layers_of_very_different_scale_do_not_blur_each_other(budget):
    matrix = np.random.default_rng(0).random((16, 40))
    groups = Groups("2x1", unaligned="rows")
    together = select({"large": matrix, "small": matrix * 2.0**-60}, groups, 0.3, budget=budget)
    assert (together.masks["large"] == together.masks["small"]).all()


def test_large_whole_numbers_are_not_rounded():
    scores = {"a": np.array([[16777216, 16777217]], np.int64)}
    assert select(scores, Groups("1x1"), 0.5).masks["a"].tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("scores", "keep", "message"),
    [
        ([[1.0]], 0.5, r"layer 'a': scores are a list; give a numpy array of real numbers"),
        (np.ones((2, 2), complex), 0.5, r"layer 'a': scores are a array of complex128"),
        (np.full((2, 2), 1e300), 0.5, r"layer 'a': scores up to 1e\+300; scores must be finite"),
        (np.ones((2, 2)), "0.5", r"keep='0.5' is not a share of the weights"),
    ],
)
def test_scores_and_shares_that_are_no_numbers_are_refused(scores, keep, message):
    with pytest.raises(FlexgroupError, match=message):
        select({"a": scores}, Groups("1x1"), keep)


@pytest.mark.parametrize("budget", ["global", "layer", "line", "band"])
@pytest.mark.parametrize("ties", [False, True])
def test_the_answer_does_not_depend_on_the_number_of_threads(budget, ties, monkeypatch):
    scores = random_scores(5, [(64, 2000), (32, 3001)], ties)
    answers = []
    for cores in (1, 2, 5):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        answers.append(select(scores, ROWS4, 0.1, budget, bands=2 if budget == "band" else 1))
    for other in answers[1:]:
        assert all((other.masks[name] == mask).all() for name, mask in answers[0].masks.items())
        assert other.score == answers[0].score
