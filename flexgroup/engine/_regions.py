"""Regions: runs of operations in which every thread has rows of its own of every image, in memory of its own.

Threads that share images wait for each other's cache lines, and prefetchers bring each of them lines that the other is
about to write. In a region each thread keeps its rows apart, as processes of a cluster do (domain decomposition), with
the rows above and below that its windows look at. Those it copies from its neighbours (halo exchange): only there do
threads wait for each other. What a thread computes, and in which order, depends on nobody's number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from flexgroup.engine._conv_layers import conv_layer
from flexgroup.engine._estimate import estimate
from flexgroup.engine._layout import ZERO, Image, Layout, Piece
from flexgroup.engine._operations import ConvOp, CopyOp, Operation
from flexgroup.engine._rows import Rows, operands
from flexgroup.engine._shares import HANDED
from flexgroup.engine._work import SHARE_OF_CACHE
from flexgroup.kernels import LINE

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder
    from flexgroup.engine._steps_chain import Chain

WAIT = 600.0  # slots that threads wait for each other, and for what they copy, at an exchange
MOST = 64  # operations of which a region is sought at a time


def cuts(height: int, threads: int) -> list[int]:
    """Where the rows of every thread begin; the last is the height."""
    return [(2 * height * thread + threads) // (2 * threads) for thread in range(threads + 1)]


def _cuts_of(layout: Layout, image: Image, threads: int) -> list[int]:
    """The `cuts` of the buffer that an image lies in, which may have more rows."""
    return cuts(max(layout.buffers[buffer].height for buffer in image.buffers), threads)


@dataclass(frozen=True, eq=False)
class Region:
    """Operations first..last (exclusive) of a network, of which every thread computes its rows.

    ``halos`` has, for every buffer that is ``divided``, the rows above and below a thread's own that are read too. A
    thread computes those of ``repeated`` buffers itself, and copies the others.
    """

    first: int
    operations: tuple[Operation, ...]
    rows: tuple[Rows, ...]
    divided: frozenset[int]
    halos: dict[int, tuple[int, int]]
    repeated: frozenset[int]
    waits: frozenset[int]  # operations (counted from the first) after which all threads wait for each other
    threads: int

    @property
    def last(self) -> int:
        return self.first + len(self.operations)

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """The operations between waits, the last of each exclusive."""
        ends = [self.first + index + 1 for index in sorted(self.waits)]
        return list(zip([self.first, *ends], ends, strict=False))

    def own(self, layout: Layout, image: Image, thread: int) -> tuple[int, int]:
        """The rows of ``image`` that a thread computes: those of the buffer that it lies in."""
        first, last = _cuts_of(layout, image, self.threads)[thread : thread + 2]
        return min(first, image.height), image.height if thread == self.threads - 1 else min(last, image.height)

    def computed(self, layout: Layout, image: Image, thread: int) -> tuple[int, int]:
        """The rows of ``image`` that a thread writes: its own, and those around them that it computes too."""
        first, last = self.own(layout, image, thread)
        above, below = _repeated_rows(image, self.halos, self.repeated)
        return max(first - above, 0), min(last + below, image.height)

    def exchanged(self, index: int) -> tuple[int, ...]:
        """The divided buffers whose halos are copied after an operation: it is the last that writes them."""
        found = []
        for buffer in sorted(self.rows[index].out.buffers & self.divided):
            later = any(buffer in rows.out.buffers for rows in self.rows[index + 1 :])
            if self.halos[buffer] != (0, 0) and not later and buffer not in self.repeated:
                found.append(buffer)
        return tuple(found)


def region_of(builder: StepBuilder, operations: Sequence[Operation], first: int, last: int) -> Region:
    """Operations first..last (exclusive) as a region."""
    layout, threads = builder.layout, builder.threads
    own = tuple(operations[first:last])
    rows = tuple(rows for rows in map(builder.rows_of, own) if rows is not None)
    assert len(rows) == len(own), "the others are not eligible"
    divided = _divided(builder, operations, first, last, rows)
    repeated = _repeated(layout, own, rows) & divided
    halos: dict[int, tuple[int, int]] = {}
    for each in reversed(rows):  # readers come after writers
        for buffer in each.out.buffers & divided:
            halos[buffer] = _halo(layout, rows, buffer, halos, repeated, threads)
    region = Region(first, own, rows, divided, halos, repeated, frozenset(), threads)
    waits = {index for index in range(len(own)) if region.exchanged(index) or _is_crossed(layout, region, index)}
    return replace(region, waits=frozenset(waits | {len(own) - 1}))


def _is_crossed(layout: Layout, region: Region, index: int) -> bool:
    """Whether threads read rows of a whole image that others wrote in an operation."""
    out = region.rows[index].out
    return any(
        layout.reads_border(out)
        or (use.above, use.below) != (0, 0)
        or _repeated_rows(reader.out, region.halos, region.repeated) != (0, 0)
        for buffer in out.buffers - region.divided
        for reader in region.rows[index + 1 :]
        for use in reader.uses
        if buffer in use.image.buffers
    )


def _repeated(layout: Layout, operations: Sequence[Operation], rows: Sequence[Rows]) -> frozenset[int]:
    """The buffers of which some rows are better computed twice than copied from another thread.

    Those are slices, after each of which threads would wait, and what comes from the caller's arrays.
    """
    copies = [each for op, each in zip(operations, rows, strict=True) if isinstance(op, CopyOp) and not each.uses]
    return frozenset(layout.slices).union(*(each.out.buffers for each in copies))


def _repeated_rows(image: Image, halos: Mapping[int, tuple[int, int]], repeated: frozenset[int]) -> tuple[int, int]:
    """The rows above and below its own that a thread computes of an image."""
    found = [halos[buffer] for buffer in image.buffers if buffer in repeated]
    return max((above for above, _ in found), default=0), max((below for _, below in found), default=0)


def _divided(
    builder: StepBuilder, operations: Sequence[Operation], first: int, last: int, rows: Sequence[Rows]
) -> frozenset[int]:
    """The buffers that live in pieces: nobody outside of the region uses them."""
    layout = builder.layout
    inside = {buffer for each in rows for buffer in each.out.buffers if buffer >= 0}
    divided = {b for b in inside if first <= layout.buffers[b].born and layout.buffers[b].dies < last}
    together = [each.out.buffers for each in rows]
    for operation, mapped in zip(operations[first:last], rows, strict=True):
        together += operands(operation, mapped)
    changed = True
    while changed:
        changed = False
        for buffers in together:
            mine = buffers & divided
            alike = len({tuple(cuts(layout.buffers[b].height, builder.threads)) for b in mine}) <= 1
            if mine and (mine != buffers or ZERO in buffers or not alike):
                divided -= mine
                changed = True
    return frozenset(divided)


def _halo(
    layout: Layout,
    rows: Sequence[Rows],
    buffer: int,
    halos: Mapping[int, tuple[int, int]],
    repeated: frozenset[int],
    threads: int,
) -> tuple[int, int]:
    """Rows above and below a thread's own that some reader of a divided buffer looks at, beyond the image too.

    ``halos`` has those of what the readers write.
    """
    mine = cuts(layout.buffers[buffer].height, threads)
    above = below = 0
    for each in rows:
        theirs = _cuts_of(layout, each.out, threads)
        for use in each.uses:
            if buffer in use.image.buffers:
                more = _repeated_rows(each.out, halos, repeated)
                for thread in range(threads):
                    first, last = max(theirs[thread] - more[0], 0), min(theirs[thread + 1] + more[1], theirs[-1])
                    low, high = use.rows(first, last)
                    above = max(above, mine[thread] - low)
                    below = max(below, high - mine[thread + 1])
    return above, below


def find_regions(builder: StepBuilder, operations: Sequence[Operation], chains: Sequence[Chain]) -> list[Region]:
    """The regions of a network, in order; none on one thread, or where the target says nothing of its caches."""
    if builder.threads == 1 or not builder.target.cache_bytes:
        return []
    longer = [chain for chain in chains if len(chain.operations) > 1]
    chained = {index for chain in longer for index in range(chain.first, chain.last)}
    gains = [None if index in chained else _gain(builder, each) for index, each in enumerate(operations)]
    regions: list[Region] = []
    first = 0
    while first < len(gains):
        if gains[first] is None:
            first += 1
            continue
        last = first
        while last < len(gains) and gains[last] is not None:
            last += 1
        regions += _best(builder, operations, first, [each for each in gains[first:last] if each is not None])
        first = last
    return regions


def _best(
    builder: StepBuilder, operations: Sequence[Operation], first: int, gains: Sequence[tuple[float, float]]
) -> list[Region]:
    """The regions that gain most of a run of operations that may all be in some."""
    count = len(gains)
    best = [0.0] * (count + 1)
    begins: list[int | None] = [None] * (count + 1)
    for last in range(1, count + 1):
        best[last] = best[last - 1]
        total = 0.0
        for start in range(last - 1, max(-1, last - 1 - MOST), -1):
            total += sum(gains[start])
            gain = best[start] + total - gains[start][1]  # its first operation reads what is not divided
            if last - start > 1 and gain > best[last]:
                best[last], begins[last] = gain, start
    regions: list[Region] = []
    at = count
    while at > 0:
        begin = begins[at]
        if begin is not None:
            regions.append(region_of(builder, operations, first + begin, first + at))
        at = at - 1 if begin is None else begin
    return [region for region in reversed(regions) if region.divided]


def _gain(builder: StepBuilder, operation: Operation) -> tuple[float, float] | None:
    """Slots that an operation costs less if every thread computes its rows, and if what it reads is divided.

    None where that is impossible.
    """
    rows = builder.rows_of(operation)
    layout, threads, costs = builder.layout, builder.threads, builder.costs
    if rows is None or min(rows.out.buffers) < 0:
        return None
    height = rows.out.height
    own = cuts(height, threads)
    if any(cut % rows.grain for cut in own):
        return None
    if height < 2 * threads or layout.pitch(rows.out) < layout.lanes:
        return None
    if isinstance(operation, CopyOp) and not isinstance(operation.target, Image):
        return None
    most = max(last - first for first, last in pairwise(own))
    cache = SHARE_OF_CACHE * builder.target.cache_bytes

    def lines(image: Image, count: int) -> float:
        return image.distinct * count * layout.pitch(image) * layout.element_bytes / LINE

    def is_near(image: Image) -> bool:
        return lines(image, image.height) * LINE < cache * threads

    conv = conv_layer(builder, operation, height) if isinstance(operation, ConvOp) else None
    alone = estimate(builder, operation, height, conv=conv)
    mine = estimate(builder, operation, most, conv=conv, windowed=is_near)
    assert alone is not None
    assert mine is not None
    handed = sum(lines(use.image, use.image.height) for use in rows.uses)
    halo = sum(lines(use.image, max(0, use.below - use.above)) for use in rows.uses)
    gain, kept = alone.slots(costs) / threads - mine.slots(costs), HANDED * handed * (threads - 1) / threads**2
    if rows.uses and all(use.image.buffers <= layout.slices for use in rows.uses):
        return gain, kept  # nobody waits for them, and nothing is copied
    wait = WAIT * any(use.above or use.below for use in rows.uses)
    return gain, kept - wait - (HANDED + 2 * costs.near) * halo / threads


def pieces(layout: Layout, region: Region) -> dict[int, Piece]:
    """What every thread holds of the region's divided buffers."""
    found: dict[int, Piece] = {}
    halos: dict[int, tuple[int, int]] = {}
    for buffer, (above, below) in region.halos.items():
        place = layout.first_in_place(buffer)
        most = halos.get(place, (0, 0))
        halos[place] = max(above, most[0]), max(below, most[1])
    for buffer in region.divided:
        own = cuts(layout.buffers[buffer].height, region.threads)
        rows = max(last - first for first, last in pairwise(own))
        found[buffer] = Piece(rows, *halos[layout.first_in_place(buffer)])
    return found
