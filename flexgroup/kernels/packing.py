"""The kept groups of a weight matrix in the order in which the convolution kernels of `conv` read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexgroup.groups import cover


@dataclass(frozen=True, eq=False)
class PackedRows:
    """The kept groups of a band of rows in the order in which a kernel reads them."""

    ends: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int64]  # of every group; the caller turns them into offsets
    weights: npt.NDArray[np.float32]  # (groups, rows)

    @property
    def groups(self) -> int:
        return len(self.columns)


def pack(
    matrix: npt.NDArray[np.float32],
    pattern: npt.NDArray[np.bool_],
    form: str,
    rows: int,
    band: tuple[int, int] | None = None,
    sweep: int = 0,
) -> PackedRows:
    """The groups that cover ``pattern`` (the non-zeros of ``matrix``, M x K), in the order of a kernel of this form.

    ``band`` limits them to rows first..last, which the kernel may go through in sweeps of ``sweep`` rows. A group that
    starts above the band, or above a sweep, is cut, and comes before those that start in it: every row sums its groups
    in the same order, however the rows are shared out.
    """
    height, width = matrix.shape
    first, last = band or (0, height)
    if sweep and form == "ring":
        packs = [pack(matrix, pattern, form, rows, (at, min(at + sweep, last))) for at in range(first, last, sweep)]
        before = np.cumsum([0] + [packed.groups for packed in packs[:-1]])
        ends_of_rows = [packed.ends + count for packed, count in zip(packs, before, strict=True)]
        return PackedRows(
            np.concatenate(ends_of_rows).astype(np.int32),
            np.concatenate([packed.columns for packed in packs]),
            np.concatenate([packed.weights for packed in packs]),
        )
    strips = -(-(last - first) // rows)
    padded = np.zeros((height + 2 * rows, width), dtype=np.float32)
    padded[:height] = np.where(pattern, matrix, 0)
    if form == "dense":
        block = padded[first : first + strips * rows].copy()
        block[last - first :] = 0
        weights = block.reshape(strips, rows, width).transpose(0, 2, 1).reshape(-1, rows)
        return PackedRows(np.zeros(0, np.int32), np.arange(width), np.ascontiguousarray(weights))
    starts, columns = np.nonzero(group_starts(pattern, form, rows))
    chosen = (starts > first - rows) & (starts < last)
    starts, columns = starts[chosen], columns[chosen]
    cut = np.maximum(first - starts, 0)
    reach = np.arange(rows) + cut[:, None]
    weights = padded[starts[:, None] + reach, columns[:, None]]
    weights[reach >= rows] = 0
    stops = np.arange(1, strips * rows + 1) if form == "ring" else np.arange(1, strips + 1) * rows
    ends = np.searchsorted(starts + cut - first, stops)
    return PackedRows(ends.astype(np.int32), columns, np.ascontiguousarray(weights))


def longest_first(packed: PackedRows, rows: int) -> tuple[PackedRows, npt.NDArray[np.int64]]:
    """Strips of ``rows`` rows in the order of their numbers of groups, and the row that every row was.

    A processor foresees where a loop ends that is as long as the one before.
    """
    counts = np.diff(packed.ends, prepend=0)
    order = np.argsort(-counts, kind="stable")
    groups = np.argsort(np.repeat(np.argsort(order), counts), kind="stable")
    ends = np.cumsum(counts[order]).astype(np.int32)
    moved = PackedRows(ends, packed.columns[groups], np.ascontiguousarray(packed.weights[groups]))
    return moved, (order[:, None] * rows + np.arange(rows)).reshape(-1)


def group_starts(pattern: npt.NDArray[np.bool_], form: str, rows: int) -> npt.NDArray[np.bool_]:
    """Where groups begin: an (M x K) mask of their first rows (``form`` "ring" or "strip")."""
    if form == "ring":
        return cover(pattern, rows)
    height, width = pattern.shape
    padded = np.zeros((-(-height // rows) * rows, width), dtype=np.bool_)
    padded[:height] = pattern
    starts = np.zeros_like(padded)
    starts[::rows] = padded.reshape(-1, rows, width).any(axis=1)
    return starts[:height]
