"""What a plan is predicted to take: the cost model's slots of every step, in seconds of this machine."""

from __future__ import annotations

from flexgroup.engine._machine import Machine, measured_machine
from flexgroup.engine._plan import Plan, Step
from flexgroup.kernels import F32, runs_here

BARRIER_SECONDS = 300e-9  # until the last thread has heard that the others are ready


def slot_seconds(plan: Plan, machine: Machine) -> float:
    """Seconds of one slot: a vector multiply-add of one core at its peak, which was measured with fp32 numbers."""
    return 2 * plan.target.lanes(F32) / machine.peak


def step_seconds(step: Step, plan: Plan, machine: Machine) -> float:
    """Predicted seconds of one step on the plan's threads, what it takes to start it included."""
    sharing = max(1, sum(part is not None for part in step.parts))
    seconds = step.slots * slot_seconds(plan, machine) / sharing
    return seconds + (BARRIER_SECONDS if step.barrier and plan.threads > 1 else 0.0)


def predicted_seconds(plan: Plan, machine: Machine | None = None) -> float:
    """Predicted seconds of one image on the plan's threads; 0 for a plan of another kind of machine.

    ``machine`` is what the plan runs on: this one, measured (in less than a second) if it never was, by default.
    """
    if not plan.target.triple or not runs_here(plan.target):
        return 0.0
    here = machine or measured_machine()
    return sum(step_seconds(step, plan, here) for step in plan.steps)
