"""Which outputs take the place of what dies as they are written: one image less lives at a residual addition.

Kernels read a position of the residual just before they write that position of the output, in the same thread. So the
output may lie where the residual is, if nobody reads the residual afterwards, and if both have the same planes at the
same distances. No position is computed twice but where the last tile of a band overlaps (`ConvKernel.in_place`).
In a chain the output may lie where any image was whose rows are all read before they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flexgroup.engine._layout import Image, Layout, PlaneRef, Vector
from flexgroup.engine._operations import ConvOp, ElementwiseOp, Operation
from flexgroup.engine._rows import Rows
from flexgroup.engine._sharing import Needs

if TYPE_CHECKING:
    from flexgroup.engine._regions import Region
    from flexgroup.engine._steps import StepBuilder
    from flexgroup.engine._steps_chain import Chain


def take_places(
    builder: StepBuilder,
    operations: Sequence[Operation],
    chains: Sequence[Chain],
    regions: Sequence[Region],
    shared: Mapping[int, Needs],
) -> dict[int, Needs]:
    """Let outputs take places where they may; returns what has to be zero before the first of a place is written.

    Lives are those of single operations still: `Layout.use_together` has not been called.
    """
    layout = builder.layout
    together = [(each.first, each.last) for each in chains] + [(each.first, each.last) for each in regions]
    chained = {index for first, last in together for index in range(first, last)}
    pairs = [
        pair
        for index, operation in enumerate(operations)
        if index not in chained
        for pair in _candidates(layout, operation)  # of whole images every position is one thread's
        if layout.buffers[pair[0]].dies == index
    ]
    pairs += [pair for chain in chains for pair in _candidates_in(chain, layout)]
    gone: set[int] = set()
    come: set[int] = set()
    for before, out in pairs:
        if {before, out} <= shared.keys() and before not in gone and out not in come and layout.alike(before, out):
            layout.replace(before, by=out)
            gone.add(before)
            come.add(out)
    needs = dict(shared)
    for buffer, wanted in shared.items():
        first = layout.first_in_place(buffer)
        # What is zero around the first one stays so: the others are written where it was.
        needs[first] = Needs(needs[first].borders or wanted.borders, shared[first].gaps)
    return needs


def take_pieces(layout: Layout, region: Region) -> None:
    """Let outputs that are divided take places in a region."""
    gone: set[int] = set()
    for index, operation in enumerate(region.operations, region.first):
        for before, out in _candidates(layout, operation):
            both_divided, dies = {before, out} <= region.divided, layout.buffers[before].dies == index
            if both_divided and dies and before not in gone and layout.alike(before, out):
                layout.replace(before, by=out)
                gone.add(before)


def _candidates(layout: Layout, operation: Operation) -> list[tuple[int, int]]:
    """What an operation reads at the very positions that it writes, and nowhere else: (buffer read, buffer written)."""
    pairs: list[tuple[Image | Vector | None, frozenset[int]]] = []  # an image, and what is read in another order
    if isinstance(operation, ConvOp):
        taps = frozenset(tap.plane.buffer for group in operation.taps for tap in group)
        pairs = [(operation.residual, taps)]
    elif isinstance(operation, ElementwiseOp):
        a, b = operation.a, operation.b
        pairs = [(a, _buffers(b)), (b, _buffers(a))]
    out = _whole(layout, operation.out) if pairs else None  # type: ignore[union-attr]
    found = [(_whole(layout, image), others) for image, others in pairs]
    return [(read, out) for read, others in found if read is not None and out is not None and read not in others]


def _buffers(value: Image | Vector | None) -> frozenset[int]:
    if isinstance(value, Image):
        return value.buffers
    return frozenset() if value is None else frozenset({value.buffer})


def _whole(layout: Layout, value: Image | Vector | None) -> int | None:
    """The buffer that an image is, all its planes in order."""
    if not isinstance(value, Image) or value.planes[0].buffer < 0:
        return None
    index = value.planes[0].buffer
    buffer = layout.buffers[index]
    same = (value.height, value.width) == (buffer.height, buffer.width)
    return index if same and value.planes == tuple(PlaneRef(index, i) for i in range(buffer.channels)) else None


def _candidates_in(chain: Chain, layout: Layout) -> list[tuple[int, int]]:
    """What dies in a chain and what of its outputs may take its place; first of all, the residuals'."""
    found: list[tuple[int, int]] = []
    for operation, mapped in zip(chain.operations, chain.rows, strict=True):
        out = _whole(layout, mapped.out)
        if out is None or layout.is_windowed(mapped.out):
            continue
        images = [use.image for each in chain.rows for use in each.uses if not layout.is_windowed(use.image)]
        residual = operation.residual if isinstance(operation, ConvOp) else None
        images = [residual, *images] if residual is not None else images
        wholes = dict.fromkeys(_whole(layout, image) for image in images)
        found += [(each, out) for each in wholes if each is not None and _may_in(chain, layout, each, mapped)]
    return found


def _may_in(chain: Chain, layout: Layout, buffer: int, mapped: Rows) -> bool:
    """Whether no row of ``buffer`` is read after an operation of the chain wrote it, and none by another thread."""
    lives = layout.buffers[buffer]
    if not lives.born < chain.first <= lives.dies < chain.last:
        return False
    writer = next(each for each, rows in zip(chain.operations, chain.rows, strict=True) if rows is mapped)
    if isinstance(writer, ConvOp) and any(tap.plane.buffer == buffer for taps in writer.taps for tap in taps):
        return False  # a convolution that is added to its own input reads all of it for every plane and block of rows
    threads: list[tuple[set[int], set[int]]] = []  # rows that are read, and written
    for schedule in chain.schedules(layout.threads):
        read: set[int] = set()
        written: set[int] = set()
        for share in (share for band in schedule.bands for share in band if not share.is_empty):
            operation = chain.operations[share.operation]
            for use in chain.rows[share.operation].uses:
                if buffer not in use.image.buffers:
                    continue
                rows = set(range(*use.rows(*share.rows)))
                writes = chain.rows[share.operation] is mapped
                if rows & written or (writes and use.image is not getattr(operation, "residual", None)):
                    return False
                read |= rows
            if chain.rows[share.operation] is mapped:
                written |= set(range(*share.rows))
        threads.append((read, written))
    return all(not mine[0] & other[1] for mine in threads for other in threads if mine is not other)
