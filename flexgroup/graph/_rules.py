"""Which rule lowers which operator of torch."""

from __future__ import annotations

from collections.abc import Mapping

from flexgroup.graph import _elementwise, _moves, _weighted, _windows
from flexgroup.graph._call import Rule

RULES: Mapping[str, Rule] = {
    **_weighted.RULES,
    **_elementwise.RULES,
    **_windows.RULES,
    **_moves.RULES,
}

SHAPE_ONLY = frozenset(
    f"aten.{name}" for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "sym_size")
)
"""Operators that read nothing of an activation but its shape, so that their results are constants."""
