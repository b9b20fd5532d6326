"""The precisions that a network can be compiled to, and what they mean on a target."""

from __future__ import annotations

from dataclasses import replace

from flexgroup.engine._costs import Costs
from flexgroup.kernels import Element

CONVERSION = 1.0  # slots: a vector that changes its type on the way to or from memory


def with_conversions(costs: Costs, element: Element) -> Costs:
    """``costs`` for kernels whose every load and store converts numbers, where ``element`` is stored otherwise."""
    if not element.converts:
        return costs
    return replace(
        costs,
        aligned_load=costs.aligned_load + CONVERSION,
        displaced_load=costs.displaced_load + CONVERSION,
        weight=costs.weight + CONVERSION,
        store=costs.store + CONVERSION,
        window=costs.window + CONVERSION / 2,
        window_strided=costs.window_strided + CONVERSION / 2,
    )
