"""The schedule of a chain: operations that run band by band, so that what passes between them stays in cache.

A band is some rows of the chain's last output. Going backwards, every operation knows which rows of its output are
needed for it; going forwards, each computes those that are not there yet. What passes between two operations of the
chain lives in a *window*, a buffer of a few rows: the rows that the next band needs again move to its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexgroup.engine._rows import Rows, Use


@dataclass(frozen=True)
class Share:
    """What one operation does in one band. Rows are the image's own, ends exclusive.

    ``base`` is the image row at the window's beginning (0 where the output is not windowed). Rows ``keep`` move there
    from where the band before had them (its base was ``before``). ``top`` and ``bottom`` are rows that have to be zero:
    those before the first that is computed, and those below the image.
    """

    operation: int
    rows: tuple[int, int]
    base: int = 0
    before: int = 0
    keep: tuple[int, int] = (0, 0)
    top: tuple[int, int] = (0, 0)
    bottom: tuple[int, int] = (0, 0)
    opens: bool = False  # the first band: whatever the window held before belongs to somebody else

    @property
    def is_empty(self) -> bool:
        return self.rows[0] >= self.rows[1]


@dataclass(frozen=True)
class Schedule:
    """The bands of one thread, and how many rows the window of every windowed operation has to hold."""

    bands: tuple[tuple[Share, ...], ...]
    capacity: Mapping[int, int]

    @property
    def computed(self) -> Mapping[int, int]:
        """How many rows every operation computes, those of neighbouring threads included."""
        rows: dict[int, int] = {}
        for band in self.bands:
            for share in band:
                rows[share.operation] = rows.get(share.operation, 0) + max(0, share.rows[1] - share.rows[0])
        return rows


def even_band(last: Rows, height: int, band: int) -> int:
    """The height that makes bands even, where ``height`` rows are cut into bands of at most ``band``."""
    bands = -(-height // last.whole(0, band)[1])
    return last.whole(0, -(-height // bands))[1]


def schedule(chain: Sequence[Rows], windowed: Sequence[bool], first: int, last: int, band: int) -> Schedule:
    """Bands of ``band`` rows for the rows first..last of the output of the chain's last operation.

    ``windowed[i]``: whether the output of operation i lives in a window; the others live in full.
    """
    producers = _producers(chain)
    count = len(chain)
    needs: list[list[tuple[int, int]]] = []
    begins: list[int | None] = [None] * count
    reached: list[int | None] = [None] * count
    halo = [0] * count
    for start in range(first, last, band):
        need = _needed(chain, producers, (start, min(start + band, last)), reached)
        for i, (low, high) in enumerate(need):
            if low >= high:
                continue
            now = reached[i]
            if now is None:
                begins[i] = now = chain[i].whole(max(0, low), 0)[0]
            if windowed[i]:
                halo[i] = max(halo[i], now - low)
            reached[i] = max(now, min(chain[i].whole(0, high)[1], chain[i].out.height))
        needs.append(need)
    done = [begin or 0 for begin in begins]
    bases = [begin - h for begin, h in zip(done, halo, strict=True)]
    bands: list[tuple[Share, ...]] = []
    capacity = {i: 0 for i in range(count) if windowed[i]}
    for number, need in enumerate(needs):
        shares = []
        for i in range(count):
            height = chain[i].out.height
            _, high = need[i]
            rows = (done[i], max(done[i], min(chain[i].whole(0, high)[1], height)))
            share = Share(i, rows)
            if windowed[i]:
                base = done[i] - halo[i]
                keep = (max(base, bases[i], 0), done[i]) if number and base != bases[i] else (0, 0)
                top = (base, done[i]) if not number else (0, 0)
                bottom = (max(height, base), high) if high > height else (0, 0)
                share = Share(i, rows, base, bases[i], keep if keep[0] < keep[1] else (0, 0), top, bottom, not number)
                capacity[i] = max(capacity[i], max(high, rows[1]) - base)
                bases[i] = base
            shares.append(share)
            done[i] = rows[1]
        bands.append(tuple(shares))
    return Schedule(tuple(bands), capacity)


def least_rows(chain: Sequence[Rows], band: int) -> list[int]:
    """How many rows of every operation's output a band needs at once: what its window has to hold, or somewhat less."""
    need = _needed(chain, _producers(chain), (0, band), [None] * len(chain))
    return [max(0, high - low) for low, high in need]


def steps_to_last(chain: Sequence[Rows]) -> list[int]:
    """How many rows of every operation's output go on for each row of the last one's."""
    producers, steps = _producers(chain), [1] * len(chain)
    for i in reversed(range(len(chain))):
        for use in chain[i].uses:
            for producer in _writers(use, producers):
                steps[producer] = max(steps[producer], steps[i] * use.step)
    return steps


def _producers(chain: Sequence[Rows]) -> dict[int, int]:
    """Which operation of a chain writes a buffer."""
    return {buffer: i for i, rows in enumerate(chain) for buffer in rows.out.buffers if buffer >= 0}


def _writers(use: Use, producers: Mapping[int, int]) -> set[int]:
    """The operations of a chain that write what is used."""
    return {producers[buffer] for buffer in use.image.buffers if buffer in producers}


def _needed(
    chain: Sequence[Rows], producers: Mapping[int, int], band: tuple[int, int], reached: Sequence[int | None]
) -> list[tuple[int, int]]:
    """For every operation the rows of its output, unclipped, that its readers need to compute what they have not yet.

    ``reached[i]`` is the first row that operation i has not computed (None: it has not begun). Nothing is needed where
    the first row is not below the last.
    """
    empty = (1 << 30, -(1 << 30))
    need = [empty] * len(chain)
    need[-1] = band
    for i in reversed(range(len(chain))):
        low, high = need[i]
        begin = reached[i]
        first, last = chain[i].whole(max(low, 0), high)
        first, last = first if begin is None else begin, min(last, chain[i].out.height)
        if first >= last:
            continue
        for use in chain[i].uses:
            rows = use.rows(first, last)
            for producer in _writers(use, producers):
                need[producer] = (min(need[producer][0], rows[0]), max(need[producer][1], rows[1]))
    return need
