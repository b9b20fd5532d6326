"""Where activations live: planes with zero borders, views of planes, and one arena that they share.

An image is a list of planes, each a buffer and an index in it. So concatenation, channel slices, channel padding and
strided views are lists, not copies: kernels find every plane through a table of offsets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from flexgroup._errors import FlexgroupError
from flexgroup.engine._placement import Tenant, extent, places

SUM_BYTES = 4  # of numbers in scratch memory
LINE = 64  # bytes; planes start on cache lines
ZERO = -1  # the buffer id of the plane that is always zero
SINK = -2  # the buffer id of the plane that rows beyond the last one are stored to


@dataclass(frozen=True)
class PlaneRef:
    """Plane ``index`` of buffer ``buffer``."""

    buffer: int
    index: int


@dataclass(frozen=True)
class Image:
    """``len(planes)`` channels of ``height x width`` positions."""

    planes: tuple[PlaneRef, ...]
    height: int
    width: int

    @cached_property
    def buffers(self) -> frozenset[int]:
        """The buffers of its planes."""
        return frozenset(ref.buffer for ref in self.planes)

    @cached_property
    def distinct(self) -> int:
        """How many planes there are, each counted once."""
        return len(set(self.planes))


@dataclass(frozen=True)
class Vector:
    """``features`` adjacent numbers in a buffer."""

    buffer: int
    features: int


@dataclass(frozen=True)
class External:
    """A dense array of the caller's: number ``port`` of the inputs, or of the outputs."""

    port: int
    shape: tuple[int, ...]
    output: bool = False


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


@dataclass
class Geometry:
    """What buffers of one component share. All positions of planes are in elements."""

    pitch: int = 1
    lead: int = 0  # zeros before a plane's first position
    reaches: list[Reach] = field(default_factory=list)


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


class Layout:
    """Buffers, the components they form, and after `place` their addresses.

    Buffers that one kernel reads and writes position by position belong to one component and share a pitch. Memory is
    reused between buffers with the same planes and footprint only, so that borders, zeroed once, stay zero.
    """

    def __init__(self, lanes: int, element_bytes: int, threads: int = 1) -> None:
        self.lanes = lanes
        self.threads = threads
        self.element_bytes = element_bytes
        self.buffers: list[Buffer] = []
        self._parent: list[int] = []
        self._geometry: dict[int, Geometry] = {}
        self._own_reaches: dict[int, list[Reach]] = {}  # of every buffer, when pitches are decided
        self.arena_bytes = 0
        self.inherited: set[int] = set()  # buffers in memory that other layouts use too
        self._slots: dict[int, int] = {}  # planes of the memory that a buffer took over
        self._special = {ZERO: 0, SINK: 0}
        self._placed: dict[int, tuple[int, int]] = {}  # of every buffer asked for after `place`: start, plane's bytes
        self._windows: dict[int, int] = {}  # rows that a windowed buffer holds
        self._window_offsets: dict[int, int] = {}
        self._scratch = 0  # bytes in the arena to the first thread's scratch
        self._scratch_bytes = 0

    def new_image(self, channels: int, height: int, width: int, footprint: Footprint | None = None) -> Image:
        """An image in a new buffer; without ``footprint`` all its pixels are written."""
        whole = Footprint(((0, 0, height, width),))
        self.buffers.append(Buffer(channels, height, width, footprint or whole))
        self._parent.append(len(self.buffers) - 1)
        buffer = len(self.buffers) - 1
        return Image(tuple(PlaneRef(buffer, i) for i in range(channels)), height, width)

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector in memory."""
        return self.lanes * self.element_bytes

    def new_scratch(self, numbers: int) -> Vector:
        """A vector in a new buffer that holds so many numbers of 32 bits, whatever activations have."""
        return self.new_vector(numbers * SUM_BYTES // self.element_bytes)

    def new_vector(self, features: int) -> Vector:
        """A vector in a new buffer."""
        self.buffers.append(Buffer(features, 0, 0, Footprint(())))
        self._parent.append(len(self.buffers) - 1)
        return Vector(len(self.buffers) - 1, features)

    def component(self, buffer: int) -> int:
        while self._parent[buffer] != buffer:
            buffer = self._parent[buffer]
        return buffer

    def tie(self, *images: Image) -> None:
        """Give all planes of ``images`` the same pitch."""
        roots = sorted({self.component(ref.buffer) for image in images for ref in image.planes if ref.buffer >= 0})
        for root in roots[1:]:
            self._parent[root] = roots[0]

    def reach(
        self,
        image: Image,
        out: Image,
        rows: tuple[int, int],
        columns: tuple[int, int],
        step: tuple[int, int] = (1, 1),
        *,
        tied: bool = True,
    ) -> None:
        """Note that a kernel reads ``image`` around every position of ``out``."""
        reach = Reach(image.height, image.width, out.height, out.width, rows, columns, step, tied)
        for buffer in {ref.buffer for ref in image.planes if ref.buffer >= 0}:
            self._geometry.setdefault(buffer, Geometry()).reaches.append(reach)

    def use(self, step: int, buffers: set[int]) -> None:
        """Note that step number ``step`` reads or writes ``buffers``."""
        for index in buffers:
            if index >= 0:
                buffer = self.buffers[index]
                buffer.born = step if buffer.born < 0 else buffer.born
                buffer.dies = max(buffer.dies, step)

    def open_windows(self, capacities: Mapping[int, int]) -> None:
        """Let the buffers of one chain hold so many rows each, in scratch memory that every thread has for itself.

        Chains run one after another and use the same scratch. The first plane in it takes rows beyond the last one.
        """
        self._windows |= capacities
        largest = max((self.plane_bytes(buffer) for buffer in capacities), default=0)
        top = largest + LINE
        for buffer in capacities:
            self._window_offsets[buffer] = _round_up(top + self._bytes(self._window_lead(buffer)), LINE)
            top = self._window_offsets[buffer] + self.buffers[buffer].channels * self.plane_bytes(buffer)
        self._scratch_bytes = max(self._scratch_bytes, _round_up(top + 64 * LINE, 4096))

    def is_windowed(self, image: Image) -> bool:
        """Whether only some rows of ``image`` are in memory at a time."""
        return any(ref.buffer in self._windows for ref in image.planes)

    def window_rows(self, image: Image) -> int:
        """Rows that the window of a windowed image holds."""
        return self._windows[image.planes[0].buffer]

    def scratch(self, thread: int) -> int:
        """Bytes from the arena's start to a thread's scratch, which the offsets of windowed planes count from."""
        return self._scratch + thread * self._scratch_bytes

    def reads_border(self, image: Image) -> bool:
        """Whether any reader of the planes' component looks left or right, and so relies on a zero border."""
        geometry = self.geometry(next(ref.buffer for ref in image.planes if ref.buffer >= 0))
        return any(reach.columns != (0, 0) for reach in geometry.reaches)

    def sink(self, image: Image) -> int:
        """Where rows beyond the last plane of ``image`` are stored to, relative to what its own planes count from."""
        return 0 if self.is_windowed(image) else self._special[SINK]

    def window_lead(self, image: Image) -> int:
        """Zeros before a windowed plane's first position, in elements: whole vectors."""
        return self._bytes(self._window_lead(image.planes[0].buffer)) // self.element_bytes

    def _window_lead(self, buffer: int) -> int:
        return max([0, *(-reach.columns[0] for reach in self.geometry(buffer).reaches)])

    def use_together(self, first: int, last: int) -> None:
        """Let every buffer that steps first..last use live through all of them: they run band by band."""
        for buffer in self.buffers:
            if first <= buffer.born < last:
                buffer.born = first
            if first <= buffer.dies < last:
                buffer.dies = last - 1

    def decide(self) -> None:
        """Fix every pitch; no image or reach may be added afterwards."""
        self._decide_geometry()

    def place(self, sharing: Collection[int] = ()) -> None:
        """Give every buffer its place in the arena.

        The images ``sharing`` may take over each other's memory whatever their layout; who relies on zeros clears them.
        """
        full = [i for i, b in enumerate(self.buffers) if i not in self._windows]
        largest = max((self.plane_bytes(i) for i in full if self.buffers[i].height), default=0)
        lead = max((self._bytes(g.lead) for g in self._geometry.values()), default=0)
        room = lead + largest
        self._special = {ZERO: lead, SINK: 2 * lead + largest}
        alone = [i for i in full if i not in sharing]
        top = self._place_alike(alone, _round_up(2 * room + LINE, LINE))
        top = self._place_anywhere([i for i in full if i in sharing and self.buffers[i].born >= 0], top)
        # Tiles and taps may read beyond the last plane: a plane's worth of slack after everything.
        self._scratch = _round_up(top + room + 64 * LINE, 4096)
        self.arena_bytes = self._scratch + self.threads * self._scratch_bytes
        if self.arena_bytes >= 1 << 31:
            raise FlexgroupError(
                f"the network's activations need {self.arena_bytes / 2**30:.1f} GiB for one image, more than the "
                "2 GiB that offsets reach; use smaller images"
            )

    def _place_alike(self, buffers: list[int], top: int) -> int:
        """Buffers that take over memory of their own layout only; returns the end."""
        free: dict[tuple[object, ...], list[tuple[int, int]]] = {}  # layout -> (planes, offset) of dead buffers
        events = sorted(buffers, key=lambda i: self.buffers[i].born)
        alive: list[int] = []
        for index in events:
            buffer = self.buffers[index]
            for other in [i for i in alive if self.buffers[i].dies < buffer.born]:
                alive.remove(other)
                free.setdefault(self._key(other), []).append((self._planes(other), self.buffers[other].offset))
            fits = sorted(slot for slot in free.get(self._key(index), []) if slot[0] >= self._planes(index))
            if fits:
                free[self._key(index)].remove(fits[0])
                buffer.offset = fits[0][1]
                # The slot keeps its full size for its next tenant.
                self._slots[index] = fits[0][0]
            else:
                before = self._bytes(self.geometry(index).lead) if buffer.height else 0
                buffer.offset = _round_up(top + before, LINE)
                top = buffer.offset + self._planes(index) * self.plane_bytes(index)
            alive.append(index)
        return top

    def _place_anywhere(self, buffers: list[int], bottom: int) -> int:
        """Images wherever there is room while they live; returns the end."""
        tenants = [Tenant(self._extent(i), self.buffers[i].born, self.buffers[i].dies) for i in buffers]
        starts = places(tenants)
        for index, start in zip(buffers, starts, strict=True):
            self.buffers[index].offset = bottom + start + self.border_bytes(index)
        for index in buffers:
            first, last = self._range(index)
            for other in buffers:
                at, end = self._range(other)
                alike = at == first and self._key(other) == self._key(index)
                if other != index and not alike and at < last and first < end:
                    self.inherited.add(index)
        return bottom + extent(tenants, starts)

    def border_bytes(self, index: int) -> int:
        """Bytes from a plane's last row to the next plane, in cache lines; as many are kept before the first plane."""
        buffer = self.buffers[index]
        written = buffer.height * self.geometry(index).pitch * self.element_bytes
        return _round_up(self.plane_bytes(index) - written, LINE)

    def _extent(self, index: int) -> int:
        return self.border_bytes(index) + self.buffers[index].channels * self.plane_bytes(index)

    def _range(self, index: int) -> tuple[int, int]:
        start = self.buffers[index].offset - self.border_bytes(index)
        return start, start + self._extent(index)

    def looks_around(self, index: int) -> bool:
        """Whether any reader of the buffer relies on zeros around its pixels."""
        reaches = self._own_reaches.get(index, [])
        return any(
            reach.rows != (0, 0)
            or reach.columns != (0, 0)
            or (reach.out_height - 1) * reach.step[0] >= reach.in_height
            or (reach.out_width - 1) * reach.step[1] >= reach.in_width
            for reach in reaches
        )

    def _planes(self, index: int) -> int:
        buffer = self.buffers[index]
        return self._slots.get(index, buffer.channels if buffer.height else 1)

    def _key(self, index: int) -> tuple[object, ...]:
        buffer = self.buffers[index]
        if not buffer.height:
            return ("vector", buffer.channels)
        geometry = self.geometry(index)
        return (buffer.footprint, buffer.height, buffer.width, geometry.pitch, geometry.lead, self.plane_bytes(index))

    def _decide_geometry(self) -> None:
        merged: dict[int, Geometry] = {}
        self._own_reaches = {index: list(geometry.reaches) for index, geometry in self._geometry.items()}
        for index, buffer in enumerate(self.buffers):
            geometry = merged.setdefault(self.component(index), Geometry())
            geometry.pitch = max(geometry.pitch, buffer.width)
            geometry.reaches += self._geometry.get(index, Geometry()).reaches
        for geometry in merged.values():
            geometry.pitch = max([geometry.pitch, *(reach.pitch() for reach in geometry.reaches)])
        for index, buffer in enumerate(self.buffers):
            self._round_pitch(merged[self.component(index)], buffer)
        for geometry in merged.values():
            geometry.lead = max([0, *(reach.before(geometry.pitch) for reach in geometry.reaches)])
        self._geometry = merged

    def _round_pitch(self, geometry: Geometry, buffer: Buffer) -> None:
        """Rows that begin on vectors are loaded whole: wanted where it takes no more vectors a plane."""
        rounded = _round_up(geometry.pitch, self.lanes)
        if buffer.height > 1 and buffer.width > self.lanes // 2:
            positions, aligned = buffer.height * geometry.pitch, buffer.height * rounded
            if _round_up(aligned, self.lanes) <= _round_up(positions, self.lanes):
                geometry.pitch = rounded

    def geometry(self, buffer: int) -> Geometry:
        return self._geometry[self.component(buffer)]

    def pitch(self, image: Image) -> int:
        """Elements from a row to the next."""
        buffer = max(image.buffers, default=-1)
        return self.geometry(buffer).pitch if buffer >= 0 else image.width

    def vectors(self, image: Image) -> int:
        """Vectors that cover all rows of a plane."""
        return -(-image.height * self.pitch(image) // self.lanes)

    def plane_bytes(self, index: int) -> int:
        """Bytes from a plane to the next: an odd number of cache lines, so that planes spread over the cache's sets."""
        buffer = self.buffers[index]
        if not buffer.height:
            return _round_up(self._bytes(buffer.channels), 4 * LINE)
        geometry = self.geometry(index)
        if index in self._windows:
            beyond = max([0, *(reach.columns[1] for reach in geometry.reaches)])
            elements = self._windows[index] * geometry.pitch + max(self.lanes, beyond)
            lines = (self._bytes(elements) + self._bytes(self._window_lead(index))) // LINE
            return (lines | 1) * LINE
        extent = buffer.height * geometry.pitch
        extent += buffer.slack
        after = [reach.after(geometry.pitch) for reach in geometry.reaches if reach.in_height <= buffer.height]
        elements = max([_round_up(extent, self.lanes), extent + geometry.lead, *after])
        lines = _round_up(self._bytes(elements), LINE) // LINE
        return (lines | 1) * LINE

    def offset(self, ref: PlaneRef) -> int:
        """Bytes to the first position of a plane, from the arena's start or, for windowed planes, the scratch's."""
        if ref.buffer < 0:
            return self._special[ref.buffer]
        if ref.buffer not in self._placed:
            windowed = ref.buffer in self._windows
            start = self._window_offsets[ref.buffer] if windowed else self.buffers[ref.buffer].offset
            self._placed[ref.buffer] = start, self.plane_bytes(ref.buffer)
        start, plane = self._placed[ref.buffer]
        return start + ref.index * plane

    def _bytes(self, elements: int) -> int:
        return _round_up(elements * self.element_bytes, LINE)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
