"""From a graph to running code: layout, packing, plan, machine code, threads, profile."""

from flexgroup.engine._calls import in_order
from flexgroup.engine._compiled import CompiledModel, compile, plan_graph
from flexgroup.engine._explain import Explanation, LayerChoice, Memory
from flexgroup.engine._machine import Machine, measured_machine
from flexgroup.engine._native import Program
from flexgroup.engine._plan import Plan, Step
from flexgroup.engine._predict import predicted_seconds
from flexgroup.engine._profile import Profile, ProfileRow

__all__ = [
    "CompiledModel",
    "Explanation",
    "LayerChoice",
    "Machine",
    "Memory",
    "Plan",
    "Profile",
    "ProfileRow",
    "Program",
    "Step",
    "compile",
    "in_order",
    "measured_machine",
    "plan_graph",
    "predicted_seconds",
]
