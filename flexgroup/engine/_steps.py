"""From operations to steps: every table of offsets, packed weight and mask that the kernels read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from flexgroup.engine import (
    _choose,
    _steps_conv,
    _steps_copy,
    _steps_depthwise,
    _steps_linear,
    _steps_other,
    _steps_resize,
    _steps_tokens,
)
from flexgroup.engine._choose import Chooser
from flexgroup.engine._costs import Costs
from flexgroup.engine._estimate import estimate_step
from flexgroup.engine._geometry import round_up
from flexgroup.engine._layout import External, Image, Layout
from flexgroup.engine._operations import ConvOp, Operation, Tap
from flexgroup.engine._plan import ARENA, Constants, Step, reference
from flexgroup.engine._regions import Region
from flexgroup.engine._rows import Rows, rows_of
from flexgroup.engine._shares import Handing
from flexgroup.engine._sharing import Needs, clearing
from flexgroup.engine._steps_chain import Chain, chain_steps
from flexgroup.engine._steps_region import region_steps
from flexgroup.kernels import F32, LINE, Element, KernelSpec, Target

Fields = dict[str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where rows of images are: in the arena, or, for windowed images, in a thread's scratch from a row on."""

    layout: Layout
    thread: int = 0
    bases: Mapping[int, int] = field(default_factory=dict)  # by buffer: the image row that its window begins with

    def reference(self, image: Image, row: int) -> int:
        """What kernels add the offsets of planes to, if ``row`` of ``image`` is to be their first."""
        start, buffer = 0, next((ref.buffer for ref in image.planes if ref.buffer >= 0), -1)
        if buffer in self.bases:
            start, row = self.layout.scratch(buffer, self.thread), row - self.bases[buffer]
        return reference(ARENA, start + row * self.layout.pitch(image) * self.layout.element_bytes)


class StepBuilder:
    """Turns placed operations into steps and collects their constants."""

    def __init__(
        self,
        layout: Layout,
        target: Target,
        element: Element,
        *,
        threads: int,
        sparse: bool,
        inputs: int,
        chooser: Chooser,
        costs: Costs,
    ) -> None:
        self.layout = layout
        self.target = target
        self.element = element
        self.threads = threads
        self.sparse = sparse
        self.constants = Constants()
        self.input_count = inputs
        self.chooser = chooser
        self.costs = costs
        self.handing = Handing()
        self._known: dict[tuple[object, ...], Any] = {}
        self._panel_end = 0  # bytes beyond the layout's arena that panels take

    def once(self, make: Callable[[], T], *key: object) -> T:
        """What ``make`` gives, found out once for ``key``: the bands of a chain ask for the same again and again."""
        if key not in self._known:
            self._known[key] = make()
        return cast(T, self._known[key])

    @property
    def arena_bytes(self) -> int:
        """Bytes of the layout's arena and of the panels behind it."""
        return round_up(self.layout.arena_bytes + self._panel_end, 4096)

    def panel(self, size: int, thread: int) -> int:
        """A thread's memory of ``size`` bytes for the calls of one operation; what runs next may use it too."""
        most = round_up(int(_choose.PANEL_OF_CACHE * self.target.cache_bytes), LINE)
        assert size <= most, "larger ones are not chosen"
        start = thread * most
        self._panel_end = max(self._panel_end, start + size)
        return reference(ARENA, self.layout.arena_bytes + start)

    def rows_of(self, operation: Operation) -> Rows | None:
        """How the operation maps rows, found out once; the operation is kept, so that no other gets its number."""
        _, rows = self.once(lambda: (operation, rows_of(operation)), "rows", id(operation))
        return rows

    def place(self) -> Place:
        """The place of whole images."""
        return Place(self.layout)

    def build(self, operation: Operation) -> list[Step]:
        """The steps that run ``operation``, with their predicted costs."""
        steps = self.plain(operation)
        slots = estimate_step(self, operation, steps[-1]).slots(self.costs)
        return [replace(step, slots=slots / len(steps)) for step in steps]

    def plain(self, operation: Operation) -> list[Step]:
        """The steps without what the cost model says of them: several for a convolution in slabs, which is alike."""
        made = _BUILDERS[type(operation)](self, operation)
        return made if isinstance(made, list) else [made]

    def build_all(
        self,
        operations: Sequence[Operation],
        chains: Sequence[Chain],
        regions: Sequence[Region],
        shared: Mapping[int, Needs],
    ) -> Iterator[Step]:
        """The steps of a network: those of chains and regions, and one for every other operation.

        Before them come those that clear what has to be zero in ``shared`` buffers that are about to be written.
        """
        together: dict[int, Chain | Region] = {chain.first: chain for chain in chains}
        together |= {region.first: region for region in regions}
        by_rows = {index for each in together.values() for index in range(each.first, each.last)}
        births: dict[int, list[int]] = {}
        for buffer in sorted(self.layout.inherited):
            births.setdefault(self.layout.buffers[buffer].born, []).append(buffer)

        def clears(at: int) -> list[Step]:
            made = (clearing(self, buffer, shared[buffer], operations[at].name) for buffer in births.get(at, ()))
            return [step for step in made if step is not None]

        for at, operation in enumerate(operations):
            rows = self.rows_of(operation)
            if rows is not None:
                self.handing.expect(operation, rows, by_rows=at in by_rows)
        index = 0
        while index < len(operations):
            each = together.get(index)
            if isinstance(each, Region):
                yield from region_steps(self, each, clears)
                index = each.last
                continue
            yield from clears(index)
            if isinstance(each, Chain):
                steps = chain_steps(self, each)
                yield from steps[:-1]
                yield replace(steps[-1], barrier=True)
                index = each.last
            else:
                yield from self.build(operations[index])
                index += 1

    def table(self, offsets: Sequence[int] | npt.NDArray[np.int64]) -> int:
        return self.constants.add(np.asarray(offsets, dtype=np.int32))

    def numbers(self, array: npt.NDArray[np.generic]) -> int:
        """Weights and the like, rounded to what memory holds; returns the reference to them."""
        return self.constants.add(array.astype(f"f{self.element.bytes}", copy=False))

    def element_of(self, value: object) -> Element:
        """How a value's numbers are stored: the caller's arrays hold 32 bits each."""
        return F32 if isinstance(value, External) else self.element

    def moving(self, source: object, target: object) -> tuple[Element, Element | None]:
        """The elements of a kernel that copies ``source`` to ``target``: as it is read, and as it is written."""
        read, written = self.element_of(source), self.element_of(target)
        return read, None if read == written else written

    @property
    def integer(self) -> np.dtype[np.signedinteger[Any]]:
        """The type of masks: integers as long as a number."""
        return np.dtype(f"i{self.element.bytes}")

    def planes(self, image: Image) -> list[int]:
        return [self.layout.offset(ref) for ref in image.planes]

    def tap(self, tap: Tap, pitch: int) -> int:
        return self.layout.offset(tap.plane) + (tap.row * pitch + tap.column) * self.element.bytes

    def positions(self, image: Image, inside: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """An array over pixels (..., height, width) as rows over a plane's positions; the border is zero."""
        pitch, vectors = self.layout.pitch(image), self.layout.vectors(image)
        spread = np.zeros((*inside.shape[:-1], pitch), dtype=inside.dtype)
        spread[..., : image.width] = inside
        flat = np.zeros((*inside.shape[:-2], vectors * self.layout.lanes), dtype=inside.dtype)
        flat[..., : image.height * pitch] = spread.reshape(*inside.shape[:-2], -1)
        return flat

    def mask(self, image: Image, rows: int | None = None) -> int:
        """-1 for the pixels of an image, or of so many of its rows, 0 for its border; with slack for whole tiles."""
        strip = image if rows is None else replace(image, height=rows)

        def make() -> int:
            return self.constants.add(self.positions(strip, np.full((strip.height, strip.width), -1, self.integer)))

        return self.once(make, "mask", strip.height, strip.width, self.layout.pitch(strip))

    def cover(self, image: Image, rows: tuple[int, int]) -> tuple[int, int]:
        """Vectors for ``rows`` of ``image``, and the positions that they may write.

        Whole vectors in a window, whose next rows are still to come, and at the end of a plane, which has slack.
        Elsewhere not a position more, or rows of another thread would be lost; the last vectors overlap those before.
        """
        lanes = self.layout.lanes
        positions = (rows[1] - rows[0]) * self.layout.pitch(image)
        vectors = -(-positions // lanes)
        slack = self.layout.is_windowed(image) or rows == (0, image.height) or positions < lanes
        return vectors, vectors * lanes if slack else positions

    def bytes_of(self, operation: Operation, rows: tuple[int, int] | None = None) -> int:
        """Bytes of activations that an operation reads and writes, for all rows of its output or some.

        What the slices of a layer all read counts once for all of them.
        """
        mapped = self.rows_of(operation)
        if mapped is None:
            return 0
        first, last = rows or (0, mapped.out.height)
        written = len(mapped.out.planes) * (last - first) * mapped.out.width
        read = 0
        for use in mapped.uses:
            top, bottom = use.rows(first, last)
            height = min(bottom, use.image.height) - max(top, 0)
            read += use.image.distinct * max(height, 0) * use.image.width
        if isinstance(operation, ConvOp) and operation.whole is not None:
            read = read * len(mapped.out.planes) // len(operation.whole.out.planes)
        return (written + read) * self.element.bytes

    def by_range(
        self, name: str, kernel: KernelSpec, fields: Fields, count: int, dense_macs: int = 0, *, tied: int = 0
    ) -> Step:
        """A step whose items ``first..last`` are shared out evenly.

        The last two of every ``tied`` items stay on one thread: their tiles overlap, and are not written just once.
        """
        bounds = [count * part // self.threads for part in range(self.threads + 1)]
        if tied > 1:
            bounds = [bound + (bound % tied == tied - 1) for bound in bounds]
        parts = [
            tuple(kernel.signature.pack(fields | {"first": a, "last": b})) if b > a else None
            for a, b in pairwise(bounds)
        ]
        return Step(name, kernel, tuple(parts), dense_macs, dense_macs, dense_macs)


_BUILDERS: Mapping[type, Callable[[StepBuilder, Any], Step | list[Step]]] = {
    **_steps_conv.BUILDERS,
    **_steps_copy.BUILDERS,
    **_steps_depthwise.BUILDERS,
    **_steps_linear.BUILDERS,
    **_steps_other.BUILDERS,
    **_steps_resize.BUILDERS,
    **_steps_tokens.BUILDERS,
}
