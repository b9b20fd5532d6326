"""Which operations run together, in bands or in slices: the partition of a network that the cost model likes best.

What one operation writes and the next reads goes through the caches. Images that are larger than the second-level cache
come back from the third, which is several times slower than the multiply-adds of a pruned layer. In a chain they never
leave the second level. The price: fewer positions a call, rows that move within their windows, and rows at the seams of
threads that are computed twice. What slices are and cost, `_slices` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flexgroup.engine._bands import even_band, least_rows, schedule, steps_to_last
from flexgroup.engine._estimate import estimate
from flexgroup.engine._layout import ZERO, Image
from flexgroup.engine._operations import Operation, buffers_of
from flexgroup.engine._rows import Rows, operands
from flexgroup.engine._slices import Slice, share_read, slices
from flexgroup.engine._steps_chain import Chain
from flexgroup.engine._work import SHARE_OF_CACHE, MoveWork, Traffic, traffic

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

LONGEST = 14  # operations in a chain
BANDS = (1, 2, 3, 4, 5, 7, 8, 10, 14, 16, 20, 28, 32, 56)
SMALLEST = 0.2  # of the cache: chains whose images all are smaller gain nothing
SAMPLED_BANDS = 4
SURE = 0.9  # of a quick estimate of bands: they do not cost less
WORTH = 0.8  # of what the operations cost one by one: chains that promise less did not keep it
SLICED = 0.9  # of what slices are predicted to cost: they take less by as much, and half of the memory
DOUBT = 1.5  # what slices compute more counts that much: what they save of traffic is known less well


@dataclass(frozen=True, eq=False)
class Candidate:
    """A chain that could begin with operation ``first``, and what it would cost."""

    first: int
    band: int
    windowed: tuple[bool, ...]
    slots: float


class Partition(NamedTuple):
    """The operations of a network, and the chains that some of them are in."""

    operations: list[Operation]
    chains: list[Chain]


class Planner:
    """Costs of operations and of chains of them, in slots."""

    def __init__(self, builder: StepBuilder, operations: Sequence[Operation]) -> None:
        self.builder = builder
        self.layout = builder.layout
        self.operations = operations
        self.rows = [builder.rows_of(operation) for operation in operations]
        self.buffers = [frozenset(buffers_of(operation)) for operation in operations]
        self.users: dict[int, list[int]] = {}
        self.writers: dict[int, list[int]] = {}
        for i in range(len(operations)):
            for buffer in self.buffers[i]:
                self.users.setdefault(buffer, []).append(i)
            rows = self.rows[i]
            written = rows.out.buffers if rows is not None else self.buffers[i]
            for buffer in written:
                self.writers.setdefault(buffer, []).append(i)
        self._cache = builder.target.cache_bytes
        self._windows = SHARE_OF_CACHE * self._cache
        self.costs = builder.costs
        self._slots: dict[tuple[int, int, frozenset[int]], tuple[float, float]] = {}  # in all, and without traffic
        self._read: dict[int, tuple[frozenset[int], frozenset[int]]] = {}

    def best(self) -> Partition:
        """The cheapest partition of all operations."""
        count = len(self.operations)
        costs = [0.0] + [float("inf")] * count
        chosen: list[Candidate | list[Slice] | None] = [None] * (count + 1)
        for last in range(1, count + 1):
            alone = self._alone(last - 1)
            if costs[last - 1] + alone < costs[last]:
                costs[last], chosen[last] = costs[last - 1] + alone, None
            if last > 1:
                slots, sliced = self._sliced(last - 2)
                if costs[last - 2] + slots < costs[last]:
                    costs[last], chosen[last] = costs[last - 2] + slots, sliced
            for first in range(last - 2, max(-1, last - 1 - LONGEST), -1):
                if self.rows[first] is None or self.rows[last - 1] is None:
                    break
                windowed = self._windowed(first, last)
                if windowed is None:
                    continue
                if not self._fits(self._rows(first, last), windowed, 1):
                    break  # nor do longer ones
                chain = self._chain(first, windowed)
                if chain is not None and costs[first] + chain.slots < costs[last]:
                    costs[last], chosen[last] = costs[first] + chain.slots, chain
        taken: list[tuple[int, Candidate | list[Slice] | None]] = []
        at = count
        while at > 0:
            found = chosen[at]
            at = found.first if isinstance(found, Candidate) else at - (1 if found is None else 2)
            taken.append((at, found))
        return self._partition(taken[::-1])

    def _partition(self, taken: Sequence[tuple[int, Candidate | list[Slice] | None]]) -> Partition:
        """What was chosen, in order, each with the number of its first operation."""
        operations: list[Operation] = []
        chains: list[Chain] = []
        for first, found in taken:
            begin, rows = len(operations), self.rows[first]
            if isinstance(found, list):
                operations += [each for pair in found for each in pair]
                continue
            operations += self.operations[first : first + (1 if found is None else len(found.windowed))]
            if found is not None:
                windowed, band = found.windowed, found.band
            elif rows is not None and rows.grain > 1:  # only chains run rows in blocks
                windowed, band = (False,), rows.out.height
            else:
                continue
            chains.append(Chain(begin, len(operations), tuple(operations[begin:]), windowed, band, len(chains)))
        return Partition(operations, chains)

    def _sliced(self, first: int) -> tuple[float, list[Slice]]:
        """What an operation and the next cost in slices, and those; none where that cannot be.

        The same images are read and written, all but what is between, which is near. What is read once more for every
        slice comes while the one before is multiplied.
        """
        rows = self._rows(first, first + 2)
        buffer = self._own_buffer(rows[0].out, first) if len(rows) > 1 else None
        if buffer is None or not self.layout.buffers[buffer].is_whole or self.users[buffer] != [first, first + 1]:
            return math.inf, []
        sliced = slices(self.builder, self.operations[first], self.operations[first + 1])
        if not sliced:
            return math.inf, []
        between, costs, height = frozenset({buffer}), self.costs, rows[0].out.height
        slots = sum(self._estimated(first + i, each.out.height, between) for i, each in enumerate(rows))
        found = [estimate(self.builder, producer, height) for producer, _ in sliced]
        work = sum(each.work.slots(costs) for each in found if each is not None)
        more = work - self._both(first, height, between)[1] + 2 * (len(sliced) - 1) * costs.call
        again = sum(share_read(producer) for producer, _ in sliced) - 1
        moved = traffic(self.layout, self._cache, rows[0], height)
        read = again * Traffic(read=moved.read, swept_read=moved.swept_read).slots(costs)
        return SLICED * (slots + DOUBT * more + max(0.0, read - work)), sliced

    def _bytes(self, rows: Rows) -> float:
        return float(len(rows.out.planes) * rows.out.height * self.layout.pitch(rows.out) * self.layout.element_bytes)

    def _alone(self, index: int) -> float:
        """One operation on whole images."""
        rows = self.rows[index]
        return 0.0 if rows is None else self._estimated(index, rows.out.height, frozenset())

    def _computed(self, index: int) -> float:
        """What is computed of one operation on whole images, without what its images cost."""
        rows = self.rows[index]
        return 0.0 if rows is None else self._both(index, rows.out.height, frozenset())[1]

    def _estimated(self, index: int, height: int, windows: frozenset[int]) -> float:
        """One call of an operation for so many rows of its output, while these buffers live in windows."""
        return self._both(index, height, windows)[0]

    def _both(self, index: int, height: int, windows: frozenset[int]) -> tuple[float, float]:
        """A call's cost, and what of it is computing; found once."""
        key = (index, height, windows & self.buffers[index])
        if key not in self._slots:
            operation = self.operations[index]

            def is_windowed(image: Image) -> bool:
                return not windows.isdisjoint(image.buffers)

            found = estimate(self.builder, operation, height, windowed=is_windowed)
            costs = self.costs
            self._slots[key] = (0.0, 0.0) if found is None else (found.slots(costs), found.work.slots(costs))
        return self._slots[key]

    def _windowed(self, first: int, last: int) -> tuple[bool, ...] | None:
        """Which outputs of a chain can live in windows; None if these operations cannot be one."""
        windowed = []
        for i in range(first, last):
            rows = self.rows[i]
            if rows is None:
                return None
            buffer = self._own_buffer(rows.out, i)
            if buffer is None:
                return None
            users = [user for user in self.users[buffer] if user != i]
            inside = [user for user in users if first <= user < last]
            if i < last - 1 and not inside:
                return None
            windowed.append(i < last - 1 and len(inside) == len(users))
        windows = {
            rows.out.planes[0].buffer
            for i, rows in enumerate(self.rows[first:last])
            if rows is not None and windowed[i]
        }
        for i in range(first, last):
            if not self._reads_allow(i, windows):
                return None
        out = self.rows[last - 1].out  # type: ignore[union-attr]
        narrow = self.layout.pitch(out) < self.layout.lanes
        return None if narrow or not any(windowed) else tuple(windowed)

    def _own_buffer(self, out: Image, index: int) -> int | None:
        """The buffer that holds the output of an operation, and nothing else, if there is one."""
        buffer = min(out.buffers)
        is_own = len(out.buffers) == 1 and buffer >= 0 and self.writers[buffer] == [index]
        return buffer if is_own and len(out.planes) == self.layout.buffers[buffer].channels else None

    def _reads_allow(self, index: int, windows: set[int]) -> bool:
        """Kernels add all offsets of an operand to one address: its planes lie in one window, or in none."""
        for buffers in self._operands(index):
            if buffers & windows and (len(buffers) > 1 or ZERO in buffers):
                return False
        return True

    def _rows(self, first: int, last: int) -> list[Rows]:
        return [each for each in self.rows[first:last] if each is not None]

    def _fits(self, rows: Sequence[Rows], windowed: Sequence[bool], band: int) -> bool:
        """Whether windows for bands of this height could fit the cache."""
        least = least_rows(rows, even_band(rows[-1], rows[-1].out.height, band))
        return self._window_bytes(rows, {i: least[i] for i, flag in enumerate(windowed) if flag}) <= self._windows

    def _window_bytes(self, rows: Sequence[Rows], capacity: Mapping[int, int]) -> float:
        layout = self.layout
        planes = {i: len(rows[i].out.planes) * layout.pitch(rows[i].out) * layout.element_bytes for i in capacity}
        return float(sum(planes[i] * count for i, count in capacity.items()))

    def _operands(self, index: int) -> tuple[frozenset[int], frozenset[int]]:
        """The buffers that an operation's taps read, and those of its residual; found once."""
        if index not in self._read:
            rows = self.rows[index]
            assert rows is not None
            self._read[index] = operands(self.operations[index], rows)
        return self._read[index]

    def _chain(self, first: int, windowed: tuple[bool, ...]) -> Candidate | None:
        """The best bands for these operations, if a chain of them is worth a thought."""
        last = first + len(windowed)
        rows = self._rows(first, last)
        if max(self._bytes(each) for each, flag in zip(rows, windowed, strict=True) if flag) < SMALLEST * self._cache:
            return None
        height = rows[-1].out.height
        limit = WORTH * sum(self._alone(i) for i in range(first, last))
        if SURE * sum(self._computed(i) for i in range(first, last)) >= limit:
            return None  # even if nothing moved
        windows = frozenset(each.out.planes[0].buffer for each, flag in zip(rows, windowed, strict=True) if flag)
        steps = steps_to_last(rows)
        found: Candidate | None = None
        for band in dict.fromkeys(even_band(rows[-1], height, band) for band in BANDS if band < height):
            if not self._fits(rows, windowed, band):
                break  # nor do higher ones
            if self._at_least(first, rows, steps, windows, band) >= (limit if found is None else found.slots):
                continue
            slots = self._banded(first, rows, windowed, windows, band)
            if slots is not None and slots < (limit if found is None else found.slots):
                found = Candidate(first, band, windowed, slots)
        return found

    def _at_least(
        self, first: int, rows: Sequence[Rows], steps: Sequence[int], windows: frozenset[int], band: int
    ) -> float:
        """What bands of this height cost if no row is moved, or computed twice: much quicker to find than the rest.

        Somewhat less, since what the first and the last band do is not in proportion.
        """
        height, slots = rows[-1].out.height, 0.0
        for i, (each, step) in enumerate(zip(rows, steps, strict=True)):
            count = min(band * step, each.out.height)
            slots += self._estimated(first + i, count, windows) * min(height / band, each.out.height / count)
        return SURE * slots

    def _banded(
        self, first: int, rows: Sequence[Rows], windowed: tuple[bool, ...], windows: frozenset[int], band: int
    ) -> float | None:
        """The cost of a chain in bands of this height; None if its windows do not fit the cache."""
        layout, costs, height = self.layout, self.costs, rows[-1].out.height
        bands = -(-height // band)
        sample = schedule(rows, windowed, 0, min(height, SAMPLED_BANDS * band), band)
        if self._window_bytes(rows, sample.capacity) > self._windows:
            return None
        slots = 0.0
        # The first band computes more rows and keeps none: of many, those after it are typical.
        typical = sample.bands if bands <= SAMPLED_BANDS else sample.bands[1:]
        if any(each.grain == 1 and all(shares[i].is_empty for shares in typical) for i, each in enumerate(rows)):
            return None
        for shares in typical:
            for i, share in enumerate(shares):
                count, kept = share.rows[1] - share.rows[0], share.keep[1] - share.keep[0]
                if rows[i].grain == 1 and count > 0:
                    slots += self._estimated(first + i, count, windows)
                if kept:
                    planes, vectors = len(rows[i].out.planes), -(-kept * layout.pitch(rows[i].out) // layout.lanes)
                    slots += MoveWork(planes, planes * vectors).slots(costs) + costs.call
        if bands > SAMPLED_BANDS:
            slots *= height / band / len(typical)
        for i, each in enumerate(rows):
            if each.grain > 1:  # whole blocks: more in one band, fewer in the next
                done = sum(shares[i].rows[1] - shares[i].rows[0] for shares in sample.bands)
                slots += bands * self._estimated(first + i, each.grain, windows) * done / each.grain / len(sample.bands)
        return slots


def partition(builder: StepBuilder, operations: Sequence[Operation]) -> Partition:
    """The operations of a network, some of them in slices, and the chains among them, in order.

    All as they were where the target says nothing of its caches.
    """
    if not builder.target.cache_bytes:
        return Partition(list(operations), [])
    return Planner(builder, operations).best()
