"""ONNX's Resize: which pixels every output pixel is made of, as the two matrices of the graph's own `Resize`.

The formulas are those of the operator's specification (https://onnx.ai/onnx/operators/onnx__Resize.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup.graph import ir
from flexgroup.graph._call import Unsupported
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Results
from flexgroup.graph._resize import resized
from flexgroup.graph._validate import Shape

Floats: TypeAlias = npt.NDArray[np.float64]

_LARGEST = 1 << 20  # rows or columns: more is a damaged file
_ROUNDINGS: Mapping[str, Any] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _resize(call: OnnxCall) -> Results:
    image = call.image()
    before = call.shape(image)
    after, scales = _sizes(call, before)
    if after[:2] != before[:2]:
        raise Unsupported(f"it resizes {before} to {after}; only height and width may change")
    if not 0 < min(after) <= max(after) < _LARGEST:
        raise Unsupported(f"it resizes to {after[2]}x{after[3]}; check the shape of the input")
    if call.attribute("antialias", 0) and min(scales[2:]) < 1:
        raise Unsupported("antialias=1 is not compiled; resize with antialias=0, or pool before it")
    if after == before:
        return image
    rows, columns = (_matrix(call, before[axis], after[axis], scales[axis]) for axis in (2, 3))
    return resized(call.plain(), image, rows, columns)


def _sizes(call: OnnxCall, before: Shape) -> tuple[Shape, list[float]]:
    """The result's shape, and how much larger every axis becomes."""
    axes = [int(axis) % len(before) for axis in call.attribute("axes", range(len(before)))]
    at = 1 if call.opset < 11 or call.step.operator == "Upsample" else 2
    given = call.attribute("scales")  # of Upsample before opset 9
    if given is None and call.get(at) is not None:
        given = call.constant(at, "scales").reshape(-1).tolist()
    if given:
        factors = dict(zip(axes, given, strict=True))
        full = [float(factors.get(axis, 1.0)) for axis in range(len(before))]
        return tuple(int(np.floor(size * factor)) for size, factor in zip(before, full, strict=True)), full
    sizes = dict(zip(axes, call.numbers("sizes", 3) or [], strict=True))
    factors = {axis: size / before[axis] for axis, size in sizes.items()}
    policy = call.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        one = min(factors.values()) if policy == "not_larger" else max(factors.values())
        factors = dict.fromkeys(factors, one)
        sizes = {axis: int(np.floor(one * before[axis] + 0.5)) for axis in sizes}
    after = tuple(sizes.get(axis, size) for axis, size in enumerate(before))
    return after, [float(factors.get(axis, 1.0)) for axis in range(len(before))]


def _matrix(call: OnnxCall, before: int, after: int, scale: float) -> ir.Array:
    """(after, before): how much of every input position every output position takes."""
    mode = call.attribute("mode", "nearest")
    old = call.opset < 11 or call.step.operator == "Upsample"
    positions = _positions(call, before, after, scale, old)
    if mode == "nearest":
        rounded = _ROUNDINGS[call.attribute("nearest_mode", "floor" if old else "round_prefer_floor")](positions)
        taps = [(rounded, np.ones(after))]
    elif mode in ("linear", "bilinear"):
        inside = np.clip(positions, 0, before - 1)
        first = np.floor(inside)
        taps = [(first, 1 - inside + first), (first + 1, inside - first)]
    elif mode == "cubic":
        first = np.floor(positions)
        parts = _cubic(positions - first, float(call.attribute("cubic_coeff_a", -0.75)))
        taps = [(first + offset, part) for offset, part in zip((-1, 0, 1, 2), parts, strict=True)]
    else:
        raise Unsupported(f"mode={mode} is not one of nearest, linear and cubic")
    return _gathered(taps, before, after, bool(call.attribute("exclude_outside", 0)) and mode == "cubic")


def _gathered(taps: list[tuple[Floats, Floats]], before: int, after: int, exclude_outside: bool) -> ir.Array:
    """Taps (position, weight of each output) as a matrix; those outside are moved to the edge, or left out."""
    matrix = np.zeros((after, before))
    for position, weight in taps:
        inside = np.clip(position, 0, before - 1)
        weight = np.where(inside == position, weight, 0.0) if exclude_outside else weight
        np.add.at(matrix, (np.arange(after), inside.astype(np.int64)), weight)
    if exclude_outside:
        matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix.astype(np.float32)


def _cubic(t: Floats, a: float) -> list[Floats]:
    """The weights of the four pixels around a position ``t`` behind the second (Keys, 1981)."""
    return [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1,
        ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
    ]


def _positions(call: OnnxCall, before: int, after: int, scale: float, old: bool) -> Floats:
    """Where in the input every output position lies."""
    x = np.arange(after, dtype=np.float64)
    mode = call.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if mode == "align_corners":
        return x * (before - 1) / max(after - 1, 1)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if mode == "pytorch_half_pixel" and after == 1:
        return x
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (x + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return (x + 0.5) / scale - 0.5 + before / 2 * (1 - after / (scale * before))
    raise Unsupported(f"coordinate_transformation_mode={mode} is not compiled; use half_pixel or align_corners")


RESIZE: Mapping[str, OnnxRule] = {"Resize": _resize, "Upsample": _resize}
