"""Which kernel a convolution gets: a small model of what every form would cost, in cycles for vectors of one tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexgroup.kernels.conv import ConvKernel, group_starts, largest_tile
from flexgroup.kernels.target import Element, Target

HEIGHTS = (1, 2, 4, 8)

# One slot is one vector multiply-add or one aligned vector load, which overlap; a load that is displaced by a tap
# mostly crosses a cache line and counts twice. The rest was fitted to measured kernels (benchmarks/kernels.py).
ALIGNED_LOAD, DISPLACED_LOAD = 1.0, 2.0
GROUP_OVERHEAD = 1.0
ROW_OVERHEAD = 9.0  # an inner loop's exit, most of it a mispredicted branch
STORE_SLOTS = 3.0  # bias, clamp, mask and store of one vector


@dataclass(frozen=True)
class Choice:
    """A kernel for a layer, with what was predicted for it and for dense code (slots of one multiply-add)."""

    form: str
    rows: int
    tile: int
    slots: float
    dense_slots: float
    groups: int
    fill: float  # share of the groups' weights that are non-zero
    zeros: bool  # whether there is any zero to skip

    @property
    def reason(self) -> str:
        """One sentence for `explain`."""
        speedup = self.dense_slots / max(self.slots, 1e-9)
        if self.form == "dense":
            return "too few zeros, or zeros too scattered, to be faster than dense" if self.zeros else "no zeros to skip"
        return (
            f"{self.groups} groups of {self.rows}x1, {self.fill:.0%} full: predicted {speedup:.1f}x faster than dense"
        )


def best_tile(rows: int, vectors: int, target: Target) -> int:
    """The tile height that covers ``vectors`` with the least work."""

    def slots(tile: int) -> float:
        return -(-vectors // tile) * (tile * rows + rows + 2.0)

    return min(range(1, min(largest_tile(rows, target), vectors) + 1), key=lambda tile: (slots(tile), -tile))


def _slots(form: str, rows: int, tile: int, vectors: int, groups: int, height: int, load: float) -> float:
    group = max(rows * tile, load * tile + rows) + GROUP_OVERHEAD
    loops = height if form == "ring" else -(-height // rows)
    tiles = -(-vectors // tile)
    return tiles * (groups * group + height * tile * STORE_SLOTS + loops * ROW_OVERHEAD)


def choose(
    pattern: npt.NDArray[np.bool_],
    vectors: int,
    target: Target,
    *,
    displaced: bool,
    dense: bool,
    heights: tuple[int, ...] = HEIGHTS,
) -> Choice:
    """The cheapest kernel for one layer's ``pattern`` of non-zeros (M x K) on images of ``vectors`` vectors a plane.

    ``displaced`` says that taps differ in their positions (kernels larger than 1x1). ``dense`` disregards zeros: the baseline that a speed-up is measured against.
    """
    height, width = pattern.shape
    load = DISPLACED_LOAD if displaced else ALIGNED_LOAD
    candidates: list[tuple[float, str, int, int, int]] = []
    for rows in [rows for rows in heights if rows in (1, 4, 8)] or list(heights):
        tile = best_tile(rows, vectors, target)
        groups = -(-height // rows) * width
        candidates.append((_slots("dense", rows, tile, vectors, groups, height, load), "dense", rows, tile, groups))
    dense_slots = min(candidates)[0]
    if not dense:
        for rows in heights:
            tile = best_tile(rows, vectors, target)
            for form in ("strip", "ring") if rows > 1 else ("ring",):
                groups = int(group_starts(pattern, form, rows).sum())
                candidates.append((_slots(form, rows, tile, vectors, groups, height, load), form, rows, tile, groups))
    slots, form, rows, tile, groups = min(candidates)
    fill = float(pattern.sum()) / max(1, groups * rows)
    return Choice(form, rows, tile, slots, dense_slots, groups, fill, not pattern.all())


def kernel_for(choice: Choice, residual: bool, element: Element) -> ConvKernel:
    """The kernel value of a choice."""
    return ConvKernel(choice.form, choice.rows, choice.tile, residual, element)
