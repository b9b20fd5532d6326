"""Which kernel every convolution gets, and the slabs of its input planes that it runs in.

Groups of one or two rows multiply little by what they load: they wait for the second-level cache where all strips
together read more than the first level holds. So a convolution may take its input planes slab by slab, each as large as
that level: all rows of the output for the first, then for the next, which adds to what the output holds. Sums wait
there in 32 bits, as they would in registers. A thread adds to what it wrote itself, and waits for no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import HEIGHTS, Choice, Layer
from flexgroup.engine._operations import ConvOp, Tap
from flexgroup.engine._work import SHARE_OF_CACHE
from flexgroup.graph.ir import IDENTITY

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

SLICED = "; slice by slice of its channels with the layer that reads them"


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """A convolution with the kernel that was chosen for it: what every call of it has in common."""

    op: ConvOp
    layer: Layer
    patterns: tuple[npt.NDArray[np.bool_], ...]
    choice: Choice

    @property
    def reason(self) -> str:
        """Why it runs as it does."""
        return self.choice.reason + (SLICED if self.op.whole is not None else "")

    @property
    def useful_macs(self) -> int:
        """Non-zero weights: multiply-accumulates a position."""
        return sum(int((matrix != 0).sum()) for matrix in self.op.matrices)

    @property
    def dense_macs(self) -> int:
        return sum(matrix.size for matrix in self.op.matrices)

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """What share of the non-zero weights is each layer's, if this is a sum of layers."""
        shares, first = [], 0
        for name, columns in self.op.parts:
            own = self.op.matrices[0][:, first : first + columns]
            shares.append((name, int(np.count_nonzero(own)) / max(1, self.useful_macs)))
            first += columns
        return tuple(shares)


def layer_of(builder: StepBuilder, op: ConvOp, rows: int) -> Layer:
    """What the choice of a kernel for ``op`` depends on, when a call computes so many rows; patterns are found once."""

    def make() -> Layer:
        patterns = [matrix != 0 if builder.sparse else np.ones(matrix.shape, np.bool_) for matrix in op.matrices]
        displaced = len({(tap.row, tap.column) for tap in op.taps[0]}) > 1
        pattern = np.concatenate(patterns) if len(patterns) > 1 else patterns[0]
        every = [tap for group in op.taps for tap in group]
        planes, segments = len({tap.plane for tap in every}), len({(tap.plane, tap.row) for tap in every})
        first, last = reach(every)
        pitch, lanes, blocks = builder.layout.pitch(op.out), builder.layout.lanes, len(op.matrices)
        inputs = sum(image.distinct * image.height * builder.layout.pitch(image) for image in op.reads)
        far = inputs * builder.element.bytes > SHARE_OF_CACHE * builder.target.cache_bytes
        reads = (planes, segments, last - first, far)
        rowwise = bool(builder.target.triple)  # GPUs have narrow vectors
        moved = (sum(image.distinct for image in op.reads), op.residual is not None)
        form = (op.out.width, pitch, lanes, displaced)
        return Layer(pattern, 0, *form, *reads, builder.element, rowwise, blocks, *moved)

    return replace(builder.once(make, "layer", id(op)), rows=rows)


def conv_layer(builder: StepBuilder, op: ConvOp, rows: int) -> ConvLayer:
    """``op`` with the best kernel for calls that compute so many rows of the output; chosen once.

    A grouped convolution is a block-diagonal matrix, always run as groups.
    """
    return builder.once(lambda: _conv_layer(builder, op, rows), "conv", id(op), rows)


def _conv_layer(builder: StepBuilder, op: ConvOp, rows: int) -> ConvLayer:
    layer = layer_of(builder, op, rows)
    count = len(op.matrices)
    patterns = tuple(np.split(layer.pattern, count)) if count > 1 else (layer.pattern,)
    if op.whole is not None:
        return ConvLayer(op, layer, patterns, replace(conv_layer(builder, op.whole, rows).choice, sweep=0))
    if count == 1:
        choice = builder.chooser(layer, builder.target, sparse=builder.sparse, heights=HEIGHTS)
        return ConvLayer(op, layer, patterns, choice)
    heights = tuple(height for height in HEIGHTS if len(patterns[0]) % height == 0)
    choice = builder.chooser(layer, builder.target, sparse=True, heights=heights)
    if choice.form == "dense":
        choice = replace(choice, form="strip" if choice.rows > 1 else "ring")
    return ConvLayer(op, layer, patterns, choice)


def slabs_of(builder: StepBuilder, conv: ConvLayer) -> tuple[ConvLayer, ...]:
    """The slabs of a convolution's input planes, in order, each as a convolution that adds to the one before."""
    if conv.choice.slabs == 1:
        return (conv,)
    return builder.once(lambda: tuple(_slabs(builder, conv)), "slabs", id(conv.op), conv.layer.rows)


def _slabs(builder: StepBuilder, conv: ConvLayer) -> Iterator[ConvLayer]:
    op, choice, rows = conv.op, conv.choice, conv.layer.rows
    wholes: Sequence[ConvOp | None] = [None] * choice.slabs
    if op.whole is not None:
        wholes = [slab.op for slab in slabs_of(builder, conv_layer(builder, op.whole, rows))]
    (taps,) = op.taps
    numbers = {plane: number for number, plane in enumerate(dict.fromkeys(tap.plane for tap in taps))}
    slab_of = np.array([numbers[tap.plane] * choice.slabs // len(numbers) for tap in taps])
    last = choice.slabs - 1
    for number, whole in enumerate(wholes):
        columns = np.flatnonzero(slab_of == number)
        slab = replace(
            op,
            matrices=(np.ascontiguousarray(op.matrices[0][:, columns]),),
            taps=(tuple(taps[column] for column in columns),),
            bias=op.bias if number == 0 else np.zeros_like(op.bias),
            residual=op.residual if number == 0 else op.out,
            clamp=op.clamp if number == last else IDENTITY,
            curve=op.curve if number == last else "",
            parts=(),  # they are the whole's
            whole=whole,
        )
        layer = layer_of(builder, slab, rows)
        groups = layer.groups(choice.form, choice.rows)
        yield ConvLayer(slab, layer, (layer.pattern,), replace(choice, groups=groups, slabs=1))


def reach(taps: Sequence[Tap]) -> tuple[int, int]:
    """The first and the last column of taps, relative to the position."""
    columns = [tap.column for tap in taps] or [0]
    return min(columns), max(columns)
