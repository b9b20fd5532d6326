"""Schedules are pure functions of the step that rise from nothing to exactly the final sparsity."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgroup import Cubic, FlexgroupError, OneShot

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


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: OneShot(-1), r"OneShot\(at=-1\): at is a number of steps, an integer of at least 0"),
        (lambda: OneShot(1.5), r"OneShot\(at=1.5\)"),  # type: ignore[arg-type]
        (lambda: Cubic(0, 10, 0), r"Cubic\(every=0\): every is a number of steps, an integer of at least 1"),
        (lambda: Cubic(5, 5, 1), r"ends before it begins; use an end after 5, or OneShot\(at=5\)"),
        (lambda: Cubic(0, 5, 1, initial=1.0), r"Cubic's initial sparsity 1.0 is not in \[0, 1\)"),
        (lambda: Cubic(0, 5, 1, initial=0.9).sparsity(0, 0.8), r"begins above the final sparsity 0.8"),
    ],
)
def test_a_schedule_that_cannot_be_says_why(make: object, text: str) -> None:
    with pytest.raises(FlexgroupError, match=text):
        make()  # type: ignore[operator]
