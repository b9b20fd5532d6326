"""Steps of linear layers on one vector: dense, or by groups along rows or columns, whichever is predicted cheapest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from flexgroup.engine._layout import PlaneRef, Vector
from flexgroup.engine._operations import LinearOp
from flexgroup.engine._plan import ARENA, Step, number, reference
from flexgroup.graph.ir import Array
from flexgroup.kernels import LinearKernel
from flexgroup.kernels.linear import pack_linear
from flexgroup.kernels.sparse_linear import MARGIN, SUM_BYTES, SparseLinearKernel, group_count, pack_groups

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

SIZES = (4, 8, 16)
LARGEST_TILE = 4

# One slot is a group of one weight. All weights are read once, so that wide vectors wait for the cache; a line is a
# loop that often ends in a mispredicted branch. Fitted to measured kernels.
SLOT = 2.0  # of the slots of `_choose`
DENSE_VECTOR, DENSE_LANE = 0.4, 0.075
GROUP, GROUP_WEIGHT = 0.8, 1 / 16
LINE = {"columns": 7.0, "rows": 3.0}
WORTH = 0.95  # of dense code's cost: what saves less is not worth tables


@dataclass(frozen=True, order=True)
class LinearChoice:
    """One way to run a layer, ordered by its predicted cost."""

    slots: float
    form: str  # "dense", "columns" or "rows"
    size: int
    groups: int


def choose_linear(weight: Array, lanes: int, *, sparse: bool) -> tuple[LinearChoice, float]:
    """The cheapest form of a layer, and the slots that dense code takes."""
    rows, columns = weight.shape
    dense = LinearChoice((DENSE_VECTOR + DENSE_LANE * lanes) * -(-rows // lanes) * columns, "dense", 1, rows * columns)
    candidates = [dense]
    pattern = weight != 0
    if sparse and not pattern.all():
        for form in ("columns", "rows"):
            for size in SIZES:
                if form == "rows" and size > columns:
                    continue
                groups, lines = group_count(pattern, form, size)
                slots = groups * (GROUP + GROUP_WEIGHT * size) + lines * LINE[form]
                candidates.append(LinearChoice(slots, form, size, groups))
    best = min(candidates)
    return best if best.slots < WORTH * dense.slots else dense, dense.slots


def _linear(builder: StepBuilder, op: LinearOp) -> Step:
    sparse = builder.sparse and op.scratch is not None
    choice, dense_slots = choose_linear(op.weight, builder.layout.lanes, sparse=sparse)
    kept = int(np.count_nonzero(op.weight))
    if choice.form == "dense":
        why = (
            "no zeros to skip"
            if kept == op.weight.size
            else "too few zeros, or zeros too scattered, to be faster than dense"
        )
        return replace(_dense(builder, op), useful_macs=kept, reason=why, slots=choice.slots * SLOT)
    group = f"{choice.size}x1" if choice.form == "columns" else f"1x{choice.size}"
    fill = kept / max(1, choice.groups * choice.size)
    gain = dense_slots / max(choice.slots, 1e-9)
    reason = f"{choice.groups} groups of {group}, {fill:.0%} full: predicted {gain:.1f}x faster than dense"
    return replace(_sparse(builder, op, choice, kept, reason), slots=choice.slots * SLOT)


def _dense(builder: StepBuilder, op: LinearOp) -> Step:
    rows, columns = op.weight.shape
    vectors = -(-rows // builder.layout.lanes)
    # Sums have 32 bits: a vector of shorter numbers takes several registers.
    largest = LARGEST_TILE * builder.element.register_bytes // SUM_BYTES
    tile = next(tile for tile in (4, 2, 1) if tile <= min(vectors, largest))
    weights, bias = pack_linear(op.weight, op.bias, tile, builder.layout.lanes)
    fields = {
        "input": _at(builder, op.x),
        "weights": builder.numbers(weights),
        "bias": builder.numbers(bias),
        "output": _at(builder, op.out),
        "columns": columns,
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    kernel = LinearKernel(tile, builder.element, op.curve)
    step = builder.by_range(op.name, kernel, fields, len(weights), rows * columns)
    return replace(step, bytes=(weights.size + rows + columns) * builder.element.bytes)


def _sparse(builder: StepBuilder, op: LinearOp, choice: LinearChoice, kept: int, reason: str) -> Step:
    assert op.scratch is not None
    rows, lanes, size = op.weight.shape[0], builder.layout.lanes, builder.element.bytes
    packed = pack_groups(op.weight, choice.form, choice.size)
    bias = np.zeros(-(-rows // lanes) * lanes, np.float32)
    bias[:rows] = op.bias
    kernel = SparseLinearKernel(choice.form, choice.size, builder.element, op.curve)
    fields = {
        "input": _at(builder, op.x),
        "ends": builder.constants.add(packed.ends),
        "places": builder.table(packed.starts * SUM_BYTES),
        "offsets": builder.table(packed.inputs * size),
        "weights": builder.numbers(packed.weights),
        "bias": builder.numbers(bias),
        "output": _at(builder, op.out),
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    parts: list[tuple[int, ...] | None] = []
    executed = 0
    for thread, (first, last) in enumerate(
        _bands(packed.starts, packed.ends, len(bias) // lanes, lanes, builder.threads)
    ):
        if first == last:
            parts.append(None)
            continue
        # Groups that start above a band and reach into it are summed by both its threads.
        above = choice.size - 1 if choice.form == "columns" else 0
        lines = np.searchsorted(packed.starts, [first * lanes - above, last * lanes])
        executed += int(np.diff(np.concatenate([[0], packed.ends])[lines])[0]) * choice.size
        part = {
            "first": int(lines[0]),
            "last": int(lines[1]),
            "first_vector": first,
            "last_vector": last,
            "scratch": _at(builder, op.scratch) + (2 * thread + 1) * MARGIN * SUM_BYTES,
        }
        parts.append(tuple(kernel.signature.pack(fields | part)))
    moved = (packed.weights.size + sum(op.weight.shape)) * size + packed.inputs.size * 4
    return Step(op.name, kernel, tuple(parts), executed, kept, op.weight.size, reason, bytes=moved)


def _bands(starts: np.ndarray, ends: np.ndarray, vectors: int, lanes: int, threads: int) -> list[tuple[int, int]]:
    """Vectors of the output for every thread, with about equal numbers of groups."""
    done = np.zeros(vectors + 1)
    lines = np.searchsorted(starts, np.arange(1, vectors + 1) * lanes)
    done[1:] = np.concatenate([[0], ends])[lines] + np.arange(1, vectors + 1)
    cuts = [int(np.searchsorted(done, done[-1] * thread / threads)) for thread in range(threads)] + [vectors]
    return list(pairwise(cuts))


def _at(builder: StepBuilder, vector: Vector) -> int:
    return reference(ARENA, builder.layout.offset(PlaneRef(vector.buffer, 0)))


BUILDERS: Mapping[type, Callable[..., Step]] = {LinearOp: _linear}
