"""The order of operations: what is copied from a larger image is copied early, so that the image may go."""

from __future__ import annotations

from collections.abc import Sequence

from flexgroup.engine._layout import External, Image, Vector
from flexgroup.engine._operations import CopyOp, Operation, buffers_of


def early_copies(operations: Sequence[Operation]) -> list[Operation]:
    """The operations, where a copy that is an image's last reader comes before its first, if the copy is smaller.

    A strided shortcut reads its stage's input last, one of its four phases. Copied first, the phase stays in memory
    until the shortcut is added, instead of the whole image.
    """
    order, buffers = list(operations), {id(operation): buffers_of(operation) for operation in operations}
    for copy in operations:
        if not isinstance(copy, CopyOp) or not isinstance(copy.source, Image) or not isinstance(copy.target, Image):
            continue
        if _pixels(copy.target) >= _pixels(copy.source):
            continue
        at, read, written = order.index(copy), copy.source.buffers, copy.target.buffers
        users = [i for i, other in enumerate(order) if not read.isdisjoint(buffers[id(other)])]
        complete = max((i for i in users if _writes(order[i], read)), default=-1)
        first = next((i for i in users if i > complete), at)
        if first < at == users[-1] and all(written.isdisjoint(buffers[id(other)]) for other in order[:at]):
            order.insert(first, order.pop(at))
    return order


def _writes(operation: Operation, buffers: frozenset[int]) -> bool:
    """Whether an operation may write one of the buffers: all but those that are known to write elsewhere."""
    out = getattr(operation, "target", getattr(operation, "out", None))
    if isinstance(out, Image):
        return not buffers.isdisjoint(out.buffers)
    return not isinstance(out, External | Vector) or (isinstance(out, Vector) and out.buffer in buffers)


def _pixels(image: Image) -> int:
    return len(image.planes) * image.height * image.width
