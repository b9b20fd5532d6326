"""The search for the price at which a budget is met, over all lines of all layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType

import numpy as np

from flexgroup.groups import _price
from flexgroup.groups._lines import FixedPoint, Ints, Lines

WORTH_A_THREAD = 200_000  # scores: below, handing work over takes longer than doing it
SAMPLE = 32  # one block in so many is looked at for a first guess
GOOD_GUESS = 0.002  # of the budget: a sample need not be solved more closely


class Crew:
    """Threads that share out the blocks of layers in static parts; the loops release the interpreter's lock."""

    def __init__(self, scores: int) -> None:
        self._parts = min(os.cpu_count() or 1, 16) if scores >= WORTH_A_THREAD else 1
        self._pool = ThreadPoolExecutor(self._parts) if self._parts > 1 else None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, jobs: Sequence[tuple[int, Callable[[int, int], object]]]) -> None:
        """For every (blocks, work), call ``work(first, last)`` until all its blocks are done."""
        if self._pool is None:
            for blocks, work in jobs:
                work(0, blocks)
            return
        waiting = []
        for blocks, work in jobs:
            bounds = [blocks * part // self._parts for part in range(self._parts + 1)]
            for first, last in pairwise(bounds):
                if first < last:
                    waiting.append(self._pool.submit(work, first, last))
        for done in waiting:
            done.result()


def blocks_of(lines: Lines) -> int:
    """Blocks of `LANES` lines."""
    return -(-lines.count // _price.LANES)


@dataclass(eq=False)
class Layer:
    """One layer in a search: its lines, how many groups it may have, and what one costs.

    Known of every block are the groups that it keeps at the bracket's lower price (``below``) and at its upper price
    (``above``). Where the two are equal the block is settled and is not looked at again.
    """

    lines: Lines
    least: int
    most: int
    cost: float = 1.0
    blocks: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    below: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    above: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    settled: int = 0
    ceiling: int = 0  # a price at which no group stays
    share: float = 1.0  # of the layer's groups that the blocks looked at can hold

    def watch(self, sample: bool) -> None:
        """Look at all blocks, or at a sample of them, with nothing known of any."""
        blocks = blocks_of(self.lines)
        self.blocks = np.arange(0, blocks, max(1, min(SAMPLE, blocks // 4)) if sample else 1, dtype=np.int64)
        lanes = np.minimum(_price.LANES, self.lines.count - self.blocks * _price.LANES)
        self.below, self.above = lanes * self.lines.most, np.zeros_like(lanes)
        self.settled = 0
        self.share = float(lanes.sum()) / max(1, self.lines.count)

    @property
    def fewest(self) -> int:
        """Groups kept at the price that was found, fewest on ties, limits aside."""
        return self.settled + int(self.above.sum())

    @property
    def most_found(self) -> int:
        """Groups kept at the next lower price: where costs are 1, the most on ties at the price that was found."""
        return self.settled + int(self.below.sum())

    def price(self, price: int) -> int:
        """The price of a group in this layer, no higher than where nothing stays, so that it fits the loops."""
        return price if self.cost == 1.0 or price < 0 else min(int(price * self.cost), self.ceiling)


def find_price(layers: Sequence[Layer], point: FixedPoint, budget: float, crew: Crew) -> tuple[int, bool]:
    """The price at which the groups of ``layers`` together cost ``budget``; and whether it is met exactly there.

    If not, it is the smallest integer price at which they cost less, fewest groups on ties: the budget lies among ties,
    between the fewest and the most groups at that price, or between two prices (costs that differ).
    """
    highest = 0
    for layer in layers:
        layer.ceiling = _ceiling(layer.lines, point)
        highest = max(highest, int(layer.ceiling / layer.cost) + 1)
    guess = None
    if sum(layer.lines.scores.size for layer in layers) >= WORTH_A_THREAD:
        guess = _bracket(layers, point, budget, highest, crew, sample=True)[0]
    return _bracket(layers, point, budget, highest, crew, guess=guess)


def _ceiling(lines: Lines, point: FixedPoint) -> int:
    """A price at which no group of the lines stays."""
    return int((float(lines.scores.max(initial=0.0)) * point.scale + 1) * lines.group_weights) + 1


def _bracket(
    layers: Sequence[Layer],
    point: FixedPoint,
    budget: float,
    highest: int,
    crew: Crew,
    *,
    sample: bool = False,
    guess: int | None = None,
) -> tuple[int, bool]:
    """`find_price`, or an estimate of it from a sample of the blocks.

    Each round asks for several prices at once, because loading a block costs more than a price: some around the
    straight line between the known totals (or around ``guess``), one in the middle, so that the bracket at least
    halves. Blocks that keep the same number of groups at both ends of the bracket are done, so rounds get quicker.
    """
    for layer in layers:
        layer.watch(sample)
    below, above = -2, highest
    at_below = _total(layers, [layer.below.sum()[None] for layer in layers])[0]
    at_above = _total(layers, [layer.above.sum()[None] for layer in layers])[0]
    while above - below > 1:
        centre, reach = _aim(below, above, at_below, at_above, budget, guess)
        guess = None
        near = {centre - reach, centre, centre + reach, (below + above) >> 1}
        prices = sorted(price for price in near if below < price < above)
        kept = _count(layers, point, prices, crew)
        totals = _total(
            layers, [counts.sum(axis=0) + layer.settled for layer, counts in zip(layers, kept, strict=True)]
        )
        chosen = next((q for q, total in enumerate(totals) if total <= budget), len(prices))
        for layer, counts in zip(layers, kept, strict=True):
            if chosen > 0:
                layer.below = counts[:, chosen - 1]
            if chosen < len(prices):
                layer.above = counts[:, chosen]
            _settle(layer)
        if chosen < len(prices) and totals[chosen] == budget:
            return prices[chosen], True
        if chosen > 0:
            below, at_below = prices[chosen - 1], totals[chosen - 1]
        if chosen < len(prices):
            above, at_above = prices[chosen], totals[chosen]
        if sample and at_below - at_above <= GOOD_GUESS * budget:
            break
    return above, False


def _aim(below: int, above: int, at_below: float, at_above: float, budget: float, guess: int | None) -> tuple[int, int]:
    """Where to look next, and how far around it."""
    if guess is not None and below < guess < above:
        return guess, max(1, guess >> 7)
    ahead = (at_below - budget) / max(1e-9, at_below - at_above)
    return below + int((above - below) * ahead), max(1, (above - below) >> 4)


def _settle(layer: Layer) -> None:
    """Put aside the blocks whose number of groups is the same at both ends."""
    equal = layer.below == layer.above
    layer.settled += int(layer.below[equal].sum())
    layer.blocks, layer.below, layer.above = layer.blocks[~equal], layer.below[~equal], layer.above[~equal]


def _count(layers: Sequence[Layer], point: FixedPoint, prices: Sequence[int], crew: Crew) -> list[Ints]:
    """For every layer the groups kept, as a (blocks, prices) array."""
    results: list[Ints] = []
    jobs: list[tuple[int, Callable[[int, int], object]]] = []
    for layer in layers:
        kept = np.zeros((layer.blocks.size, len(prices)), dtype=np.int64)
        own = np.array([layer.price(price) for price in prices], dtype=np.int64)
        results.append(kept)

        def work(first: int, last: int, layer: Layer = layer, own: Ints = own, kept: Ints = kept) -> None:
            lines = layer.lines
            _price.count_blocks(
                lines.scores, lines.geometry(), point.scale, point.count_bits, own, layer.blocks, first, last, kept
            )

        if layer.blocks.size:
            jobs.append((layer.blocks.size, work))
    crew.run(jobs)
    return results


def _total(layers: Sequence[Layer], sums: Sequence[Ints]) -> list[float]:
    """What all layers cost together, each within its limits; ``sums`` are the groups of the blocks looked at."""
    total = np.zeros(len(sums[0]) if sums else 1)
    for layer, groups in zip(layers, sums, strict=True):
        total += layer.cost * np.clip(groups / layer.share, layer.least, layer.most)
    return [float(value) for value in total]
