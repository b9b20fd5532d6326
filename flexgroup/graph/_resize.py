"""Resizing, and pools whose windows differ in size: weighted sums along rows and along columns.

Torch's operators of this kind are linear in the image and treat its two axes apart. So the matrices are what the
operators themselves make of unit vectors: rounding, borders, scales and align_corners are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Value

Matrix: TypeAlias = npt.NDArray[np.float32]
Operator: TypeAlias = Callable[[torch.Tensor, ir.Pair, int], torch.Tensor]


def separable(call: Call, value: Value, operator: Operator, kind: str = "") -> Value:
    """``value`` as ``operator`` would make it of the size of the result.

    ``operator(image, size, axis)`` changes the size of an image (batch, channels, height, width) along one axis, 0 for
    rows or 1 for columns.
    """
    _, height, width = value.shape
    # Two columns, or rows, that are alike: some operators mistake the strides of images with one.
    high = torch.eye(height)[None, :, :, None].expand(1, height, height, 2).contiguous()
    wide = torch.eye(width)[None, :, None, :].expand(1, width, 2, width).contiguous()
    rows = operator(high, (call.result[2], 2), 0)[0, :, :, 0]
    columns = operator(wide, (2, call.result[3]), 1)[0, :, 0, :]
    return resized(call, value, _matrix(rows), _matrix(columns), kind)


def _matrix(transposed: torch.Tensor) -> Matrix:
    return np.ascontiguousarray(transposed.T.numpy(), np.float32)


def resized(call: Call, value: Value, rows: Matrix, columns: Matrix, kind: str = "") -> Value:
    """``rows @ value @ columns.T``, as a slice or a pool where it is no more than that."""
    steps = [_picked(matrix) for matrix in (rows, columns)]
    if steps[0] is not None and steps[1] is not None:
        for axis, (start, step, count) in enumerate(steps, start=1):  # type: ignore[misc]
            stop = start + (count - 1) * step + 1
            if (start, stop, step) != (0, value.shape[axis], 1):
                value = call.emit(ir.Slice(axis, start, stop, step), value)
        return value
    windows = (_window(rows), _window(columns))
    if windows[0] and windows[1]:
        return call.emit(ir.AvgPool2d(windows, windows), value, kind=kind)
    return call.emit(ir.Resize(rows, columns), value, kind=kind)


def _picked(matrix: Matrix) -> tuple[int, int, int] | None:
    """(start, step, count) if every row of ``matrix`` picks one number, at equal distances."""
    if not (np.count_nonzero(matrix, axis=1) == 1).all() or not (matrix.max(axis=1) == 1).all():
        return None
    at = matrix.argmax(axis=1)
    steps = np.unique(np.diff(at)) if len(at) > 1 else np.ones(1, np.int64)
    return (int(at[0]), int(steps[0]), len(at)) if len(steps) == 1 and steps[0] > 0 else None


def _window(matrix: Matrix) -> int:
    """k if every row of ``matrix`` is the mean of the next k numbers, else 0."""
    count, size = matrix.shape
    if size % count:
        return 0
    window = size // count
    means = np.kron(np.eye(count, dtype=np.float32), np.full((1, window), 1 / window, np.float32))
    return window if np.allclose(matrix, means, rtol=0, atol=1e-7) else 0


def _upsample(name: str) -> Rule:
    """The rule of a resizing operator; overloads differ in how they are given sizes and scales."""
    overload = getattr(torch.ops.aten, name).default

    def rule(call: Call) -> Value:
        scales = call.get("scale_factors") or (call.get("scales_h"), call.get("scales_w"))
        align = [call["align_corners"]] if "align_corners" in call.arguments else []

        def operator(image: torch.Tensor, size: ir.Pair, axis: int) -> torch.Tensor:
            own = [scale if side == axis else None for side, scale in enumerate(scales)]
            resized: torch.Tensor = overload(image, size, *align, *own)
            return resized

        return separable(call, call.image("input" if "input" in call.arguments else "self"), operator)

    return rule


_NAMES = (
    *("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)

RULES: Mapping[str, Rule] = {f"aten.{name}": _upsample(name) for name in _NAMES}
