"""Where activations live: planes with zero borders, views of planes, and one arena that they share.

An image is a list of planes, each a buffer and an index in it. So concatenation, channel slices, channel padding and
strided views are lists, not copies: kernels find every plane through a table of offsets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from flexgroup._errors import FlexgroupError
from flexgroup.engine._geometry import Buffer, Footprint, Geometry, Reach, decide, round_up
from flexgroup.engine._placement import Tenant, extent, places
from flexgroup.kernels import LINE

SUM_BYTES = 4  # of numbers in scratch memory
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
class Piece:
    """What a thread holds of a buffer that is divided: at most ``rows`` of its own, and rows around them."""

    rows: int
    above: int
    below: int


class Layout:
    """Buffers, the components they form, and after `place` their addresses.

    Buffers that one kernel reads and writes position by position belong to one component and share a pitch. Memory is
    reused between buffers with the same planes and footprint, whose borders, zeroed once, stay zero; images whose
    borders somebody clears, and the scratch memory of chains, take any that is free.
    """

    def __init__(self, lanes: int, element_bytes: int, threads: int = 1) -> None:
        self.lanes = lanes
        self.threads = threads
        self.element_bytes = element_bytes
        self.buffers: list[Buffer] = []
        self._parent: list[int] = []
        self._reaches: dict[int, list[Reach]] = {}  # by buffer
        self._walked: set[int] = set()
        self._geometry: dict[int, Geometry] = {}  # by component, once pitches are decided
        self.arena_bytes = 0
        self.clear_bytes = 0  # at the arena's beginning, that must be zero before the first image
        self.inherited: set[int] = set()  # buffers in memory that other layouts use too
        self.slices: set[int] = set()  # buffers of some planes of an image
        self.ragged: set[int] = set()  # buffers of which nobody cares what lies beside the pixels
        self._replaced: dict[int, int] = {}  # by buffer: the one that dies where it begins, and whose place it takes
        self._slots: dict[int, int] = {}  # planes of the memory that a buffer took over
        self._special = {ZERO: 0, SINK: 0}
        self._placed: dict[int, tuple[int, int]] = {}  # of every buffer asked for after `place`: start, plane's bytes
        self._windows: dict[int, int] = {}  # rows that a windowed buffer holds
        self._window_offsets: dict[int, int] = {}
        self._halos: dict[int, tuple[int, int]] = {}  # of divided buffers
        self._scratches: list[Tenant] = []  # the scratch memory of every chain, all threads together
        self._scratch_starts: list[int] = []
        self._scratch_of: dict[int, int] = {}  # by windowed buffer

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

    def slice(self, image: Image, channels: int) -> Image:
        """A new buffer for some planes of an image that has one for itself: alike, but for their number."""
        (buffer,) = image.buffers
        new = self.new_image(channels, image.height, image.width, self.buffers[buffer].footprint)
        (made,) = new.buffers
        self.buffers[made].slack = self.buffers[buffer].slack
        self._parent[made] = buffer
        self.slices.add(made)
        self._reaches[made] = self._reaches.get(buffer, [])
        return new

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
            self._reaches.setdefault(buffer, []).append(reach)

    def walk(self, *images: Image) -> None:
        """Note that a kernel goes along the rows of these images one by one."""
        self._walked |= {ref.buffer for image in images for ref in image.planes}

    def set_lives(self, used: Sequence[set[int]]) -> None:
        """Let buffers live from the first to the last step that reads or writes them, of those that ``used`` has."""
        for buffer in self.buffers:
            buffer.born = buffer.dies = -1
        for step, buffers in enumerate(used):
            for buffer in (self.buffers[index] for index in buffers if index >= 0):
                buffer.born = step if buffer.born < 0 else buffer.born
                buffer.dies = step

    def open_windows(self, capacities: Mapping[int, int], first: int, last: int) -> None:
        """Let the buffers of the chain first..last (exclusive) hold so many rows each, in scratch memory.

        Every thread has some for itself, while the chain runs. The first plane in it takes rows beyond the last one.
        """
        self._windows |= capacities
        largest = max((self.plane_bytes(buffer) for buffer in capacities), default=0)
        top = largest + LINE
        for buffer in capacities:
            self._window_offsets[buffer] = round_up(top + self._bytes(self._window_lead(buffer)), LINE)
            top = self._window_offsets[buffer] + self.buffers[buffer].channels * self.plane_bytes(buffer)
            self._scratch_of[buffer] = len(self._scratches)
        self._scratches.append(Tenant(self.threads * round_up(top + 64 * LINE, 4096), first, last - 1))

    def open_pieces(self, pieces: Mapping[int, Piece], first: int, last: int) -> None:
        """Let every thread have rows of its own of these buffers, in scratch memory, in the region first..last.

        A piece's offsets are those of the first of its own rows. Alike pieces may have replaced each other.
        """
        self._windows |= {buffer: each.above + each.rows + each.below for buffer, each in pieces.items()}
        self._halos |= {buffer: (each.above, each.below) for buffer, each in pieces.items()}
        members = self._by_place(sorted(pieces))

        def before(buffer: int) -> int:
            above = pieces[buffer].above * self.geometry(buffer).pitch
            return round_up(self.lead_bytes(buffer) + above * self.element_bytes, LINE)

        tenants = [
            self._tenant(before(buffer) + self.buffers[buffer].channels * self.plane_bytes(buffer), those)
            for buffer, those in members.items()
        ]
        starts = places(tenants)
        top = max((self.plane_bytes(buffer) for buffer in pieces), default=0) + LINE
        for start, (buffer, those) in zip(starts, members.items(), strict=True):
            for each in those:
                self._window_offsets[each] = top + start + before(buffer)
                self._scratch_of[each] = len(self._scratches)
        size = round_up(top + extent(tenants, starts) + 64 * LINE, 4096)
        parts = [
            (thread * size + top + start, tenant)
            for thread in range(self.threads)
            for start, tenant in zip(starts, tenants, strict=True)
        ]
        sinks = [(thread * size, Tenant(top, first, last - 1)) for thread in range(self.threads)]
        self._scratches.append(Tenant(self.threads * size, first, last - 1, (*sinks, *parts)))

    def halo(self, buffer: int) -> tuple[int, int]:
        """The rows above and below that a piece of a divided buffer has room for."""
        return self._halos[buffer]

    def planes_of(self, buffer: int) -> list[PlaneRef]:
        """All planes of a buffer."""
        return [PlaneRef(buffer, index) for index in range(self.buffers[buffer].channels)]

    def is_windowed(self, image: Image) -> bool:
        """Whether only some rows of ``image`` are in memory at a time."""
        return any(ref.buffer in self._windows for ref in image.planes)

    def window_rows(self, image: Image) -> int:
        """Rows that the window of a windowed image holds."""
        return self._windows[image.planes[0].buffer]

    def scratch(self, buffer: int, thread: int) -> int:
        """Bytes from the arena's start to a thread's scratch, which the offsets of a windowed buffer count from."""
        number = self._scratch_of[buffer]
        return self._scratch_starts[number] + thread * (self._scratches[number].size // self.threads)

    def reads_border(self, image: Image) -> bool:
        """Whether any reader of the image looks left or right, and so relies on a zero border."""
        return any(reach.columns != (0, 0) for buffer in image.buffers for reach in self._reaches.get(buffer, ()))

    def sink(self, image: Image) -> int:
        """Where rows beyond the last plane of ``image`` are stored to, relative to what its own planes count from."""
        return 0 if self.is_windowed(image) else self._special[SINK]

    def window_lead(self, image: Image) -> int:
        """Zeros before a windowed plane's first position, in elements: whole vectors."""
        return self.lead_bytes(image.planes[0].buffer) // self.element_bytes

    def lead_bytes(self, buffer: int) -> int:
        """`window_lead` in bytes."""
        return self._bytes(self._window_lead(buffer))

    def _window_lead(self, buffer: int) -> int:
        return max([0, *(-reach.columns[0] for reach in self.geometry(buffer).reaches)])

    def use_together(self, first: int, last: int) -> None:
        """Let every buffer that steps first..last use live through all of them: they run band by band."""
        for buffer in self.buffers:
            if first <= buffer.born < last:
                buffer.born = first
            if first <= buffer.dies < last:
                buffer.dies = last - 1

    def replace(self, buffer: int, by: int) -> None:
        """Let the buffer ``by`` take the place of one whose last reader writes it, position by position."""
        self._replaced[by] = buffer

    def is_in_place(self, image: Image, out: Image) -> bool:
        """Whether ``out`` takes the place of ``image``, or is that."""
        return image == out or any(self._replaced.get(buffer) in image.buffers for buffer in out.buffers)

    def first_in_place(self, buffer: int) -> int:
        """The buffer that had the place of ``buffer`` first: itself, if it took none over from its reader."""
        while buffer in self._replaced:
            buffer = self._replaced[buffer]
        return buffer

    def alike(self, one: int, other: int) -> bool:
        """Whether two buffers have the same planes and margins at the same distances."""
        same = self._key(one) == self._key(other)
        return same and self.buffers[one].channels == self.buffers[other].channels

    def decide(self) -> None:
        """Fix every pitch; no image or reach may be added afterwards."""
        component = [self.component(index) for index in range(len(self.buffers))]
        self._geometry = decide(self.buffers, component, self._reaches, self._walked, self.lanes)

    def place(self, sharing: Collection[int] = ()) -> None:
        """Give every buffer its place in the arena.

        The images ``sharing`` may take over each other's memory whatever their layout; who relies on zeros clears them.
        """
        full = [i for i, b in enumerate(self.buffers) if i not in self._windows and b.born >= 0]  # others nobody uses
        largest = max((self.plane_bytes(i) for i in full if self.buffers[i].height), default=0)
        lead = max((self._bytes(g.lead) for g in self._geometry.values()), default=0)
        room = lead + largest
        alone = [i for i in full if i not in sharing]
        bottom = self._place_alike(alone, round_up(room + LINE, LINE))
        top = self._place_anywhere([i for i in full if i in sharing and self.buffers[i].born >= 0], bottom)
        # Tiles and taps may read beyond the last plane: a plane's worth of slack, whose numbers do not matter.
        self._special = {ZERO: lead, SINK: top + lead}
        self.arena_bytes = round_up(top + room + 64 * LINE, 4096)
        fresh = [self._range(i)[1] for i in full if i in sharing and self.first_in_place(i) not in self.inherited]
        self.clear_bytes = min(round_up(max([bottom, *fresh]), 4096), self.arena_bytes)
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
                buffer.offset = round_up(top + before, LINE)
                top = buffer.offset + self._planes(index) * self.plane_bytes(index)
            alive.append(index)
        return top

    def _place_anywhere(self, buffers: list[int], bottom: int) -> int:
        """Images wherever there is room while they live; returns the end."""
        members = self._by_place(buffers)
        tenants = [self._tenant(self._extent(first), those) for first, those in members.items()]
        starts = places([*tenants, *self._scratches])
        for start, (first, those) in zip(starts, members.items(), strict=False):
            for index in those:
                self.buffers[index].offset = bottom + start + self.border_bytes(first)
        self._scratch_starts = [bottom + start for start in starts[len(tenants) :]]
        ranges = {index: (*self._range(index), self._key(index)) for index in members}
        taken = list(ranges.items())
        for start, each in zip(self._scratch_starts, self._scratches, strict=True):
            taken.append((-1, (start, start + each.size, ())))
        for index, (first, last, key) in ranges.items():
            for other, (at, end, others) in taken:
                # Buffers that begin at the same place and are alike keep the same positions zero.
                if other != index and at < last and first < end and (at, others) != (first, key):
                    self.inherited.add(index)
        return bottom + extent([*tenants, *self._scratches], starts)

    def _by_place(self, buffers: Sequence[int]) -> dict[int, list[int]]:
        """Buffers by the one that had their place first."""
        members: dict[int, list[int]] = {}
        for index in buffers:
            members.setdefault(self.first_in_place(index), []).append(index)
        return members

    def _tenant(self, size: int, members: Sequence[int]) -> Tenant:
        """Who lives where these buffers are, one after another."""
        lives = [self.buffers[index] for index in members]
        return Tenant(size, min(each.born for each in lives), max(each.dies for each in lives))

    def border_bytes(self, index: int) -> int:
        """Bytes from a plane's last row to the next plane, in cache lines; as many are kept before the first plane."""
        buffer = self.buffers[index]
        written = buffer.height * self.geometry(index).pitch * self.element_bytes
        return round_up(self.plane_bytes(index) - written, LINE)

    def _extent(self, index: int) -> int:
        return self.border_bytes(index) + self.buffers[index].channels * self.plane_bytes(index)

    def _range(self, index: int) -> tuple[int, int]:
        start = self.buffers[index].offset - self.border_bytes(index)
        return start, start + self._extent(index)

    def looks_around(self, index: int) -> bool:
        """Whether any reader of the buffer relies on zeros around its pixels."""
        return any(
            min(reach.rows[0], reach.columns[0]) < 0
            or (reach.out_height - 1) * reach.step[0] + reach.rows[1] >= reach.in_height
            or (reach.out_width - 1) * reach.step[1] + reach.columns[1] >= reach.in_width
            for reach in self._reaches.get(index, [])
        )

    def needs_border(self, image: Image) -> bool:
        """Whether somebody relies on zeros around the pixels of an image, or of another that has its place."""
        return not image.buffers <= self.ragged

    def _planes(self, index: int) -> int:
        buffer = self.buffers[index]
        return self._slots.get(index, buffer.channels if buffer.height else 1)

    def _key(self, index: int) -> tuple[object, ...]:
        buffer = self.buffers[index]
        if not buffer.height:
            return ("vector", buffer.channels)
        pitch, lead = self.geometry(index).pitch, self.geometry(index).lead
        size = (buffer.height, buffer.width, pitch, lead, self.plane_bytes(index))
        return (buffer.footprint, *size, index in self.ragged)

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
            return round_up(self._bytes(buffer.channels), 4 * LINE)
        geometry = self.geometry(index)
        if index in self._windows:
            beyond = max([0, *(reach.columns[1] for reach in geometry.reaches)])
            elements = self._windows[index] * geometry.pitch + max(self.lanes, beyond)
            lines = (self._bytes(elements) + self._bytes(self._window_lead(index))) // LINE
            return (lines | 1) * LINE
        extent = buffer.height * geometry.pitch
        extent += buffer.slack
        after = [reach.after(geometry.pitch) for reach in geometry.reaches if reach.in_height <= buffer.height]
        elements = max([round_up(extent, self.lanes), extent + geometry.lead, *after])
        lines = round_up(self._bytes(elements), LINE) // LINE
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
        return round_up(elements * self.element_bytes, LINE)
