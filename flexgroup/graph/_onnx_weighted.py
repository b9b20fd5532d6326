"""ONNX layers with weights: convolution, matrix products, batch norm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._call import Unsupported, Value
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Results
from flexgroup.graph._onnx_file import Tensor
from flexgroup.graph._onnx_windows import border, or_sequences, pair_attribute, window_extent
from flexgroup.graph._transposed import transposed_conv2d

aten = torch.ops.aten


def _array(call: OnnxCall, name: str, array: Tensor) -> ir.Array:
    return call.plain().array(name, torch.from_numpy(np.array(array)))


def _conv(call: OnnxCall) -> Results:
    weight = call.constant(1, "weight")
    if weight.ndim != 4:
        raise Unsupported(f"{weight.ndim - 2}-d convolutions are not compiled; use 1-d or 2-d ones")
    image = call.image()
    stride, dilation = pair_attribute(call, "strides"), pair_attribute(call, "dilations")
    kernel = (weight.shape[2], weight.shape[3])
    op = ir.Conv2d(
        weight=_array(call, "weight", weight),
        bias=_bias(call, len(weight)),
        stride=stride,
        padding=border(call, image, window_extent(kernel, dilation), stride),
        dilation=dilation,
        groups=int(call.attribute("group", 1)),
    )
    return call.plain().emit(op, image)


def _conv_transpose(call: OnnxCall) -> Results:
    weight = call.constant(1, "weight")
    if weight.ndim != 4:
        raise Unsupported(f"{weight.ndim - 2}-d convolutions are not compiled; use 1-d or 2-d ones")
    image = call.image()
    if pair_attribute(call, "dilations") != (1, 1):
        raise Unsupported("dilated transposed convolutions are not compiled")
    groups, stride = int(call.attribute("group", 1)), pair_attribute(call, "strides")
    begin, size = _transposed_window(call, image, (weight.shape[2], weight.shape[3]), stride)
    bias = _bias(call, weight.shape[1] * groups)
    array = _array(call, "weight", weight)
    return transposed_conv2d(call.plain(), image, array, bias, stride=stride, begin=begin, size=size, groups=groups)


def _transposed_window(call: OnnxCall, image: Value, kernel: ir.Pair, stride: ir.Pair) -> tuple[ir.Pair, ir.Pair]:
    """Where the result begins in the full transposed convolution, and its size."""
    more = call.attribute("output_padding", (0, 0))
    how = call.attribute("auto_pad", "NOTSET")
    full = [stride[i] * (image.shape[1 + i] - 1) + kernel[i] + int(more[i]) for i in (0, 1)]
    size = call.attribute("output_shape")
    if size is None and how.startswith("SAME"):
        size = [image.shape[1 + i] * stride[i] for i in (0, 1)]
    if size is not None:
        total = [max(full[i] - int(size[-2 + i]), 0) for i in (0, 1)]
        begin = [x // 2 if how == "SAME_UPPER" else x - x // 2 for x in total]
        return (begin[0], begin[1]), (int(size[-2]), int(size[-1]))
    top, bottom, left, right = border(call, image, kernel, stride)
    return (top, left), (full[0] - top - bottom, full[1] - left - right)


def _bias(call: OnnxCall, size: int) -> ir.Array:
    return np.zeros(size, np.float32) if call.get(2) is None else _array(call, "bias", call.constant(2, "bias"))


def _gemm(call: OnnxCall) -> Results:
    """alpha * a @ b + beta * c, either matrix transposed first."""
    a = _transposed(call, 0, "transA")
    b = _transposed(call, 1, "transB")
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    c = call.get(2)
    if isinstance(b, np.ndarray):
        bias = None if c is None or isinstance(c, Value) or beta == 0 else _row(beta * c, b.shape[-1])
        product = call.apply(aten.linear.default, a, alpha * b.T, bias)
        if c is None or bias is not None or beta == 0:
            return product
    else:
        product = call.apply(aten.matmul.default, a, b)
        product = product if alpha == 1 else call.apply(aten.mul.Tensor, product, alpha)
        if c is None or beta == 0:
            return product
    return call.apply(aten.add.Tensor, product, c, alpha=beta)


def _transposed(call: OnnxCall, index: int, flag: str) -> Value | Tensor:
    matrix = call[index]
    if not call.attribute(flag, 0):
        return matrix
    return call.apply(aten.permute.default, matrix, [1, 0]) if isinstance(matrix, Value) else matrix.T


def _row(array: Tensor, size: int) -> Tensor | None:
    """``array`` as one number for each of ``size`` columns; None where its rows differ."""
    rows = array.reshape((1,) * (2 - array.ndim) + array.shape)
    return np.broadcast_to(rows[0], (size,)) if len(rows) == 1 else None


def _matmul(call: OnnxCall) -> Results:
    return call.apply(aten.matmul.default, call[0], call[1])


def _einsum(call: OnnxCall) -> Results:
    return call.apply(aten.einsum.default, call.attribute("equation"), [call[i] for i in range(len(call.inputs))])


def _batch_norm(call: OnnxCall) -> Results:
    if call.attribute("training_mode", 0):
        raise Unsupported("it normalises by the batch it sees; export the model in eval mode")
    if not call.attribute("spatial", 1):
        raise Unsupported("it has statistics for every pixel (spatial=0); use spatial=1")
    names = ("scale", "bias", "mean", "variance")
    scale, bias, mean, variance = (call.constant(index, name) for index, name in enumerate(names, start=1))
    eps = float(call.attribute("epsilon", 1e-5))
    return call.apply(aten.batch_norm.default, call.value(0), scale, bias, mean, variance, False, 0.0, eps, False)


WEIGHTED: Mapping[str, OnnxRule] = {
    "Conv": or_sequences(_conv),
    "ConvTranspose": or_sequences(_conv_transpose),
    "Gemm": _gemm,
    "Einsum": _einsum,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
}
