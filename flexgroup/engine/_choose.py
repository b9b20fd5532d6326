"""Which kernel a convolution gets: a small model of what every form would cost, and the cheapest."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flexgroup.engine._costs import Costs
from flexgroup.engine._geometry import stacks
from flexgroup.engine._work import SHARE_OF_CACHE, STREAMS, ChannelsWork, ConvWork, Tiles, Traffic, Work, tiles_of
from flexgroup.kernels import LINE
from flexgroup.kernels.channels import most_vectors, tile_for
from flexgroup.kernels.conv import LONGEST_TILE, fits_stack, largest_tile
from flexgroup.kernels.packing import group_starts
from flexgroup.kernels.target import F32, Element, Target

HEIGHTS = (1, 2, 4, 8)
DENSE_FORMS = ("dense", "channels")  # that skip no zeros
DEFAULT_COSTS = Costs()

OFFSET = 4  # bytes of a group's entry in a table
FEWEST_SUMS = 12  # multiply-adds that have to run side by side, or they wait for each other
FEW_ROWS = 2  # of groups that multiply little by what they load; those of more ask early for what they read
SHARE_OF_FIRST = 0.75  # of the first-level cache, in which a tile's inputs stay
SHORTER_TILES = (4, 5, 6, 8)  # vectors of tiles that are tried besides the longest ones
SEVERAL_FIRST = 1.5  # first-level caches: what their inputs may take, or too few of them are found there again
SHORT_TILE = 2 * LINE  # bytes of a tile that is worth copying: longer ones are whole cache lines anyway
NEARLY_DENSE = 0.25  # of the groups
UNSURE = 1.05  # times the cost of the best: up to there a kernel that copies far planes first is taken instead
PANEL_OF_CACHE = 0.5  # of the second-level cache, that a panel may take
SWEEP = 16  # rows that go through all tiles before the next do, where that is better
WORTH_SWEEPING = 0.85  # of what a layer costs in one go: sweeps that promise less did not keep it
STRIP_OF_CACHE = 0.75  # of the second-level cache, that the weights of a strip with channels in lanes may take


@dataclass(frozen=True, eq=False)
class Layer:
    """What the choice depends on: non-zeros (M x K), the image of a call, and whether taps differ in position."""

    pattern: npt.NDArray[np.bool_]
    rows: int  # of the output that a call computes
    width: int  # pixels of a row
    pitch: int  # positions from a row to the next
    lanes: int
    displaced: bool
    planes: int = 1  # distinct input planes
    segments: int = 1  # rows of planes that taps read
    span: int = 0  # numbers from the first to the last tap of a row
    far: bool = False  # whether the planes are too large for the second-level cache
    element: Element = F32
    rowwise: bool = False  # whether kernels for the target can take whole rows as vectors, and have stacks
    blocks: int = 1  # of a block-diagonal matrix, which is always run as groups
    inputs: int = 0  # planes that the inputs have, used or not
    adds: bool = False  # whether there is a residual
    counted: dict[tuple[str, int], tuple[int, npt.NDArray[np.int64]]] = field(default_factory=dict, repr=False)

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector in memory."""
        return self.lanes * self.element.bytes

    def rows_of_vector(self, form: str, height: int) -> int:
        """How many whole rows of the image a vector holds, in a kernel with groups of this height; 0: just positions.

        That spares the lanes which the border between rows takes. Two rows take two loads, which pays where at least
        four multiply-adds use them.
        """
        rows = {self.lanes: 1, self.lanes // 2: 2}.get(self.width, 0)
        if not rows or self.rows % rows or not self.rowwise or form == "channels" or (rows == 2 and height <= 2):
            return 0
        return rows if self.rows * self.pitch > self.rows // rows * self.lanes else 0

    def vectors(self, form: str, height: int) -> int:
        """Vectors that cover all positions, in a kernel of this form with groups of this height."""
        rows = self.rows_of_vector(form, height)
        return self.rows // rows if rows else -(-self.rows * self.pitch // self.lanes)

    def stacked(self, form: str, height: int) -> int:
        """How many rows of the output may share the last vector of an image, with groups of this height; 0: none."""
        if not self.rowwise or form == "channels" or self.rows_of_vector(form, height):
            return 0
        return next((rows for rows in stacks(self.rows * self.pitch, self.lanes) if height % rows == 0), 0)

    @property
    def strip_planes(self) -> int:
        """Distinct input planes that a strip reads: those of its block."""
        return self.planes // self.blocks

    @property
    def plane_lines(self) -> float:
        """Cache lines of the rows of a plane that a call computes."""
        return self.rows * self.pitch * self.element.bytes / LINE

    @property
    def written(self) -> float:
        """Cache lines of all planes of the output."""
        return len(self.pattern) * self.plane_lines

    def leaves(self, cache: int) -> bool:
        """Whether the output is too large for a second-level cache of so many bytes."""
        return self.written >= SHARE_OF_CACHE * cache / LINE

    def moved(self, cache: int, sweep: int = 0) -> Traffic:
        """Cache lines that a call moves, in sweeps of so many rows, if any: each reads anew what it needs."""
        line, leaves = self.plane_lines, self.leaves(cache)
        is_far = self.inputs * line >= SHARE_OF_CACHE * cache / LINE
        read = line * (self.read_in_sweeps(sweep) if sweep else self.inputs)
        out = self.written
        added = out if self.adds else 0.0
        near = read * (not is_far) + (out + added) * (not leaves)
        far_read, far_written = read * is_far, out * leaves
        if sweep:
            return Traffic(near, swept_read=far_read + added * leaves, swept_written=far_written)
        few, added = self.inputs <= STREAMS, added * leaves
        return Traffic(near, far_read * (not few) + added, far_written, far_read * few)

    def read_in_sweeps(self, sweep: int) -> int:
        """Columns with non-zeros, for every sweep of so many rows anew; counted once."""
        if ("sweep", sweep) not in self.counted:
            firsts = np.arange(0, len(self.pattern), sweep)
            columns = np.logical_or.reduceat(self.pattern, firsts, axis=0).sum(axis=1)
            self.counted["sweep", sweep] = int(columns.sum()), columns
        return self.counted["sweep", sweep][0]

    def is_nearly_dense(self, form: str, rows: int) -> bool:
        """Whether a kernel of this form computes a good part of all groups."""
        return self.groups(form, rows) > NEARLY_DENSE * self.groups("dense", rows)

    def groups(self, form: str, rows: int) -> int:
        """How many groups of this height cover the non-zeros."""
        if form in DENSE_FORMS:
            height, width = self.pattern.shape
            return int(-(-height // rows) * width)
        return self._counted(form, rows)[0]

    def groups_of_rows(self, form: str, rows: int) -> npt.NDArray[np.int64]:
        """How many of the groups that cover the non-zeros start in each row (``form`` "ring" or "strip")."""
        return self._counted(form, rows)[1]

    def _counted(self, form: str, rows: int) -> tuple[int, npt.NDArray[np.int64]]:
        """All groups, and those of every row; counted once."""
        if (form, rows) not in self.counted:
            groups = group_starts(self.pattern, form, rows).sum(axis=1)
            self.counted[form, rows] = int(groups.sum()), groups
        return self.counted[form, rows]


class Chooser(Protocol):
    """What picks a kernel for a layer: `choose`, or a rule of a benchmark's own."""

    def __call__(self, layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice: ...


@dataclass(frozen=True, order=True)
class Candidate:
    """One way to run a layer, ordered by its predicted cost."""

    slots: float
    form: str
    rows: int
    tile: int
    groups: int
    panel: int = 0
    slabs: int = 1


@dataclass(frozen=True)
class Choice:
    """The kernel form for a layer, with what was predicted for it and for dense code."""

    form: str
    rows: int
    tile: int
    slots: float
    dense_slots: float
    groups: int
    fill: float  # share of the groups' weights that are non-zero
    zeros: bool  # whether there is any zero to skip
    panel: int = 0  # vectors of every segment that a tile copies first; 0: it reads the planes where they are
    sweep: int = 0  # rows that go through all tiles before the next do; 0: all
    slabs: int = 1  # of the input planes, which all rows go through before the next

    @property
    def reason(self) -> str:
        """One sentence for `explain`."""
        said = f"; {self.sweep} rows at a time go through the whole image" if self.sweep else ""
        said += f"; input planes in {self.slabs} slabs, each as large as the first-level cache" * (self.slabs > 1)
        return self._why + said

    @property
    def _why(self) -> str:
        if self.form in DENSE_FORMS:
            return (
                "too few zeros, or zeros too scattered, to be faster than dense" if self.zeros else "no zeros to skip"
            )
        speedup = self.dense_slots / max(self.slots, 1e-9)
        groups = f"{self.groups} groups of {self.rows}x1, {self.fill:.0%} full"
        return f"{groups}: predicted {speedup:.1f}x faster than dense"


def choose(
    layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...] = HEIGHTS, costs: Costs = DEFAULT_COSTS
) -> Choice:
    """The cheapest kernel for one layer at these costs, of those whose groups have one of ``heights``.

    ``sparse=False`` disregards zeros: the baseline that a speed-up is measured against.
    """
    dense = [each for rows in heights for each in candidates_of("dense", rows, layer, target, costs)]
    dense += [
        each for rows in channel_rows(layer, target) for each in candidates_of("channels", rows, layer, target, costs)
    ]
    candidates = list(dense)
    for rows in heights if sparse else ():
        for form in ("strip", "ring") if rows > 1 else ("ring",):
            if layer.groups(form, rows) < layer.groups("dense", rows):
                candidates += candidates_of(form, rows, layer, target, costs)
    best = _best(candidates)
    if layer.far and layer.is_nearly_dense(best.form, best.rows):
        # What waits for far planes, and for residuals besides, is where predictions are least sure.
        alike = (each for each in candidates if each.form == best.form and each.panel)
        best = min((each for each in alike if each.slots < UNSURE * best.slots), default=best)
    fill = float(layer.pattern.sum()) / max(1, best.groups * best.rows)
    zeros = not layer.pattern.all()
    chosen = (best.form, best.rows, best.tile, best.slots)
    found = Choice(*chosen, min(dense).slots, best.groups, fill, zeros, best.panel, slabs=best.slabs)
    return replace(found, sweep=_sweep(layer, found, target, costs))


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """The cheapest; one in slabs only where groups are low without: what higher ones miss costs less than is said."""
    whole = min(each for each in candidates if each.slabs == 1)
    return whole if whole.form in DENSE_FORMS or whole.rows > FEW_ROWS else min(candidates)


def _sweep(layer: Layer, choice: Choice, target: Target, costs: Costs) -> int:
    """How many rows best go through all tiles before the next do; 0: all of them go through one tile after another.

    A tile of all rows writes to as many planes, a piece of each: more than hardware fetches ahead, so that images which
    leave the second-level cache are waited for. A few rows at a time write and read whole planes, one after another.
    What they read they read again for every sweep.
    """
    takes_all = choice.form != "channels" and not choice.panel and choice.slabs == 1
    if not takes_all or layer.displaced or layer.blocks > 1 or not target.triple:
        return 0
    moved = layer.moved(target.cache_bytes)
    if layer.pattern.shape[0] <= STREAMS or not (moved.read or moved.written):
        return 0

    def slots(sweep: int) -> float:
        work = conv_work(layer, choice.form, choice.rows, choice.tile, target, sweep=sweep)
        return work.slots(costs) + layer.moved(target.cache_bytes, sweep).slots(costs)

    return SWEEP if slots(SWEEP) < WORTH_SWEEPING * slots(0) else 0


def candidates_of(form: str, rows: int, layer: Layer, target: Target, costs: Costs) -> list[Candidate]:
    """Kernels that read planes where they are, all of them or slab by slab, and one that copies them to a panel."""
    tile = tile_of(layer, form, rows, target)
    tiles = (tile, *_shorter(layer, form, rows, tile, target))
    kinds = [(each, 0, slabs) for each in tiles for slabs in (1, slabs_for(layer, form, rows, each, target))]
    kinds.append((tile, panel_for(layer, form, rows, tile, target), 1))
    groups = layer.groups(form, rows)

    def slots(tile: int, panel: int, slabs: int) -> float:
        return conv_work(layer, form, rows, tile, target, panel, slabs=slabs).slots(costs)

    return [Candidate(slots(*kind), form, rows, kind[0], groups, *kind[1:]) for kind in dict.fromkeys(kinds)]


def slabs_for(layer: Layer, form: str, rows: int, tile: int, target: Target) -> int:
    """The fewest slabs of the input planes that the first-level cache holds; 1 where a layer has to take all at once.

    Sums that wait in memory would be rounded where memory holds 16 bits.
    """
    if form in DENSE_FORMS or rows > FEW_ROWS or layer.blocks > 1 or layer.element != F32 or not target.triple:
        return 1
    held = _held_bytes(layer, form, rows, tile, 0)
    return max(1, min(layer.planes, math.ceil(held / (SHARE_OF_FIRST * target.first_cache_bytes))))


def _shorter(layer: Layer, form: str, rows: int, tile: int, target: Target) -> list[int]:
    """Tiles that are shorter than the best one for itself, of whose inputs more stay in the first-level cache.

    Taps read every plane several times in a strip: there the longest tiles were always best.
    """
    if form in DENSE_FORMS or layer.displaced or not target.triple or layer.is_nearly_dense(form, rows):
        return []
    held = _held_bytes(layer, form, rows, 1, 0)
    if held * tile <= SHARE_OF_FIRST * target.first_cache_bytes:
        return []
    vectors, stacked = layer.vectors(form, rows), layer.stacked(form, rows)
    short = [most for most in SHORTER_TILES if most < tile and held * most <= SEVERAL_FIRST * target.first_cache_bytes]
    return [best_tile(rows, vectors, target, stacked, most) for most in short]


def panel_for(layer: Layer, form: str, rows: int, tile: int, target: Target) -> int:
    """Vectors of a segment of the panel for tiles of this length; 0 where a panel makes no sense."""
    segment = tile + (layer.span > 0)
    fits = layer.segments * segment * layer.vector_bytes <= PANEL_OF_CACHE * target.cache_bytes
    usual = form != "channels" and target.triple and layer.blocks == 1 and layer.span <= layer.lanes
    usual = usual and not layer.rows_of_vector(form, rows)
    return segment if usual and fits and tile * layer.vector_bytes <= SHORT_TILE else 0


def tile_of(layer: Layer, form: str, rows: int, target: Target) -> int:
    """The best tile of a form: vectors of positions, or, with channels in lanes, positions."""
    if form == "channels":
        return tile_for(layer.width, layer.pitch - layer.width, target, layer.element)
    return best_tile(rows, layer.vectors(form, rows), target, layer.stacked(form, rows))


def channel_rows(layer: Layer, target: Target) -> tuple[int, ...]:
    """Rows that a strip with channels in lanes can have; none where the target or the image is not made for it."""
    tile = tile_of(layer, "channels", 0, target)
    if not tile or layer.blocks > 1:
        return ()
    return tuple(vectors * layer.lanes for vectors in range(1, most_vectors(tile, target) + 1))


def conv_work(
    layer: Layer, form: str, rows: int, tile: int, target: Target, panel: int = 0, sweep: int = 0, slabs: int = 1
) -> Work:
    """What a kernel of this form does for a layer, with segments of ``panel`` vectors, if it copies them.

    In sweeps of ``sweep`` rows the planes that it reads are counted by `Layer.moved`, and weights are near.
    """
    groups, height = layer.groups(form, rows), layer.pattern.shape[0]
    strips = -(-height // rows)
    if form == "channels":
        lines = rows * layer.element.bytes / LINE
        strip = lines * layer.pattern.shape[1]
        tiles = layer.rows * layer.width // tile
        near = strip * LINE < STRIP_OF_CACHE * target.cache_bytes
        return ChannelsWork(groups, rows, rows // layer.lanes, tile, tiles, strips, lines, near)
    held, first = _held_bytes(layer, form, rows, tile, panel) / slabs, SHARE_OF_FIRST * target.first_cache_bytes
    missed = 0.0
    if sweep and form == "ring":  # those that cross from a sweep to the next are in both
        groups = round(groups * (1 + (rows - 1) / sweep))
    if sweep and held > first:  # `Layer.moved` counts the first of the groups of a sweep that read one plane
        missed = (1 - first / held) * max(0.0, 1 - layer.read_in_sweeps(sweep) / max(groups, 1))
    elif held > first:
        # Of the groups of a strip that read one plane, the first brings it to the first-level cache.
        missed = min(1.0, layer.strip_planes * strips / max(groups, 1))
        if not panel and not layer.is_nearly_dense(form, rows):  # strips read some of them, and find what is left
            missed *= 1 - first / held
    lines = groups * (rows * layer.element.bytes + OFFSET) / LINE
    return ConvWork(
        groups,
        rows,
        cut(tile, layer.vectors(form, rows), target, rows, 0 if panel else layer.stacked(form, rows)),
        height,
        height if form == "ring" else strips,
        layer.displaced,
        missed,
        lines,
        bool(sweep) or lines * LINE < target.cache_bytes / 2,
        layer.segments * panel,
        layer.planes if layer.far and not panel and panel_for(layer, form, rows, tile, target) else 0,
        slabs,
        layer.written,
    )


def _held_bytes(layer: Layer, form: str, rows: int, tile: int, panel: int) -> int:
    """Bytes of the first-level cache that a tile's inputs take: in its panel, or in the planes where they are.

    A strip of a dense kernel, or of one with few zeros, goes through all of them, and through whole lines, which short
    tiles do not fill.
    """
    planes, segments = layer.strip_planes, layer.segments // layer.blocks
    if panel:
        return segments * panel * layer.vector_bytes
    if layer.is_nearly_dense(form, rows) and tile * layer.vector_bytes <= SHORT_TILE:
        whole = layer.rows * layer.pitch * layer.element.bytes
        return min(segments * (tile * layer.vector_bytes + LINE), planes * (whole + LINE))
    around = (segments // max(planes, 1) - 1) * layer.pitch + layer.span  # that taps reach beyond a tile
    positions = tile * layer.lanes
    return planes * min(positions + around, max(positions, layer.rows * layer.pitch)) * layer.element.bytes


def asks_early(layer: Layer, form: str, rows: int, tile: int, target: Target) -> bool:
    """Whether a kernel asks for its inputs before it reads them: where more than the first-level cache holds wait.

    To ask takes a load's slot, of which groups of less than four rows have none to spare; and where few multiply-adds
    run side by side they wait for each other rather than for inputs.
    """
    if form in DENSE_FORMS or not target.triple or rows * tile < FEWEST_SUMS:
        return False
    share = SHARE_OF_FIRST if rows >= 4 else SEVERAL_FIRST
    return _held_bytes(layer, form, rows, tile, 0) > share * target.first_cache_bytes


@functools.lru_cache(maxsize=1 << 14)
def best_tile(rows: int, vectors: int, target: Target, stacked: int = 0, most: int = LONGEST_TILE) -> int:
    """The tile of at most ``most`` that covers ``vectors`` with the least work; of equals the fewest, the most even."""

    def each(size: int, stacks: int = 0) -> int:
        return max(size * rows + stacks, FEWEST_SUMS) + rows + 2

    def order(tile: int) -> tuple[int, int, int]:
        tiles = cut(tile, vectors, target, rows, stacked)
        tail = each(tiles.tail, rows // tiles.stacked if tiles.stacked else 0)
        return tiles.whole * each(tiles.size) + tiles.tails * tail, tiles.count, tile

    largest = min(largest_tile(rows, target), max(1, vectors), most)
    return min(range(1, largest + 1), key=order)


def cut(tile: int, vectors: int, target: Target, rows: int = 1, stacked: int = 0) -> Tiles:
    """The tiles of at most ``tile`` vectors that cover ``vectors``: kernels for GPUs have one size.

    The last vector holds ``stacked`` of ``rows`` rows, if any, where the tile before it leaves registers for that.
    """
    if stacked and vectors > 1:
        whole, rest = divmod(vectors - 2, tile)
        if fits_stack(rows, rest + 1, stacked, target):
            return Tiles(tile if whole else 0, whole, rest + 1, 1, stacked)
    return tiles_of(tile, vectors, has_tails=bool(target.triple))
