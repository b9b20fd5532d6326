"""Places in memory for things that live for a while: none overlaps another that lives at the same time."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tenant:
    """``size`` bytes, needed in the steps ``born`` to ``dies``.

    What has ``parts``, which begin so many bytes after it, leaves the rest to others.
    """

    size: int
    born: int
    dies: int
    parts: tuple[tuple[int, Tenant], ...] = ()

    def meets(self, other: Tenant) -> bool:
        """Whether both live at the same time."""
        return self.born <= other.dies and other.born <= self.dies


def places(tenants: Sequence[Tenant]) -> list[int]:
    """Where each begins: the best of what several orders give, each tenant in turn at the lowest place that is free.

    Finding the least memory is NP-hard; the largest first is a good order mostly, and others are better sometimes.
    """
    numbered = list(enumerate(tenants))
    orders = (
        sorted(numbered, key=lambda each: (-each[1].size, each[1].born)),
        sorted(numbered, key=lambda each: (-each[1].size * (each[1].dies - each[1].born + 1), each[1].born)),
        sorted(numbered, key=lambda each: (each[1].born, -each[1].size)),
        sorted(numbered, key=lambda each: (-each[1].dies, -each[1].size)),
    )
    found = [_in_order([number for number, _ in order], tenants) for order in orders]
    return min(found, key=lambda starts: extent(tenants, starts))


def extent(tenants: Sequence[Tenant], starts: Sequence[int]) -> int:
    """The end of the last one."""
    return max((start + tenant.size for tenant, start in zip(tenants, starts, strict=True)), default=0)


def _in_order(order: Sequence[int], tenants: Sequence[Tenant]) -> list[int]:
    starts = [0] * len(tenants)
    taken: list[tuple[int, int, Tenant]] = []  # start, a number to sort by, and who is there
    for number in order:
        tenant, start = tenants[number], 0
        for at, _, other in taken:
            if tenant.meets(other) and at < start + tenant.size and start < at + other.size:
                start = at + other.size
        starts[number] = start
        for offset, each in tenant.parts or ((0, tenant),):
            insort(taken, (start + offset, len(taken), each))
    return starts
