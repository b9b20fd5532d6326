"""What a graph means, slowly and plainly: the twin that every faster engine is tested against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from flexgroup._errors import FlexgroupError
from flexgroup.graph import ir


def evaluate(
    graph: ir.Graph, inputs: Mapping[str, npt.NDArray[Any]] | Sequence[npt.NDArray[Any]]
) -> tuple[npt.NDArray[Any], ...]:
    """The outputs of ``graph``, in order, for ``inputs`` by name or in order; all have the batch first.

    Computes in the type of the inputs: float64 arrays give the answer to float64 precision of the float32
    weights. Raises `FlexgroupError` where the inputs are not those of the graph.
    """
    values = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in _named(graph, inputs).items()}
    some = next(iter(values.values()))
    for node in graph.nodes:
        operands = [values[name] for name in node.inputs] or [some]  # a constant takes its batch from any input
        values[node.output] = _MEANINGS[type(node.op)](node.op, *operands)
    return tuple(values[name].numpy() for name in graph.outputs)


def _named(graph: ir.Graph, inputs: Any) -> dict[str, npt.NDArray[Any]]:
    named = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(graph.inputs, inputs, strict=False))
    if len(inputs) != len(graph.inputs) or set(named) != set(graph.inputs):
        raise FlexgroupError(
            f"the graph's inputs are {', '.join(graph.inputs)}; {len(inputs)} arrays do not match them"
        )
    for name, array in named.items():
        if array.shape[1:] != graph.shapes[name]:
            expected = ", ".join(map(str, graph.shapes[name]))
            raise FlexgroupError(
                f"input {name!r} is of shape {array.shape}; the graph was made for (batch, {expected})"
            )
    return named


def _clamp(clamp: ir.Clamp, x: torch.Tensor) -> torch.Tensor:
    return x if clamp.is_identity else x.clamp(clamp.low, clamp.high)


_CURVES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "hard_swish": F.hardswish,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, threshold=ir.INF),
    "log": torch.log,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "erf": torch.erf,
}


def _curve(curve: str, x: torch.Tensor) -> torch.Tensor:
    slope = ir.slope_of(curve)
    if slope is not None:
        return F.leaky_relu(x, slope)
    return _CURVES[curve](x) if curve else x


def _finish(op: Any, x: torch.Tensor) -> torch.Tensor:
    """What operators do to their result: the clamp, then the curve."""
    return _curve(op.curve, _clamp(op.clamp, x))


def _like(array: ir.Array, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(x.dtype)


def _border(x: torch.Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> torch.Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv2d(op: ir.Conv2d, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    weight, bias = _like(op.weight, x), _like(op.bias, x)
    y = F.conv2d(_border(x, op.padding), weight, bias, op.stride, 0, op.dilation, op.groups)
    return _finish(op, y if residual is None else y + residual)


def _linear(op: ir.Linear, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    y = F.linear(x, _like(op.weight, x), _like(op.bias, x))
    return _finish(op, y if residual is None else y + residual)


def _affine(op: ir.Affine, x: torch.Tensor) -> torch.Tensor:
    channels = (-1,) + (1,) * (x.ndim - 2 - op.axis)
    return _finish(op, x * _like(op.scale, x).view(channels) + _like(op.shift, x).view(channels))


def _add(op: ir.Add, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _finish(op, a + b)


def _mul(op: ir.Mul, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _finish(op, a * b)


def _resize(op: ir.Resize, x: torch.Tensor) -> torch.Tensor:
    return _like(op.rows, x) @ x @ _like(op.columns, x).T


def _softmax(op: ir.Softmax, x: torch.Tensor) -> torch.Tensor:
    return x.softmax(op.axis + 1)


def _max_pool2d(op: ir.MaxPool2d, x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(_border(x, op.padding, -ir.INF), op.kernel, op.stride, 0, op.dilation)


def _avg_pool2d(op: ir.AvgPool2d, x: torch.Tensor) -> torch.Tensor:
    mean = F.avg_pool2d(_border(x, op.padding), op.kernel, op.stride)
    if op.count_include_pad:
        return mean
    return mean / F.avg_pool2d(_border(torch.ones_like(x), op.padding), op.kernel, op.stride)


def _global_mean(op: ir.GlobalMean, x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def _flatten(op: ir.Flatten, x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def _slice(op: ir.Slice, x: torch.Tensor) -> torch.Tensor:
    index = [slice(None)] * x.ndim
    index[op.axis + 1] = slice(op.start, op.stop, op.step)
    return x[tuple(index)]


def _pad(op: ir.Pad, x: torch.Tensor) -> torch.Tensor:
    channels, rows, columns = op.amounts
    return F.pad(x, (*columns, *rows, *channels))


def _concat(op: ir.Concat, *parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts, op.axis + 1)


def _expand(op: ir.Expand, x: torch.Tensor) -> torch.Tensor:
    return x.expand(len(x), *op.shape)


def _reshape(op: ir.Reshape, x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), *op.shape)


def _permute(op: ir.Permute, x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, *(axis + 1 for axis in op.axes))


def _constant(op: ir.Constant, some: torch.Tensor) -> torch.Tensor:
    return _like(op.value, some).expand(len(some), *op.value.shape)


def _layer_norm(op: ir.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    if op.centred:
        return F.layer_norm(x, op.weight.shape, _like(op.weight, x), _like(op.bias, x), op.eps)
    return F.rms_norm(x, op.weight.shape, _like(op.weight, x), op.eps) + _like(op.bias, x)


def _matmul(op: ir.MatMul, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return op.scale * (a @ b)


def _attention(op: ir.Attention, query: torch.Tensor, key: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    scores = op.scale * (query @ key.transpose(-2, -1))
    if op.mask is not None:
        scores = scores + _like(op.mask, scores)
    value, *by_key = others
    for numbers in by_key:
        scores = scores + numbers.reshape(len(numbers), *(1,) * (scores.ndim - 2), -1)
    return scores.softmax(-1) @ value


_MEANINGS: Mapping[type, Callable[..., torch.Tensor]] = {
    ir.Conv2d: _conv2d,
    ir.Linear: _linear,
    ir.Affine: _affine,
    ir.Add: _add,
    ir.Mul: _mul,
    ir.Clamp: _clamp,
    ir.Curve: lambda op, x: _curve(op.kind, x),
    ir.MaxPool2d: _max_pool2d,
    ir.AvgPool2d: _avg_pool2d,
    ir.GlobalMean: _global_mean,
    ir.Resize: _resize,
    ir.Softmax: _softmax,
    ir.Flatten: _flatten,
    ir.Slice: _slice,
    ir.Pad: _pad,
    ir.Concat: _concat,
    ir.Expand: _expand,
    ir.Reshape: _reshape,
    ir.Permute: _permute,
    ir.Constant: _constant,
    ir.LayerNorm: _layer_norm,
    ir.MatMul: _matmul,
    ir.Attention: _attention,
}
