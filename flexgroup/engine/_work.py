"""What kernels do, as counts, and what that costs: the cost model's formulas. Its constants are in `_costs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flexgroup.engine._costs import Costs
from flexgroup.engine._layout import Image, Layout
from flexgroup.engine._rows import Rows
from flexgroup.kernels import LINE, TransformKernel

SHARE_OF_CACHE = 0.6  # that images may take: weights, tables and the images at both ends need the rest
STREAMS = 32  # planes that hardware follows at a time, and fetches ahead of a kernel
LATENCY = 5.0  # slots that a group's sums wait for those of the group before, where nothing else takes longer
ADDED_TO = 0.5  # of a near line's cost, for sums that wait in memory: the rest hides behind multiply-adds
MISSED_IN_PANEL = 0.4  # of a missed load's cost: what lies side by side is fewer cache lines, and fetched ahead


class Work(Protocol):
    """Counts of one kind of kernel."""

    def slots(self, costs: Costs) -> float: ...


def _overlapped(one: float, other: float) -> float:
    """The time of two things that run side by side: somewhat more than the longer one, if both are long."""
    return float((one**3 + other**3) ** (1 / 3))


@dataclass(frozen=True)
class Tiles:
    """How a line of vectors is cut: ``whole`` tiles of ``size`` vectors, then ``tails`` of ``tail`` vectors.

    The only tail may have a vector more, which holds the last positions of ``stacked`` rows.
    """

    size: int
    whole: int
    tail: int = 0
    tails: int = 0
    stacked: int = 0

    @property
    def count(self) -> int:
        return self.whole + self.tails

    @property
    def vectors(self) -> int:
        """Of all tiles; more than there are where the last one overlaps."""
        return self.whole * self.size + self.tails * self.tail + (self.stacked > 0)

    @property
    def last(self) -> int:
        """Vectors of the last tile, without one that is shared by rows."""
        return self.tail or self.size

    @property
    def last_start(self) -> int:
        """Vectors before the last tile."""
        return self.whole * self.size + self.tails * self.tail - self.last


def tiles_of(size: int, vectors: int, *, has_tails: bool = True) -> Tiles:
    """``vectors`` in as many tiles of ``size`` vectors as it takes, the last of them shorter if they may be.

    Rather several tiles that are one vector short than one that lacks many: a tile of few vectors takes longer than its
    multiply-adds, which wait for each other. Without tails the last tile overlaps the one before.
    """
    count = -(-vectors // size)
    short = count * size - vectors
    if not short or not has_tails:
        return Tiles(size, count)
    return Tiles(size, count - short, size - 1, short) if short < count else Tiles(size, count - 1, size - short, 1)


@dataclass(frozen=True)
class ConvWork:
    """Groups of ``rows`` weights on ``tiles``, for ``height`` rows in ``loops`` loops.

    ``missed`` is the share of loads that miss the first-level cache, ``lines`` the cache lines of weights and offsets,
    which stay in the second-level cache from tile to tile if they are ``near``. ``copied`` vectors of every tile are
    copied to a panel first; where they could be and are not, ``late`` planes are waited for. All but the first of
    ``slabs`` add to what the one before wrote, ``written`` cache lines.
    """

    groups: int
    rows: int
    tiles: Tiles
    height: int
    loops: int
    displaced: bool
    missed: float
    lines: float
    near: bool
    copied: int = 0
    late: int = 0
    slabs: int = 1
    written: float = 0.0

    def slots(self, costs: Costs) -> float:
        stores = costs.store * self.slabs + costs.aligned_load * (self.slabs - 1)
        load = costs.displaced_load if self.displaced else costs.aligned_load
        load += costs.missed_load * self.missed * (MISSED_IN_PANEL if self.copied else 1.0)

        def each(tile: int, stacked: int = 0) -> float:
            # The more of the loads' slots are taken, the more multiply-adds wait for one.
            vectors, sums = tile + (stacked > 0), self.rows * tile + (self.rows / stacked if stacked else 0.0)
            group = _overlapped(max(sums, LATENCY), load * vectors + costs.weight * self.rows) + costs.group
            return self.groups * group + self.height * vectors * stores + self.loops * self.slabs * costs.row

        tiles = self.tiles
        computed = tiles.whole * each(tiles.size) + tiles.tails * each(tiles.tail, tiles.stacked)
        again = costs.stream_again if self.near else costs.stream
        fetched = tiles.count * (self.copied * costs.copy + self.late * costs.late)
        added_to = (self.slabs - 1) * self.written * costs.near * ADDED_TO
        return computed + fetched + added_to + self.lines * (costs.stream + (tiles.count - 1) * again)


@dataclass(frozen=True)
class ChannelsWork:
    """``groups`` columns of ``strips`` strips of ``rows`` channels, ``vectors``, on ``tiles`` of ``tile`` positions.

    A column's weights are ``lines`` cache lines; those of a strip stay in the second-level cache if they are ``near``.
    """

    groups: int
    rows: int
    vectors: int
    tile: int
    tiles: int
    strips: int
    lines: float
    near: bool

    def slots(self, costs: Costs) -> float:
        loads = costs.position * self.tile + costs.aligned_load * self.vectors
        group = max(self.vectors * self.tile, loads) + costs.group
        each = self.groups * group + self.strips * (costs.row + self.rows * costs.turn)
        again = costs.stream_again if self.near else costs.stream
        lines = self.groups * self.lines
        return self.tiles * each + lines * (costs.stream + (self.tiles - 1) * again)


@dataclass(frozen=True)
class TransformWork:
    """The rows of ``planes``, ``vectors`` each, times the kernel's matrix."""

    planes: int
    vectors: int
    kernel: TransformKernel

    def slots(self, costs: Costs) -> float:
        written, read = map(int, self.kernel.matrix.shape)
        vector = _overlapped(self.kernel.terms, costs.aligned_load * read) + costs.store * written
        return self.planes * (costs.row + self.vectors * vector)


@dataclass(frozen=True)
class WindowWork:
    """Depthwise windows of ``entries`` on ``vectors`` of each of ``planes``."""

    planes: int
    vectors: float
    entries: int
    strided: bool
    largest: bool = False  # the largest entry is wanted, not their sum

    def slots(self, costs: Costs) -> float:
        rate = costs.window_strided if self.strided else costs.window
        rate += costs.window_max if self.largest else 0.0
        return self.planes * (costs.window_plane + self.vectors * self.entries * rate)


@dataclass(frozen=True)
class MoveWork:
    """``rows`` rows and ``vectors`` in all that are copied, filled, or otherwise treated one by one."""

    rows: int
    vectors: float
    strided: bool = False

    def slots(self, costs: Costs) -> float:
        return self.rows * costs.move_row + self.vectors * (costs.move_strided if self.strided else costs.move)


@dataclass(frozen=True)
class StreamWork:
    """``base`` slots of multiply-adds for which ``lines`` cache lines of weights are read once, and waited for."""

    base: float
    lines: float

    def slots(self, costs: Costs) -> float:
        return max(self.base, self.lines * costs.stream_only)


@dataclass(frozen=True)
class Traffic:
    """Cache lines of activations that an operation reads and writes, from and to where."""

    near: float = 0.0
    read: float = 0.0
    written: float = 0.0
    swept_read: float = 0.0
    swept_written: float = 0.0

    def slots(self, costs: Costs) -> float:
        swept = self.swept_read * costs.swept_read + self.swept_written * costs.swept_write
        return self.near * costs.near + self.read * costs.far_read + self.written * costs.far_write + swept


def traffic(
    layout: Layout,
    cache: int,
    mapped: Rows,
    count: int,
    windowed: Callable[[Image], bool] | None = None,
    *,
    planewise: bool = False,
) -> Traffic:
    """What an operation moves for ``count`` rows of its output: every row of its inputs is read once.

    Images lie in the second-level cache, of ``cache`` bytes, if they fit it or are ``windowed``. Others are fetched
    ahead where the operation goes through them plane by plane, or where they have few planes.
    """
    is_windowed = windowed or layout.is_windowed
    near = read = written = swept_read = swept_written = 0.0
    images = [(mapped.out, len(mapped.out.planes), count, True)]
    images += [(use.image, use.image.distinct, count * use.step, False) for use in mapped.uses]
    for image, planes, rows, out in images:
        row = planes * layout.pitch(image) * layout.element_bytes / LINE
        lines = row * min(rows, image.height)
        if is_windowed(image) or row * image.height * LINE < SHARE_OF_CACHE * cache:
            near += lines
        elif planewise or planes <= STREAMS:
            swept_written += lines * out
            swept_read += lines * (not out)
        else:
            written += lines * out
            read += lines * (not out)
    return Traffic(near, read, written, swept_read, swept_written)
