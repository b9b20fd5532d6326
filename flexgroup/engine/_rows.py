"""Which rows of its inputs an operation needs for some rows of its output: what makes execution in bands possible."""

from __future__ import annotations

from dataclasses import dataclass

from flexgroup.engine._layout import Image
from flexgroup.engine._operations import ConvOp, CopyOp, DepthwiseOp, Operation, PoolOp


@dataclass(frozen=True)
class Use:
    """Output rows first..last (exclusive) need rows ``first * step + above`` to ``(last - 1) * step + below``."""

    image: Image
    step: int
    above: int
    below: int

    def rows(self, first: int, last: int) -> tuple[int, int]:
        """The rows that are needed, the last exclusive; they may lie outside of the image, where they are zero."""
        return first * self.step + self.above, (last - 1) * self.step + self.below + 1


@dataclass(frozen=True)
class Rows:
    """How an operation that can run in bands maps rows: what it reads, and the image that it writes.

    It computes blocks of ``grain`` rows, the first of which begins with row 0; the image's height is a multiple.
    """

    uses: tuple[Use, ...]
    out: Image
    grain: int = 1

    def whole(self, first: int, last: int) -> tuple[int, int]:
        """The rows of all blocks that have one of first..last (exclusive)."""
        return first // self.grain * self.grain, -(-last // self.grain) * self.grain


def rows_of(operation: Operation) -> Rows | None:
    """How ``operation`` maps rows, or None if it needs whole images."""
    if isinstance(operation, ConvOp):
        taps = [tap for group in operation.taps for tap in group]
        uses = _tap_uses(operation.reads, [(tap.plane.buffer, tap.row) for tap in taps])
        if operation.residual is not None:
            uses = (*uses, Use(operation.residual, 1, 0, 0))
        return Rows(uses, operation.out, max(1, operation.block))
    if isinstance(operation, PoolOp):
        taps = [tap for channel in operation.taps for tap in channel]
        return Rows(_tap_uses(operation.reads, [(tap.plane.buffer, tap.row) for tap in taps]), operation.out)
    if isinstance(operation, DepthwiseOp):
        top, height = operation.corner[0], operation.weight.shape[1]
        below = top + (height - 1) * operation.dilation[0]
        return Rows((Use(operation.inputs, operation.stride[0], top, below),), operation.out)
    if isinstance(operation, CopyOp) and isinstance(operation.target, Image):
        whole = operation.target_start == (0, 0) and operation.rows == operation.target.height
        if not whole or operation.columns != operation.target.width:
            return None
        if not isinstance(operation.source, Image):
            return Rows((), operation.target)
        starts = [row for row, _ in operation.starts]
        return Rows((Use(operation.source, operation.step[0], min(starts), max(starts)),), operation.target)
    return None


def operands(operation: Operation, rows: Rows) -> tuple[frozenset[int], frozenset[int]]:
    """The buffers that an operation's taps read, and those of its residual.

    Kernels add all offsets of an operand to one address.
    """
    residual = operation.residual if isinstance(operation, ConvOp) else None
    taps = {buffer for use in rows.uses if use.image is not residual for buffer in use.image.buffers}
    if isinstance(operation, ConvOp):
        taps |= {tap.plane.buffer for group in operation.taps for tap in group}
    return frozenset(taps), frozenset() if residual is None else residual.buffers


def _tap_uses(reads: tuple[Image, ...], taps: list[tuple[int, int]]) -> tuple[Use, ...]:
    """One use for every image, over the rows of all taps in any of its buffers."""
    uses = []
    for image in dict.fromkeys(reads):
        rows = [row for buffer, row in taps if buffer in image.buffers]
        if rows:
            uses.append(Use(image, 1, min(rows), max(rows)))
    return tuple(uses)
