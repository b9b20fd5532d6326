"""Schedules are pure functions of the step that rise from nothing to exactly the final sparsity."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgroup import Cubic, FlexgroupError, OneShot
from flexgroup.pruning import Constant, Iterative

sparsities = st.floats(0.0, 0.99)


@st.composite
def cubics(draw: st.DrawFn) -> Cubic:
    begin = draw(st.integers(0, 50))
    return Cubic(begin, begin + draw(st.integers(1, 200)), draw(st.integers(1, 80)))


@given(cubics(), sparsities)
def test_cubic_rises_from_nothing_to_exactly_the_final_sparsity(schedule: Cubic, final: float) -> None:
    course = [schedule.sparsity(step, final) for step in range(schedule.last + 3)]
    assert all(earlier <= later + 1e-12 for earlier, later in itertools.pairwise(course))
    assert course[: schedule.begin + 1] == pytest.approx([0.0] * (schedule.begin + 1), abs=1e-12)
    assert course[schedule.end :] == [final] * 3


@given(cubics(), sparsities)
def test_cubic_is_the_equation_of_zhu_and_gupta(schedule: Cubic, final: float) -> None:
    for step in range(schedule.begin, schedule.end + 1):
        left = 1 - (step - schedule.begin) / (schedule.end - schedule.begin)
        assert schedule.sparsity(step, final) == pytest.approx(final + (0.0 - final) * left**3, abs=1e-12)


@given(cubics())
def test_cubic_chooses_every_so_many_steps_and_always_at_its_end(schedule: Cubic) -> None:
    chosen = [step for step in range(schedule.last + 100) if schedule.chooses(step)]
    assert chosen == sorted({*range(schedule.begin, schedule.end, schedule.every), schedule.end})


def test_cubic_may_begin_at_a_sparsity() -> None:
    schedule = Cubic(begin=3, end=9, every=2, initial=0.5)
    assert schedule.sparsity(2, 0.9) == 0.0
    assert schedule.sparsity(3, 0.9) == pytest.approx(0.5)
    assert schedule.sparsity(6, 0.9) == pytest.approx(0.9 - 0.4 / 8)


@given(st.integers(0, 100), sparsities)
def test_one_shot_prunes_once(at: int, final: float) -> None:
    schedule = OneShot(at)
    assert [step for step in range(120) if schedule.chooses(step)] == [at] == [schedule.last]
    assert [schedule.sparsity(step, final) for step in range(120)] == [0.0] * at + [final] * (120 - at)


@given(st.integers(0, 30), st.integers(1, 60), st.integers(1, 20), sparsities)
def test_constant_chooses_again_and_again_at_the_final_sparsity(
    begin: int, more: int, every: int, final: float
) -> None:
    schedule = Constant(begin, begin + more, every)
    chosen = [step for step in range(schedule.last + 50) if schedule.chooses(step)]
    assert chosen == sorted({*range(begin, begin + more, every), begin + more})
    assert [schedule.sparsity(step, final) for step in (0, *chosen)] == [0.0 if begin else final] + [final] * len(
        chosen
    )


@given(st.integers(1, 6), st.integers(1, 30), sparsities)
def test_each_round_prunes_the_same_share_of_what_is_left(rounds: int, every: int, final: float) -> None:
    schedule = Iterative(rounds, every)
    chosen = [step for step in range(schedule.last + 50) if schedule.chooses(step)]
    assert chosen == [every * (i + 1) for i in range(rounds)]
    left = [1.0] + [1.0 - schedule.sparsity(step, final) for step in chosen]
    assert [after / before for before, after in itertools.pairwise(left)] == pytest.approx(
        [(1 - final) ** (1 / rounds)] * rounds
    )
    assert schedule.sparsity(schedule.last + 7, final) == final


@pytest.mark.parametrize("rewind", [None, 0, 3])
def test_the_position_restarts_where_the_weights_do(rewind: int | None) -> None:
    schedule = Iterative(rounds=2, every=5, rewind=rewind)
    again = list(range(rewind or 0, (rewind or 0) + 5))
    assert [schedule.position(step) for step in range(15)] == [0, 1, 2, 3, 4, *again, *again]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: OneShot(-1), r"OneShot\(at=-1\): at is a number of steps, an integer of at least 0"),
        (lambda: OneShot(1.5), r"OneShot\(at=1.5\)"),  # type: ignore[arg-type]
        (lambda: Cubic(0, 10, 0), r"Cubic\(every=0\): every is a number of steps, an integer of at least 1"),
        (lambda: Cubic(5, 5, 1), r"ends before it begins; use an end after 5, or OneShot\(at=5\)"),
        (lambda: Cubic(0, 5, 1, initial=1.0), r"Cubic's initial sparsity 1.0 is not in \[0, 1\)"),
        (lambda: Constant(4, 3, 1), r"ends before it begins; use an end after 4, or OneShot\(at=4\) to choose once"),
        (lambda: Iterative(0, 5), r"Iterative\(rounds=0\): rounds is how often to prune, an integer of at least 1"),
        (lambda: Iterative(2, 5, rewind=5), r"not before the first choice; use a rewind below 5"),
        (lambda: Cubic(0, 5, 1, initial=0.9).sparsity(0, 0.8), r"begins above the final sparsity 0.8"),
    ],
)
def test_a_schedule_that_cannot_be_says_why(make: object, text: str) -> None:
    with pytest.raises(FlexgroupError, match=text):
        make()  # type: ignore[operator]
