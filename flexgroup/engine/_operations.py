"""A network as operations on planes: what the layout needs to know before addresses exist.

Each operation names the kernel family that will run it, the values it reads and writes, and its numbers. `emit` turns
operations into steps once every plane has an address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup.engine._layout import External, Image, PlaneRef, Vector
from flexgroup.engine._operations_tokens import TokenOperation, token_values
from flexgroup.graph.ir import Clamp

Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tap:
    """One column of a weight matrix: a plane, displaced by rows and columns."""

    plane: PlaneRef
    row: int
    column: int


@dataclass(frozen=True, eq=False)
class ConvOp:
    """``curve(clamp(matrix @ taps + bias + residual))``; one (matrix, taps) pair for every convolution group.

    ``parts`` is for sums of layers that are one matrix: their names, each with the columns that are its own.
    ``block``: rows that Winograd's method (`_winograd`) computes together; 0 where each is computed by itself. A slice
    (`_slices`) knows the ``whole`` that it is part of, whose kernel and groups it has, from output channel ``first``.
    """

    name: str
    matrices: tuple[Array, ...]
    taps: tuple[tuple[Tap, ...], ...]
    bias: Array
    clamp: Clamp
    reads: tuple[Image, ...]
    out: Image
    residual: Image | None
    curve: str = ""
    parts: tuple[tuple[str, int], ...] = ()
    block: int = 0
    whole: ConvOp | None = None
    first: int = 0


@dataclass(frozen=True, eq=False)
class DepthwiseOp:
    """One window over one input plane for every output plane: ``inputs[i]`` is what output plane i reads.

    ``corner`` is the (row, column) of the window's first entry at the first output; it is not positive.
    """

    name: str
    weight: Array  # (planes, kernel_height, kernel_width)
    bias: Array
    clamp: Clamp
    inputs: Image
    out: Image
    stride: tuple[int, int]
    dilation: tuple[int, int]
    corner: tuple[int, int]
    curve: str = ""
    reduce: str = "sum"  # or "max", a pool of values that are not negative; then the weights are not read
    is_layer: bool = True  # a pool has no weights of its own


@dataclass(frozen=True)
class PoolOp:
    """Max or mean over ``taps[channel]``; ``inside`` and ``counts`` tell which taps are pixels, at every output."""

    name: str
    form: str
    taps: tuple[tuple[Tap, ...], ...]
    inside: npt.NDArray[np.bool_]  # (taps, height, width)
    counts: npt.NDArray[np.float32]  # (height, width): what a mean divides by
    reads: tuple[Image, ...]
    out: Image


@dataclass(frozen=True)
class MeanOp:
    name: str
    image: Image
    out: Vector


@dataclass(frozen=True, eq=False)
class LinearOp:
    """``out = curve(clamp(weight @ x + bias))``; ``scratch`` is there if zeros may be skipped."""

    name: str
    weight: Array
    bias: Array
    clamp: Clamp
    x: Vector
    out: Vector
    scratch: Vector | None = None
    curve: str = ""


@dataclass(frozen=True, eq=False)
class ElementwiseOp:
    """``curve(clamp(...))`` of a + b or a * b, or of ``scale * a + shift``; vectors are one plane.

    ``form`` is "add" or "mul", with "_each" where b has one number for every plane of a, or "affine".
    """

    name: str
    a: Image | Vector
    b: Image | Vector | None
    scale: Array | None
    shift: Array | None
    clamp: Clamp
    out: Image | Vector
    form: str
    curve: str = ""


@dataclass(frozen=True, eq=False)
class ResizeOp:
    """``rows @ x @ columns.T`` for every plane; ``scratch`` has a vector for every input column, a thread."""

    name: str
    rows: Array  # (out height, height)
    columns: Array
    image: Image
    out: Image
    scratch: Vector


@dataclass(frozen=True)
class CopyOp:
    """Rectangles of the ``planes`` planes of ``source``, one for every corner in ``starts``, to planes of ``target``.

    Element (row, column) of source plane i from corner j, ``starts[j] + (row, column) * step``, goes to
    ``target_start + (row, column)`` of target plane ``j * planes + i``. Vectors are planes of one row.
    """

    name: str
    source: Image | Vector | External
    target: Image | Vector | External
    planes: int
    rows: int
    columns: int
    starts: tuple[tuple[int, int], ...] = ((0, 0),)
    step: tuple[int, int] = (1, 1)
    target_start: tuple[int, int] = (0, 0)

    @property
    def fills_rows(self) -> bool:
        """Whether rows of an image are written from end to end; then zeros follow, up to the next row."""
        return isinstance(self.target, Image) and self.target_start[1] == 0 and self.columns == self.target.width


ImageOperation: TypeAlias = ConvOp | DepthwiseOp | PoolOp | MeanOp | LinearOp | ElementwiseOp | ResizeOp | CopyOp
Operation: TypeAlias = ImageOperation | TokenOperation


def is_clean(operation: Operation) -> bool:
    """Whether zeros are written between the rows of an image, and not its pixels alone, as some copies do."""
    return not isinstance(operation, CopyOp) or operation.fills_rows


def buffers_of(operation: Operation) -> set[int]:
    """The buffers that an operation reads or writes."""
    values: list[object] = []
    if isinstance(operation, ConvOp | PoolOp):
        values = [*operation.reads, operation.out]
    elif isinstance(operation, DepthwiseOp):
        values = [operation.inputs, operation.out]
    elif isinstance(operation, MeanOp):
        values = [operation.image, operation.out]
    elif isinstance(operation, LinearOp):
        values = [operation.x, operation.out, operation.scratch]
    elif isinstance(operation, ElementwiseOp):
        values = [operation.a, operation.b, operation.out]
    elif isinstance(operation, ResizeOp):
        values = [operation.image, operation.out, operation.scratch]
    elif isinstance(operation, CopyOp):
        values = [operation.source, operation.target]
    else:
        values = [*token_values(operation)]
    used: set[int] = set()
    for value in values:
        if isinstance(value, Image):
            used |= {ref.buffer for ref in value.planes}
        elif isinstance(value, Vector):
            used.add(value.buffer)
    return used
