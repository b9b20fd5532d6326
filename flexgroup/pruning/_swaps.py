"""Local search for an order of channels in which aligned groups keep more: the loops, compiled by numba."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
MANY = 128  # channels; of more, each tries `PARTNERS` others in a sweep, and the search ends when a sweep gains little
PARTNERS = 64
LITTLE = 1e-3  # of the value

F = TypeVar("F", bound=Callable[..., object])


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True, fastmath=True)(function))


@dataclass
class Side:
    """One axis of a layer's scores along which channels are permuted, cut into blocks of ``extent`` entries.

    ``entries`` (channels, width, others): the scores of a channel's ``width`` adjacent entries along the axis, summed
    over groups' extent on the other axis. ``order[p]`` is the channel at place p; ``places[i]`` is where exchangeable
    channel i lies. A block's ``sums`` (blocks, others) are groups' scores, which count with what exceeds ``price``.
    Entries behind the last whole block belong to no group.
    """

    entries: Floats
    extent: int
    price: float
    places: Indices

    def __post_init__(self) -> None:
        channels, width, others = self.entries.shape
        self.order = np.arange(channels)
        blocks = channels * width // self.extent
        rows = self.entries.reshape(-1, others)[: blocks * self.extent]
        self.sums = rows.reshape(blocks, self.extent, others).sum(1)
        self.gains = np.maximum(self.sums - self.price, 0.0).sum(1)

    @property
    def value(self) -> float:
        """What groups' scores exceed the price by, in total."""
        return float(self.gains.sum())

    def copy(self) -> Side:
        """A side that exchanges channels on its own; the scores are shared."""
        twin = copy.copy(self)
        twin.order, twin.sums, twin.gains = self.order.copy(), self.sums.copy(), self.gains.copy()
        return twin

    def add_gains(self, one: int, partners: Indices, gains: Floats) -> None:
        """Add what exchanging a channel with each of its ``partners`` gains on this side."""
        _add_gains(
            self.entries, self.order, self.sums, self.gains, self.extent, self.price, self.places, one, partners, gains
        )

    def exchange(self, one: int, other: int) -> None:
        p, q = self.places[one], self.places[other]
        _exchange(self.entries, self.order, self.sums, self.gains, self.extent, self.price, p, q)


def descend(sides: list[Side], permutation: Indices, sweeps: int, random: np.random.Generator) -> None:
    """Exchange channels, the best partner for each in turn, while that gains.

    ``permutation[i]`` becomes the channel that is now where channel i was. At most ``sweeps`` times over all channels.
    Partners are all channels or, of many, some drawn at random.
    """
    count, many = len(permutation), len(permutation) > MANY
    least = 1e-9 * sum(side.value for side in sides)
    for _ in range(sweeps):
        improved, before = False, sum(side.value for side in sides)
        for one in range(count - 1):
            partners = np.arange(one + 1, count)
            if many:
                partners = random.choice(count - 1, PARTNERS, replace=False)
                partners += partners >= one
            gains = np.zeros(len(partners))
            for side in sides:
                side.add_gains(one, partners, gains)
            best = int(np.argmax(gains))
            if gains[best] > least:
                exchange(sides, permutation, one, int(partners[best]))
                improved = True
        now = sum(side.value for side in sides)
        if not improved or (many and now - before < LITTLE * now):
            break


def exchange(sides: list[Side], permutation: Indices, one: int, other: int) -> None:
    """Exchange two channels on all sides."""
    for side in sides:
        side.exchange(one, other)
    permutation[[one, other]] = permutation[[other, one]]


@_compiled
def _add_gains(
    entries: Floats,
    order: Indices,
    sums: Floats,
    old: Floats,
    extent: int,
    price: float,
    places: Indices,
    one: int,
    partners: Indices,
    gains: Floats,
) -> None:
    width, others = entries.shape[1], entries.shape[2]
    fresh = np.empty(others)
    p = places[one]
    for index in range(len(partners)):
        q = places[partners[index]]
        for pass_ in range(2):
            place = p if pass_ == 0 else q
            first, last = place * width // extent, (place * width + width - 1) // extent
            for block in range(first, min(last + 1, len(sums))):
                if pass_ == 1 and p * width // extent <= block <= (p * width + width - 1) // extent:
                    continue  # seen already
                fresh[:] = sums[block]
                _move(entries, order, extent, p, q, block, fresh)
                total = 0.0
                for k in range(others):
                    total += max(fresh[k] - price, 0.0)
                gains[index] += total - old[block]


@_compiled
def _move(entries: Floats, order: Indices, extent: int, p: int, q: int, block: int, sums: Floats) -> None:
    """Change a block's sums by the exchange of the channels at places p and q."""
    width = entries.shape[1]
    one, other = entries[order[p]], entries[order[q]]
    for t in range(width):
        if (p * width + t) // extent == block:
            for k in range(len(sums)):
                sums[k] += other[t, k] - one[t, k]
        if (q * width + t) // extent == block:
            for k in range(len(sums)):
                sums[k] += one[t, k] - other[t, k]


@_compiled
def _exchange(
    entries: Floats, order: Indices, sums: Floats, gains: Floats, extent: int, price: float, p: int, q: int
) -> None:
    width, others = entries.shape[1], entries.shape[2]
    order[p], order[q] = order[q], order[p]
    for place in (p, q):
        for block in range(place * width // extent, min((place * width + width - 1) // extent + 1, len(sums))):
            sums[block] = 0.0  # summed anew, so that roundings do not add up
            for entry in range(block * extent, (block + 1) * extent):
                sums[block] += entries[order[entry // width], entry % width]
            gains[block] = 0.0
            for k in range(others):
                gains[block] += max(sums[block, k] - price, 0.0)
