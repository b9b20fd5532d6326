"""ONNX operators that look at windows of an image or reduce over axes: convolutions' padding, pools, means."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Unsupported, Value
from flexgroup.graph._composed import window_means
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Operand, Results
from flexgroup.graph._windows import Border, average

aten = torch.ops.aten


def or_sequences(rule: OnnxRule) -> OnnxRule:
    """``rule``, which is for images, for sequences (channels, length) too."""

    def either(call: OnnxCall) -> Results:
        if len(call.shape(call.value(0))) != 3:
            return rule(call)
        rows = rule(call.of_one_row())
        assert isinstance(rows, Value), "one image comes of one image"
        shape = call.shape(rows)
        return call.apply(aten.view.default, rows, [*shape[:2], *shape[3:]])

    return either


def pair_attribute(call: OnnxCall, name: str) -> ir.Pair:
    """Attribute ``name`` as (height, width); (1, 1) where it is left out."""
    numbers = [int(x) for x in call.attribute(name, (1, 1))]
    if len(numbers) != 2:
        raise Unsupported("only 2-d windows, over (batch, channels, height, width), are compiled")
    return numbers[0], numbers[1]


def border(call: OnnxCall, image: Value, extent: ir.Pair, stride: ir.Pair) -> Border:
    """The padding that ``auto_pad`` or ``pads`` asks for, around windows of ``extent``."""
    how = call.attribute("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        sides: list[int] = []
        for size, window, step in zip(image.shape[1:], extent, stride, strict=True):
            total = max((-(-size // step) - 1) * step + window - size, 0)
            less, more = total // 2, total - total // 2
            sides += (less, more) if how == "SAME_UPPER" else (more, less)
        return sides[0], sides[1], sides[2], sides[3]
    pads = [0, 0, 0, 0] if how == "VALID" else [int(x) for x in call.attribute("pads", (0, 0, 0, 0))]
    if min(pads) < 0:
        raise Unsupported(f"its pads {pads} are negative; cut the image with a Slice instead")
    top, left, bottom, right = pads
    return top, bottom, left, right


def window_extent(kernel: ir.Pair, dilation: ir.Pair) -> ir.Pair:
    """How many rows and columns a dilated window spans."""
    return dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1


def _more_at_the_end(call: OnnxCall, image: Value, around: Border, extent: ir.Pair, stride: ir.Pair) -> ir.Pair:
    """How many rows and columns ``ceil_mode`` adds below and to the right; a window never starts in the padding."""
    if not call.attribute("ceil_mode", 0):
        return 0, 0
    more = []
    for axis in (0, 1):
        size, before, after = image.shape[1 + axis], around[2 * axis], around[2 * axis + 1]
        count = -(-(size + before + after - extent[axis]) // stride[axis]) + 1
        if (count - 1) * stride[axis] >= size + before:
            count -= 1
        more.append(max((count - 1) * stride[axis] + extent[axis] - size - before - after, 0))
    return more[0], more[1]


def _max_pool(call: OnnxCall) -> Results:
    if call.attribute("storage_order", 0):
        raise Unsupported("storage_order=1 is not compiled; export with storage_order=0")
    image = call.image()
    kernel, stride, dilation = (pair_attribute(call, name) for name in ("kernel_shape", "strides", "dilations"))
    extent = window_extent(kernel, dilation)
    top, bottom, left, right = around = border(call, image, extent, stride)
    below, beside = _more_at_the_end(call, image, around, extent, stride)
    op = ir.MaxPool2d(kernel, stride, (top, bottom + below, left, right + beside), dilation)
    return call.plain().emit(op, image)


def _average_pool(call: OnnxCall) -> Results:
    image = call.image()
    kernel, stride, dilation = (pair_attribute(call, name) for name in ("kernel_shape", "strides", "dilations"))
    if dilation != (1, 1):
        raise Unsupported("dilated average pools are not compiled")
    around = border(call, image, kernel, stride)
    more = _more_at_the_end(call, image, around, kernel, stride)
    counted = bool(call.attribute("count_include_pad", 0))
    return average(call.plain(), image, kernel, stride, around, more, counted=counted)


def _global_average_pool(call: OnnxCall) -> Results:
    axes = list(range(2, len(call.shape(call.value(0)))))
    return call.apply(aten.mean.dim, call.value(0), axes, True)


def _global_max_pool(call: OnnxCall) -> Results:
    image = call.image()
    whole = (image.shape[1], image.shape[2])
    return call.plain().emit(ir.MaxPool2d(whole, whole), image)


def _local_response_norm(call: OnnxCall) -> Results:
    """``x / (bias + alpha * m)^beta``, where m is the mean of squares over a window of channels."""
    size = int(call.attribute("size"))
    alpha, beta, bias = (float(call.attribute(*each)) for each in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    x = call.image()
    squares = call.plain(square=call.apply(aten.square.default, x)).image("square")
    means: Operand = window_means(call.plain(), squares, size, x.shape[0], (size - 1) // 2)
    base = call.apply(aten.add.Tensor, call.apply(aten.mul.Tensor, means, alpha), bias)
    return call.apply(aten.div.Tensor, x, call.apply(aten.pow.Tensor_Scalar, base, beta))


def _reduced(call: OnnxCall) -> list[int] | None:
    """The axes that a reduction is over, counted from the front; None where there are none to reduce."""
    count = len(call.shape(call.value(0)))
    axes = call.numbers("axes", 1)
    if not axes:
        return None if axes is not None and call.attribute("noop_with_empty_axes", 0) else list(range(count))
    return sorted({axis % count for axis in axes})


def _reduce(
    operator: torch._ops.OpOverload,
    before: torch._ops.OpOverload | None = None,
    after: torch._ops.OpOverload | None = None,
) -> OnnxRule:
    """A rule for ``after(operator(before(value), axes, keepdim))``; ``before`` and ``after`` are of every number."""

    def rule(call: OnnxCall) -> Results:
        axes = _reduced(call)
        value: Operand = call.value(0)
        if before is not None:
            value = call.apply(before, value)
        if axes is not None:
            value = call.apply(operator, value, axes, bool(call.attribute("keepdims", 1)))
        return value if after is None else call.apply(after, value)

    return rule


WINDOWS: Mapping[str, OnnxRule] = {
    "MaxPool": or_sequences(_max_pool),
    "AveragePool": or_sequences(_average_pool),
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": or_sequences(_global_max_pool),
    "ReduceMean": _reduce(aten.mean.dim),
    "ReduceSum": _reduce(aten.sum.dim_IntList),
    "ReduceMax": _reduce(aten.amax.default),
    "ReduceL1": _reduce(aten.sum.dim_IntList, aten.abs.default),
    "ReduceL2": _reduce(aten.sum.dim_IntList, aten.square.default, aten.sqrt.default),
    "ReduceLogSum": _reduce(aten.sum.dim_IntList, None, aten.log.default),
    "ReduceLogSumExp": _reduce(aten.logsumexp.default),
    "LRN": _local_response_norm,
    "ReduceSumSquare": _reduce(aten.sum.dim_IntList, aten.square.default),
}
