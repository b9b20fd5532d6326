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
    for node in graph.nodes:
        values[node.output] = _MEANINGS[type(node.op)](node.op, *(values[name] for name in node.inputs))
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


def _like(array: ir.Array, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(x.dtype)


def _border(x: torch.Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> torch.Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv2d(op: ir.Conv2d, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    weight, bias = _like(op.weight, x), _like(op.bias, x)
    y = F.conv2d(_border(x, op.padding), weight, bias, op.stride, 0, op.dilation, op.groups)
    return _clamp(op.clamp, y if residual is None else y + residual)


def _linear(op: ir.Linear, x: torch.Tensor) -> torch.Tensor:
    return _clamp(op.clamp, F.linear(x, _like(op.weight, x), _like(op.bias, x)))


def _affine(op: ir.Affine, x: torch.Tensor) -> torch.Tensor:
    channels = (-1,) + (1,) * (x.ndim - 2)
    return _clamp(op.clamp, x * _like(op.scale, x).view(channels) + _like(op.shift, x).view(channels))


def _add(op: ir.Add, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _clamp(op.clamp, a + b)


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


_MEANINGS: Mapping[type, Callable[..., torch.Tensor]] = {
    ir.Conv2d: _conv2d,
    ir.Linear: _linear,
    ir.Affine: _affine,
    ir.Add: _add,
    ir.Clamp: _clamp,
    ir.MaxPool2d: _max_pool2d,
    ir.AvgPool2d: _avg_pool2d,
    ir.GlobalMean: _global_mean,
    ir.Flatten: _flatten,
    ir.Slice: _slice,
    ir.Pad: _pad,
    ir.Concat: _concat,
}
