"""How threads share a convolution outside of regions: positions in equal parts, or output channels with as many groups.

What a thread writes after another has read it, it waits for, line after line: the other's copy has to go first. (On
Zen 4 that takes 7 ns a cache line where the cores share a cache, 28 where they do not; reading what another wrote takes
1 or 3.) So it matters who reads what. Depthwise layers, pools and copies have planes of their own for every thread. A
convolution of few inputs before one, which has channels of its own, hands over its inputs only; one of many inputs
before another convolution, at positions of its own, hands over nothing but borders.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import DENSE_FORMS, best_tile, conv_work
from flexgroup.engine._operations import ConvOp, Operation
from flexgroup.engine._work import ConvWork, Tiles
from flexgroup.kernels import LINE
from flexgroup.kernels.channels import ChannelsKernel
from flexgroup.kernels.conv import ConvKernel

if TYPE_CHECKING:
    from flexgroup.engine._conv_layers import ConvLayer
    from flexgroup.engine._layout import Image
    from flexgroup.engine._rows import Rows
    from flexgroup.engine._steps import Fields, StepBuilder

PLANES, POSITIONS = "planes", "positions"  # what threads share an operation by
UNEVEN = 1.15  # times an equal part: threads that share so badly would wait too long for each other
HANDED = 20.0  # slots of a cache line of an input that others wrote, or read too, when it is written again
HANDED_ON = 10.0  # of an output: convolutions multiply while their stores wait
ROW = 0.5  # of a group's time: what a row takes beside its groups


@dataclass(frozen=True)
class Share:
    """What a thread computes: output channels, and arguments of the kernel, which begins ``start`` bytes further on."""

    channels: tuple[int, int]  # first, last (exclusive)
    fields: Fields = field(default_factory=dict)
    start: int = 0


class Handing:
    """By buffer, what threads share the operations by that write it and that read it."""

    def __init__(self) -> None:
        self._written: dict[int, str] = {}
        self._read: dict[int, set[str]] = {}

    def expect(self, operation: Operation, rows: Rows, *, by_rows: bool) -> None:
        """Note what an operation reads, in a chain or region, ``by_rows``, or alone, before its steps are made."""
        by = POSITIONS if by_rows or isinstance(operation, ConvOp) else PLANES
        for use in rows.uses:
            for buffer in use.image.buffers:
                self._read.setdefault(buffer, set()).add(by)
        if by_rows:
            self.note(rows.out, POSITIONS)

    def note(self, image: Image, by: str) -> None:
        """Note that what writes ``image`` is shared by planes or positions."""
        self._written.update(dict.fromkeys(image.buffers, by))

    def is_written(self, image: Image, by: str) -> bool:
        return any(self._written.get(buffer, PLANES) == by for buffer in image.buffers)

    def is_read(self, image: Image, by: str) -> bool:
        return any(by in self._read.get(buffer, (PLANES,)) for buffer in image.buffers)


def share_out(
    builder: StepBuilder, conv: ConvLayer, kernel: ConvKernel | ChannelsKernel, tiles: int
) -> tuple[ConvKernel | ChannelsKernel, list[Share | None]]:
    """The share of every thread, None where nothing is left for it, and the kernel that computes all of them."""
    threads, whole = builder.threads, (0, sum(map(len, conv.patterns)))
    even = _even_tiles(builder, conv, kernel) if isinstance(kernel, ConvKernel) and threads > 1 else None
    if threads > 1 and len(conv.patterns) == 1 and _strips(conv) >= threads:
        bands, longest = _channels(conv, threads)
        if _by_channels(builder, conv, kernel, longest, tiles, even):
            every: Fields = {"first_tile": 0, "last_tile": tiles}
            builder.handing.note(conv.op.out, PLANES)
            return kernel, [Share(band, every) if band[0] < band[1] else None for band in bands]
    builder.handing.note(conv.op.out, POSITIONS)
    if isinstance(kernel, ConvKernel) and even is not None:
        step = kernel.held * kernel.pitch or builder.layout.vector_bytes
        tail = max(each.tail for _, each in even)
        shares = [Share(whole, _fields_of(each, step), first * step) for first, each in even]
        return replace(kernel, tile=even[0][1].size, tail=tail, stacked=0), list(shares)
    cuts = [tiles * thread // threads for thread in range(threads + 1)]
    parts = [Share(whole, {"first_tile": a, "last_tile": b}) if a < b else None for a, b in pairwise(cuts)]
    return kernel, parts


def _even_tiles(builder: StepBuilder, conv: ConvLayer, kernel: ConvKernel) -> list[tuple[int, Tiles]] | None:
    """`even_tiles` of the largest size that can be had."""
    vectors, threads = _vectors(conv), builder.threads
    own = best_tile(kernel.rows, -(-vectors // threads), builder.target)
    sizes = dict.fromkeys((kernel.longest, *range(min(own, kernel.longest), 0, -1)))
    return next((even for size in sizes if (even := even_tiles(size, vectors, threads)) is not None), None)


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


def _by_channels(
    builder: StepBuilder,
    conv: ConvLayer,
    kernel: ConvKernel | ChannelsKernel,
    longest: float,
    tiles: int,
    even: list[tuple[int, Tiles]] | None,
) -> bool:
    """Whether threads have channels of their own, not positions: where that is less work, and less is handed over.

    ``longest`` is the longest share of the groups, with channels; ``even`` are the tiles of every thread, without.
    """
    threads = builder.threads
    if isinstance(kernel, ChannelsKernel):  # a thread reads its own weights only
        return _is_even(_strips(conv), threads) or not _is_even(tiles, threads)
    choice = conv.choice
    form = (choice.form, choice.rows, kernel.longest)
    work = conv_work(conv.layer, *form, builder.target, choice.panel, slabs=choice.slabs)
    assert isinstance(work, ConvWork)
    whole = work.slots(builder.costs)
    if even is None:
        most = whole * -(-tiles // threads) / tiles
    else:  # every thread reads all weights
        most = max(replace(work, tiles=own).slots(builder.costs) for _, own in even)
    by_channels, by_positions = _handed(builder, conv)
    return whole * longest + by_channels < most + by_positions


def _handed(builder: StepBuilder, conv: ConvLayer) -> tuple[float, float]:
    """Slots that a thread waits since lines are handed over: if threads have channels of their own, or positions.

    Images that do not fit the cache are handed over through memory, without waiting; but every thread reads all inputs
    for channels of its own.
    """
    op, handing, threads = conv.op, builder.handing, builder.threads
    row = builder.layout.pitch(op.out) * builder.element.bytes / LINE
    inputs, outputs = conv.layer.planes * row * op.out.height, len(op.out.planes) * row * op.out.height
    cache, others = builder.target.cache_bytes / LINE, (threads - 1) / threads
    read, written = HANDED * (inputs <= cache), HANDED_ON * others * (outputs <= cache)
    again = builder.costs.near if inputs <= cache else builder.costs.far_read
    by_channels = read * inputs + again * (threads - 1) * inputs
    by_channels += written * outputs * handing.is_read(op.out, POSITIONS)
    mapped = builder.rows_of(op)
    assert mapped is not None, "convolutions can run in bands"
    border = conv.layer.planes * row * max((use.below - use.above for use in mapped.uses), default=0)
    is_split = any(handing.is_written(image, PLANES) for image in op.reads)
    by_positions = read * others * (inputs if is_split else border)
    by_positions += written * outputs * handing.is_read(op.out, PLANES)
    return by_channels / threads, by_positions / threads


def _is_even(items: int, threads: int) -> bool:
    return -(-items // threads) <= UNEVEN * items / threads


def _vectors(conv: ConvLayer) -> int:
    return conv.layer.vectors(conv.choice.form, conv.choice.rows)


def _strips(conv: ConvLayer) -> int:
    return -(-sum(map(len, conv.patterns)) // conv.choice.rows)


def _channels(conv: ConvLayer, threads: int) -> tuple[list[tuple[int, int]], float]:
    """Channels for every thread, whole strips, so that the longest share is as short as possible; and that share."""
    choice, height = conv.choice, len(conv.layer.pattern)
    strips = np.minimum(np.arange(_strips(conv) + 1) * choice.rows, height)  # where they begin
    dense = choice.form in DENSE_FORMS
    groups = np.ones(height, np.int64) if dense else conv.layer.groups_of_rows(choice.form, choice.rows)
    begins = ends = _before(groups + ROW)[strips]
    if choice.form == "ring":  # groups that start above a share are cut, and computed in both
        above = _before(groups)
        begins = ends - (above[strips] - above[np.maximum(strips - choice.rows + 1, 0)])
    bands = list(pairwise(even_cuts(begins, ends, threads)))
    longest = max(float(ends[last] - begins[first]) for first, last in bands) / float(ends[-1])
    return [(int(strips[first]), int(strips[last])) for first, last in bands], longest


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
