"""How planes lie in memory before they have addresses: pitches and margins, from who reads how far around a pixel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

MOST_STACKED = 4  # rows of output in one vector
LEAST_STACKED = 0.02  # of the multiply-adds, that stacks of rows have to spare


@dataclass(frozen=True)
class Footprint:
    """Which positions of a buffer's planes are written; whatever else its memory holds stays zero.

    ``rectangles`` are (top, left, height, width) of the planes in turn: one for all of them, or one for every run of
    ``run`` planes. Buffers take over each other's memory only if their footprints are equal.
    """

    rectangles: tuple[tuple[int, int, int, int], ...]
    run: int = 0


@dataclass
class Buffer:
    """Planes (or one vector, ``height`` = 0) that are written by one step and live until their last reader."""

    channels: int
    height: int
    width: int
    footprint: Footprint
    born: int = -1
    dies: int = -1
    offset: int = -1  # bytes in the arena, to the first position of plane 0
    slack: int = 0  # elements after the last row that may be written

    @property
    def is_whole(self) -> bool:
        """Whether all pixels are written."""
        return set(self.footprint.rectangles) == {(0, 0, self.height, self.width)}


@dataclass
class Geometry:
    """What buffers of one component share. All positions of planes are in elements."""

    pitch: int = 1
    lead: int = 0  # zeros before a plane's first position
    reaches: list[Reach] = field(default_factory=list)
    walked: bool = False  # whether kernels walk along rows


@dataclass(frozen=True)
class Reach:
    """How far the taps of one reader of a plane go, in rows and columns relative to the output position."""

    in_height: int
    in_width: int
    out_height: int
    out_width: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    step: tuple[int, int] = (1, 1)  # input rows and columns from an output position to the next
    tied: bool = True  # whether both sides have one pitch

    def pitch(self) -> int:
        """The smallest pitch at which no tap of a row falls into the pixels of another row."""
        left = max(0, -self.columns[0])
        right = max(0, (self.out_width - 1) * self.step[1] + self.columns[1] - (self.in_width - 1))
        return max(self.in_width + max(left, right), self.out_width if self.tied else 0)

    def before(self, pitch: int) -> int:
        """Zeros needed before the first position."""
        return max(0, -(self.rows[0] * pitch + self.columns[0]))

    def after(self, pitch: int) -> int:
        """Positions needed from the first one on, zeros included."""
        last_row = (self.out_height - 1) * self.step[0] + self.rows[1]
        return last_row * pitch + (self.out_width - 1) * self.step[1] + 1 + self.columns[1]


def decide(
    buffers: Sequence[Buffer],
    component: Sequence[int],
    reaches: Mapping[int, Sequence[Reach]],
    walked: Collection[int],
    lanes: int,
) -> dict[int, Geometry]:
    """The geometry of every component, given the component and the readers of every buffer.

    Along the rows of buffers that are ``walked`` kernels go one by one.
    """
    merged: dict[int, Geometry] = {}
    for index, buffer in enumerate(buffers):
        geometry = merged.setdefault(component[index], Geometry())
        geometry.pitch = max(geometry.pitch, buffer.width)
        geometry.reaches += reaches.get(index, ())
        geometry.walked |= index in walked
    for geometry in merged.values():
        geometry.pitch = max([geometry.pitch, *(reach.pitch() for reach in geometry.reaches)])
    for index, buffer in enumerate(buffers):
        _round_pitch(merged[component[index]], buffer, lanes)
    for geometry in merged.values():
        geometry.lead = max([0, *(reach.before(geometry.pitch) for reach in geometry.reaches)])
    return merged


def _round_pitch(geometry: Geometry, buffer: Buffer, lanes: int) -> None:
    """Rows that begin on vectors are loaded whole: wanted where it takes no more vectors a plane.

    What convolutions alone read and write ends early in its last vector rather than that: they share it out (`stacks`).
    """
    rounded = round_up(geometry.pitch, lanes)
    if buffer.height > 1 and buffer.width > lanes // 2:
        positions, aligned = buffer.height * geometry.pitch, buffer.height * rounded
        ends_early = not geometry.walked and MOST_STACKED in stacks(positions, lanes)
        if round_up(aligned, lanes) <= round_up(positions, lanes) and not ends_early:
            geometry.pitch = rounded


def stacks(positions: int, lanes: int) -> tuple[int, ...]:
    """How many rows of output may share the last vector of so many positions, where that is worth it."""
    vectors, left = -(-positions // lanes), positions % lanes
    many = (MOST_STACKED, MOST_STACKED // 2)
    return tuple(rows for rows in many if left and rows * left <= lanes and 1 - 1 / rows > LEAST_STACKED * vectors)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
