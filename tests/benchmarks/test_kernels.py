"""The kernel benchmark times what it says: one kernel for a whole image, beside a peak that multiplies."""

from __future__ import annotations

import kernels
import pytest

from flexgroup.engine._choose import FEW_ROWS
from flexgroup.kernels import host_target

CASES = [("dense", 0.0, 4), ("strip", 0.9, 2), ("ring", 0.9, 4)]


def test_the_peak_is_one_step_of_so_many_multiply_adds():
    program = kernels.peak_program(host_target())
    (step,) = program.plan.steps
    assert step.macs > 0
    assert (program.time_steps([], 1) > 0).all()


@pytest.mark.parametrize(("form", "sparsity", "rows"), CASES)
def test_a_case_calls_the_kernel_that_it_names(form, sparsity, rows):
    program = kernels.program(kernels.Case("64x64x56x56 3x3", sparsity, form, rows), host_target())
    steps = list(kernels.conv_steps(program).values())
    assert len(steps) == 1 or rows <= FEW_ROWS, "groups of four have no slabs"
    assert all(f"_{form}_{rows}x1_" in step.kernel.name for step in steps)
    assert sum(step.macs for step in steps) == pytest.approx(sum(step.useful_macs for step in steps), rel=0.01)
    assert sum(step.dense_macs for step in steps) == 64 * 64 * 9 * 56 * 56
