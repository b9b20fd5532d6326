"""How threads share a convolution: positions in equal parts, or output channels whose groups are as many."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import DENSE_FORMS, best_tile
from flexgroup.engine._work import Tiles
from flexgroup.kernels.channels import ChannelsKernel
from flexgroup.kernels.conv import ConvKernel

if TYPE_CHECKING:
    from flexgroup.engine._steps import Fields, StepBuilder
    from flexgroup.engine._steps_conv import ConvLayer

UNEVEN = 1.15  # times an equal part: threads that share so badly would wait too long for each other
MANY = 2  # tiles for every thread: then its own, all alike, may be smaller
ROW = 0.5  # of a group's time: what a row takes beside its groups


@dataclass(frozen=True)
class Share:
    """What a thread computes: output channels, and arguments of the kernel, which begins ``start`` bytes further on."""

    channels: tuple[int, int]  # first, last (exclusive)
    fields: Fields = field(default_factory=dict)
    start: int = 0


def share_out(
    builder: StepBuilder, conv: ConvLayer, kernel: ConvKernel | ChannelsKernel, tiles: int
) -> tuple[ConvKernel | ChannelsKernel, list[Share | None]]:
    """The share of every thread, None where nothing is left for it, and the kernel that computes all of them."""
    threads, whole = builder.threads, (0, sum(map(len, conv.patterns)))
    vectors = conv.layer.vectors(conv.choice.form, conv.choice.rows)
    is_long = isinstance(kernel, ConvKernel) and vectors >= MANY * kernel.tile * threads
    if not is_long and _by_channels(conv, tiles, threads):
        every: Fields = {"first_tile": 0, "last_tile": tiles}
        return kernel, [Share(band, every) if band[0] < band[1] else None for band in _channels(conv, threads)]
    if isinstance(kernel, ConvKernel) and threads > 1:
        own = best_tile(kernel.rows, -(-vectors // threads), builder.target)
        for size in dict.fromkeys((kernel.tile, *range(min(own, kernel.tile), 0, -1))):
            even = even_tiles(size, vectors, threads)
            if even is not None:
                step = kernel.held * kernel.pitch or builder.layout.vector_bytes
                tail = max(each.tail for _, each in even)
                shares = [Share(whole, _fields_of(each, step), first * step) for first, each in even]
                return replace(kernel, tile=size, tail=tail), list(shares)
    cuts = [tiles * thread // threads for thread in range(threads + 1)]
    parts = [Share(whole, {"first_tile": a, "last_tile": b}) if a < b else None for a, b in pairwise(cuts)]
    return kernel, parts


def even_tiles(size: int, vectors: int, threads: int) -> list[tuple[int, Tiles]] | None:
    """For every thread the first of its vectors, and their tiles: of ``size`` vectors, then of one less.

    None where there is no such cut.
    """
    cuts = [vectors * thread // threads for thread in range(threads + 1)]
    parts = []
    for first, last in pairwise(cuts):
        count = -(-(last - first) // size)
        short = count * size - (last - first)
        if not count or short > count:
            return None
        parts.append((first, Tiles(size, count - short, size - 1, short) if short else Tiles(size, count)))
    return parts


def _fields_of(tiles: Tiles, step: int) -> Fields:
    """The arguments that say how a thread's vectors are cut."""
    last_start = tiles.last_start * step
    return {"first_tile": 0, "last_tile": tiles.count, "whole_tiles": tiles.whole, "last_start": last_start}


def _by_channels(conv: ConvLayer, tiles: int, threads: int) -> bool:
    """Whether threads have channels of their own: where tiles alone would leave some of them idle."""
    strips = -(-sum(map(len, conv.patterns)) // conv.choice.rows)
    if threads == 1 or len(conv.patterns) > 1 or strips < threads:
        return False
    if conv.choice.form == "channels" and _is_even(strips, threads):
        return True  # a thread reads its own weights only
    return not _is_even(tiles, threads)


def _is_even(items: int, threads: int) -> bool:
    return -(-items // threads) <= UNEVEN * items / threads


def _channels(conv: ConvLayer, threads: int) -> list[tuple[int, int]]:
    """Channels for every thread, whole strips, so that the longest share is as short as possible."""
    choice, height = conv.choice, len(conv.layer.pattern)
    strips = np.minimum(np.arange(-(-height // choice.rows) + 1) * choice.rows, height)  # where they begin
    dense = choice.form in DENSE_FORMS
    groups = np.ones(height, np.int64) if dense else conv.layer.groups_of_rows(choice.form, choice.rows)
    begins = ends = _before(groups + ROW)[strips]
    if choice.form == "ring":  # groups that start above a share are cut, and computed in both
        above = _before(groups)
        begins = ends - (above[strips] - above[np.maximum(strips - choice.rows + 1, 0)])
    return [(int(strips[first]), int(strips[last])) for first, last in pairwise(even_cuts(begins, ends, threads))]


def _before(work: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The work of all rows before each, and at the end of all."""
    return np.concatenate([[0], np.cumsum(work)])


def even_cuts(begins: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], threads: int) -> list[int]:
    """The cuts of a line of items into ``threads`` parts, the longest as short as possible.

    Items a..b (exclusive) take ``ends[b] - begins[a]``; both grow. Found by bisection of the longest part's length.
    """
    last = len(ends) - 1

    def within(limit: float) -> list[int]:
        cuts = [0]
        for _ in range(threads):
            reached = int(np.searchsorted(ends, begins[cuts[-1]] + limit, side="right")) - 1
            cuts.append(max(cuts[-1], min(reached, last)))
        return cuts

    low, high = 0.0, float(ends[-1] - begins[0])
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle)[-1] == last else (middle, high)
    return within(high)
