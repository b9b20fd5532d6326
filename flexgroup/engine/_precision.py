"""The precisions that a network can be compiled to, and what they mean on a target."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np

from flexgroup._errors import FlexgroupError
from flexgroup.engine._costs import Costs
from flexgroup.graph.ir import Graph
from flexgroup.kernels import F16, F16_IN_F32, F32, TARGETS, Element, Target

PRECISIONS = ("fp32", "fp16")
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}  # of the largest output: far above rounding, far below any mistake
LARGEST = float(np.finfo(np.float16).max)
CONVERSION = 1.0  # slots: a vector that changes its type on the way to or from memory


def element_for(target: Target, precision: str, accumulate: str | None = None) -> Element:
    """How numbers are stored and computed with on ``target``.

    ``precision`` is "fp32" or "fp16". ``accumulate`` says what fp16 numbers are multiplied and added in: "fp16",
    "fp32", or None for fp16 where the target has instructions for it, and fp32 elsewhere. Raises `FlexgroupError`
    for other names, and for targets that cannot do it.
    """
    if precision not in PRECISIONS:
        raise FlexgroupError(f"precision={precision!r} is unknown; choose {' or '.join(PRECISIONS)}")
    if accumulate not in (None, *PRECISIONS):
        raise FlexgroupError(f"accumulate={accumulate!r} is unknown; choose {' or '.join(PRECISIONS)}, or leave it out")
    if precision == "fp32":
        if accumulate == "fp16":
            raise FlexgroupError("accumulate='fp16' is for precision='fp16'; fp32 numbers are added in fp32")
        return F32
    if not target.half:
        able = ", ".join(name for name, each in TARGETS.items() if each.half)
        raise FlexgroupError(
            f"target {target.name} has no instructions for fp16 numbers; use precision='fp32', or one of {able}"
        )
    has_arithmetic = target.half == "arithmetic"
    if accumulate == "fp16" and not has_arithmetic:
        raise FlexgroupError(
            f"target {target.name} has no fp16 arithmetic, only conversions; leave accumulate='fp16' out: numbers are "
            "then stored in fp16 and added in fp32"
        )
    return F16 if has_arithmetic and accumulate != "fp32" else F16_IN_F32


def precision_of(element: Element) -> str:
    """ "fp32" or "fp16"."""
    return "fp32" if element == F32 else "fp16"


def in_words(element: Element, target: Target) -> str:
    """What is stored and computed in which precision, in one sentence."""
    if element == F32:
        return "fp32"
    if element == F16:
        return "fp16: stored, multiplied and added in 16 bits; long sums, softmax and norms in 32"
    why = "" if target.half == "arithmetic" else f", as {target.name} has no fp16 arithmetic"
    return f"fp16: stored in 16 bits, multiplied and added in 32{why}"


def advice(element: Element) -> str:
    """What to do about results that differ too much from torch."""
    if element == F32:
        return "please report this with the model"
    narrower = "accumulate='fp32', " if element == F16 else ""
    return (
        f"fp16 has 11 bits and numbers from 6e-8 to {LARGEST:.0f}: activations may be beyond that; use {narrower}"
        "precision='fp32', or allow more with tolerance"
    )


def check_range(graph: Graph) -> None:
    """Raise `FlexgroupError`, with the names of all layers, if weights are too large for fp16."""
    too_large = []
    for node in graph.nodes:
        arrays = [getattr(node.op, field.name) for field in dataclasses.fields(node.op)]
        sizes = [np.abs(array[np.isfinite(array)]).max(initial=0) for array in arrays if isinstance(array, np.ndarray)]
        if max(sizes, default=0) > LARGEST:
            too_large.append(f"{node.name} ({max(sizes):.3g})")
    if too_large:
        raise FlexgroupError(
            f"numbers of these layers are beyond {LARGEST:.0f}, the largest of fp16: {', '.join(too_large)}; use "
            "precision='fp32', or scale the layers down"
        )


def with_conversions(costs: Costs, element: Element) -> Costs:
    """``costs`` for kernels whose every load and store converts numbers, where ``element`` is stored otherwise."""
    if not element.converts:
        return costs
    return replace(
        costs,
        aligned_load=costs.aligned_load + CONVERSION,
        displaced_load=costs.displaced_load + CONVERSION,
        weight=costs.weight + CONVERSION,
        position=costs.position + CONVERSION,
        turn=costs.turn + CONVERSION,
        store=costs.store + CONVERSION,
        window=costs.window + CONVERSION / 2,
        window_strided=costs.window_strided + CONVERSION / 2,
    )
