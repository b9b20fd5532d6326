"""Transposed convolutions: a convolution with stride 1 that computes blocks of pixels, and the blocks laid out.

With stride s, the outputs whose position is r modulo s see only the taps r, r + s, r + 2 s, ... of the kernel. So each
of the s x s remainders is a convolution of its own on the small image (Shi et al., arXiv 1609.07009).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Value
from flexgroup.graph._shuffles import to_pixels
from flexgroup.graph._views import cut


def transposed_conv2d(
    call: Call,
    image: Value,
    weight: ir.Array,
    bias: ir.Array,
    *,
    stride: ir.Pair,
    begin: ir.Pair,
    size: ir.Pair,
    groups: int,
) -> Value:
    """Rows and columns ``begin`` to ``begin + size`` of the transposed convolution of ``image``.

    ``weight`` is (in_channels, out_channels / groups, kernel_h, kernel_w), ``bias`` (out_channels,).
    """
    taps = tuple(-(-weight.shape[2 + i] // stride[i]) for i in (0, 1))
    skipped = tuple(min(begin[i] // stride[i], taps[i] - 1) for i in (0, 1))  # blocks before the first that is kept
    first = tuple(begin[i] - skipped[i] * stride[i] for i in (0, 1))
    blocks = tuple(-(-(first[i] + size[i]) // stride[i]) for i in (0, 1))
    before = tuple(taps[i] - 1 - skipped[i] for i in (0, 1))
    after = tuple(max(blocks[i] + taps[i] - 1 - before[i] - image.shape[1 + i], 0) for i in (0, 1))
    op = ir.Conv2d(
        weight=_by_remainder(weight, stride, taps, groups),
        bias=np.repeat(bias, stride[0] * stride[1]),
        padding=(before[0], after[0], before[1], after[1]),
        groups=groups,
    )
    value = call.emit(op, image)
    if stride != (1, 1):
        value = to_pixels(call, value, len(bias), stride, call.stored(value)[1:])
    for axis in (0, 1):
        value = cut(call, value, 2 + axis, first[axis], first[axis] + size[axis])
    return value


def _by_remainder(weight: ir.Array, stride: ir.Pair, taps: tuple[int, ...], groups: int) -> ir.Array:
    """The kernels of all remainders: (out_channels * s * s, in_channels / groups, taps_h, taps_w)."""
    channels, outputs, height, width = weight.shape
    grown: npt.NDArray[Any] = np.zeros((channels, outputs, taps[0] * stride[0], taps[1] * stride[1]), np.float32)
    grown[:, :, :height, :width] = weight
    apart = grown.reshape(groups, channels // groups, outputs, taps[0], stride[0], taps[1], stride[1])
    flipped = apart[:, :, :, ::-1, :, ::-1, :]
    rows = groups * outputs * stride[0] * stride[1]
    moved = flipped.transpose(0, 2, 4, 6, 1, 3, 5).reshape(rows, channels // groups, *taps)
    return np.ascontiguousarray(moved, np.float32)
