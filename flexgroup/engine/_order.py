"""The order of operations: what is copied from a larger image is copied early, so that the image may go."""

from __future__ import annotations

from collections.abc import Sequence

from flexgroup.engine._layout import Image
from flexgroup.engine._operations import CopyOp, Operation, buffers_of


def early_copies(operations: Sequence[Operation]) -> list[Operation]:
    """The operations, where a copy that is an image's last reader comes before its first, if the copy is smaller.

    A strided shortcut reads its stage's input last, one of its four phases. Copied first, the phase stays in memory
    until the shortcut is added, instead of the whole image.
    """
    order = list(operations)
    for copy in operations:
        if not isinstance(copy, CopyOp) or not isinstance(copy.source, Image) or not isinstance(copy.target, Image):
            continue
        at, read, written = order.index(copy), copy.source.buffers, copy.target.buffers
        users = [i for i, other in enumerate(order) if not read.isdisjoint(buffers_of(other))]
        readers = [i for i in users if i > _last_writer(order, users, read)]
        alone = all(written.isdisjoint(buffers_of(other)) for other in order[:at])
        if alone and readers[-1] == at and readers[0] < at and _pixels(copy.target) < _pixels(copy.source):
            order.insert(readers[0], order.pop(at))
    return order


def _last_writer(order: Sequence[Operation], users: Sequence[int], buffers: frozenset[int]) -> int:
    return max((i for i in users if _writes(order[i], buffers)), default=-1)


def _writes(operation: Operation, buffers: frozenset[int]) -> bool:
    """Whether an operation writes one of the buffers, as far as can be told."""
    out = operation.target if isinstance(operation, CopyOp) else getattr(operation, "out", None)
    return not isinstance(out, Image) or not buffers.isdisjoint(out.buffers)


def _pixels(image: Image) -> int:
    return len(image.planes) * image.height * image.width
