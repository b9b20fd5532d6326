"""From a graph to running code: layout, packing, plan, machine code, threads, profile."""

from flexgroup.engine._compiled import CompiledModel, compile, plan_graph
from flexgroup.engine._native import Program
from flexgroup.engine._plan import Plan, Step
from flexgroup.engine._profile import Explanation, LayerChoice, Profile, ProfileRow

__all__ = [
    "CompiledModel",
    "Explanation",
    "LayerChoice",
    "Plan",
    "Profile",
    "ProfileRow",
    "Program",
    "Step",
    "compile",
    "plan_graph",
]
