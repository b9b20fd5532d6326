"""ONNX's Resize, where torch has the same: what counts is which pixels an output pixel is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from flexgroup.graph._call import Unsupported
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Results
from flexgroup.graph._validate import Shape

aten = torch.ops.aten

Positions: TypeAlias = npt.NDArray[np.float64]

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
    mode = call.attribute("mode", "nearest")
    positions = [_positions(call, before[axis], after[axis], scales[axis]) for axis in (2, 3)]
    ends = [(before[axis], after[axis]) for axis in (2, 3)]
    size = list(after[2:])
    if mode == "nearest":
        rounded = _ROUNDINGS[call.attribute("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor")]
        rows = [np.clip(rounded(x), 0, n - 1) for x, (n, _) in zip(positions, ends, strict=True)]
        for operator, shift in ((aten.upsample_nearest2d.default, 0.0), (aten._upsample_nearest_exact2d.default, 0.5)):
            torchs = [np.floor((np.arange(m) + shift) * n / m) for n, m in ends]
            if _same(rows, torchs):
                return call.apply(operator, image, size)
    elif mode in ("linear", "bilinear") and not call.attribute("antialias", 0):
        clamped = [np.clip(x, 0, n - 1) for x, (n, _) in zip(positions, ends, strict=True)]
        for align in (False, True):
            if _same(clamped, [_torch_positions(n, m, align) for n, m in ends]):
                return call.apply(aten.upsample_bilinear2d.default, image, size, align)
    raise Unsupported(
        f"mode={mode}, coordinate_transformation_mode={_coordinates(call)} to {size[0]}x{size[1]} takes other pixels "
        f"than torch's nearest and bilinear resizing do; export with one of these"
    )


def _sizes(call: OnnxCall, before: Shape) -> tuple[Shape, list[float]]:
    """The result's shape, and how much larger every axis becomes."""
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("keep_aspect_ratio_policy is not compiled; give the sizes themselves")
    axes = [int(axis) % len(before) for axis in call.attribute("axes", range(len(before)))]
    at = 1 if call.opset < 11 else 2
    scales = call.get(at)
    if scales is not None and call.constant(at, "scales").size:
        factors = dict(zip(axes, call.constant(at, "scales").reshape(-1).tolist(), strict=True))
        full = [float(factors.get(axis, 1.0)) for axis in range(len(before))]
        return tuple(int(np.floor(size * factor)) for size, factor in zip(before, full, strict=True)), full
    sizes = dict(zip(axes, call.numbers("sizes", 3) or [], strict=True))
    after = tuple(sizes.get(axis, size) for axis, size in enumerate(before))
    return after, [size / old for size, old in zip(after, before, strict=True)]


def _coordinates(call: OnnxCall) -> str:
    old = call.opset < 11 or call.step.operator == "Upsample"
    return str(call.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel"))


def _positions(call: OnnxCall, before: int, after: int, scale: float) -> Positions:
    """Where in the input every output position lies, as ONNX's coordinate transformations have it."""
    x = np.arange(after, dtype=np.float64)
    mode = _coordinates(call)
    if mode == "align_corners":
        return x * (before - 1) / max(after - 1, 1)
    if mode == "asymmetric":
        return x / scale
    if mode == "pytorch_half_pixel" and after == 1:
        return x
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (x + 0.5) / scale - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    raise Unsupported(f"coordinate_transformation_mode={mode} is not compiled; use half_pixel or align_corners")


def _torch_positions(before: int, after: int, align_corners: bool) -> Positions:
    x = np.arange(after, dtype=np.float64)
    if align_corners:
        return x * (before - 1) / max(after - 1, 1)
    return np.clip((x + 0.5) * before / after - 0.5, 0, before - 1)


def _same(ours: list[Positions], torchs: list[Positions]) -> bool:
    return all(np.abs(a - b).max() < 1e-4 for a, b in zip(ours, torchs, strict=True))


RESIZE: Mapping[str, OnnxRule] = {"Resize": _resize, "Upsample": _resize}
