"""Which rule lowers which operator of torch."""

from __future__ import annotations

from collections.abc import Mapping

from flexgroup.graph import (
    _composed,
    _curves,
    _einsum,
    _elementwise,
    _moves,
    _norms,
    _patches,
    _resize,
    _shuffles,
    _tokens,
    _weighted,
    _windows,
)
from flexgroup.graph._call import Call, Result, Rule, Unsupported
from flexgroup.graph._hints import hint_for
from flexgroup.graph._pointwise import pointwise
from flexgroup.graph._value import BATCH_MOVES

RULES: Mapping[str, Rule] = {
    **_weighted.RULES,
    **_elementwise.RULES,
    **_curves.RULES,
    **_resize.RULES,
    **_shuffles.RULES,
    **_windows.RULES,
    **_norms.RULES,
    **_moves.RULES,
    **_patches.RULES,
    **_tokens.RULES,
    **_einsum.RULES,
    **_composed.RULES,
}

POINTWISE = frozenset((*_elementwise.RULES, *_curves.RULES))
"""Operators that treat every number alike, so that views of their operands need not be put in torch's order."""

_ANYWHERE = (*_weighted.BATCH_ANYWHERE, "aten.mean", "aten.sum", "aten.amax", "aten.max", "aten.min")
_MOVING = (_moves, _patches, _tokens, _einsum, _norms, _composed)
MOVES_BATCH = frozenset((*POINTWISE, *_ANYWHERE, *(operator for rules in _MOVING for operator in rules.RULES)))
"""Operators whose rules know where the batch is; the results of all others must have it first."""

SHAPE_ONLY = frozenset(
    f"aten.{name}" for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "sym_size")
)
"""Operators that read nothing of an activation but its shape, so that their results are constants."""


def apply_rule(operator: str, call: Call) -> Result:
    """What ``call`` of ``operator``, written ``aten.relu``, lowers to."""
    rule = RULES.get(operator)
    if rule is None:
        raise Unsupported(hint_for(operator))
    if operator not in MOVES_BATCH and call.result[:1] != (call.batch,):
        raise Unsupported(BATCH_MOVES)
    return pointwise(call, rule) if operator in POINTWISE else rule(call)
