"""What shape every operator makes of its inputs, and whether a graph keeps its own rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from flexgroup._errors import FlexgroupError
from flexgroup.graph import ir

Shape: TypeAlias = tuple[int, ...]


def infer_shape(op: ir.Op, *inputs: Shape) -> Shape:
    """The shape (without batch) of ``op`` applied to values of the shapes ``inputs``.

    Raises `FlexgroupError` where they do not fit: the wrong number of inputs or of axes, other channels than
    the weight has, a window that is larger than the padded image.
    """
    shape = _RULES[type(op)](op, inputs)
    _require(all(size > 0 for size in shape), f"its output would be empty, of shape {shape}")
    return shape


def check(graph: ir.Graph) -> None:
    """Recompute order, names and shapes of ``graph``; raise `FlexgroupError` at the first that is wrong.

    Passes are tested with this: a graph that passes can be executed from the first node to the last.
    """
    known: dict[str, Shape] = {}
    for value in graph.inputs:
        _require(value in graph.shapes, f"input {value!r} has no shape")
        known[value] = graph.shapes[value]
    names: set[str] = set()
    for node in graph.nodes:
        try:
            for value in node.inputs:
                _require(value in known, f"it reads {value!r} before any node computes it")
            _require(node.output not in known, f"it computes {node.output!r} a second time")
            _require(node.name not in names, "another node has the same name")
            _check_weights(node.op)
            _check_curve(node.op)
            shape = infer_shape(node.op, *(known[value] for value in node.inputs))
            noted = graph.shapes.get(node.output)
            _require(noted == shape, f"its output is {shape}, but the graph notes {noted}")
        except FlexgroupError as error:
            raise FlexgroupError(f"graph node {node.name!r} ({type(node.op).__name__}): {error}") from None
        names.add(node.name)
        known[node.output] = shape
    for value in graph.outputs:
        _require(value in known, f"no node computes the graph's output {value!r}")
    _require(set(graph.shapes) == set(known), "the graph notes shapes of values that it does not compute")


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise FlexgroupError(complaint)


def _check_weights(op: ir.Op) -> None:
    for name in ("weight", "bias", "scale", "shift", "value", "mask", "rows", "columns"):
        array = getattr(op, name, None)
        if isinstance(array, np.ndarray):
            _require(array.dtype == np.float32, f"its {name} is {array.dtype}, not float32")


def _check_curve(op: ir.Op) -> None:
    curve = op.kind if isinstance(op, ir.Curve) else getattr(op, "curve", "")
    known = not curve or curve in ir.CURVES or ir.slope_of(curve) is not None
    _require(known, f"its curve {curve!r} is none of {', '.join(ir.CURVES)}")


def _only(inputs: tuple[Shape, ...], axes: tuple[int, ...] = (1, 3)) -> Shape:
    _require(len(inputs) == 1, f"it has {len(inputs)} inputs instead of one")
    _require(len(inputs[0]) in axes, f"it cannot take a value of shape {inputs[0]}")
    return inputs[0]


def _any(inputs: tuple[Shape, ...]) -> Shape:
    """The shape of the only input, of any number of axes."""
    return _only(inputs, tuple(range(1, 17)))


def window_count(size: int, before: int, after: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """How many windows fit ``size`` positions with ``before`` and ``after`` more around them."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def _windows(op: Any, shape: Shape, kernel: ir.Pair, dilation: ir.Pair) -> Shape:
    top, bottom, left, right = op.padding
    _require(min(op.padding) >= 0, f"its padding {op.padding} is negative")
    height = window_count(shape[1], top, bottom, kernel[0], op.stride[0], dilation[0])
    width = window_count(shape[2], left, right, kernel[1], op.stride[1], dilation[1])
    return height, width


def _conv2d(op: ir.Conv2d, inputs: tuple[Shape, ...]) -> Shape:
    _require(len(inputs) in (1, 2), f"it has {len(inputs)} inputs instead of one, or two with a residual")
    image = _only(inputs[:1], (3,))
    rows, columns, kernel_h, kernel_w = op.weight.shape
    _require(image[0] == columns * op.groups, f"its weight takes {columns * op.groups} channels, not {image[0]}")
    _require(rows % op.groups == 0, f"its {rows} output channels do not divide into {op.groups} groups")
    _require(op.bias.shape == (rows,), f"its bias is {op.bias.shape}, not {(rows,)}")
    shape = (rows, *_windows(op, image, (kernel_h, kernel_w), op.dilation))
    _require(len(inputs) == 1 or inputs[1] == shape, f"its residual is {inputs[-1]}, its output {shape}")
    return shape


def _linear(op: ir.Linear, inputs: tuple[Shape, ...]) -> Shape:
    _require(len(inputs) in (1, 2), f"it has {len(inputs)} inputs instead of one, or two with a residual")
    (*around, features) = inputs[0]
    rows, columns = op.weight.shape
    _require(features == columns, f"its weight takes {columns} features, not {features}")
    _require(op.bias.shape == (rows,), f"its bias is {op.bias.shape}, not {(rows,)}")
    shape = (*around, rows)
    _require(len(inputs) == 1 or len(shape) > 1, "a vector cannot have a residual")
    _require(len(inputs) == 1 or inputs[1] == shape, f"its residual is {inputs[-1]}, its output {shape}")
    return shape


def _affine(op: ir.Affine, inputs: tuple[Shape, ...]) -> Shape:
    shape = _any(inputs)
    _require(0 <= op.axis < len(shape), f"its axis {op.axis} is not one of {shape}")
    channels = shape[op.axis]
    _require(
        op.scale.shape == op.shift.shape == (channels,),
        f"it has {op.scale.shape} scales for {channels} channels",
    )
    return shape


def _add(op: ir.Add, inputs: tuple[Shape, ...]) -> Shape:
    return _broadcast(inputs)


def _mul(op: ir.Mul, inputs: tuple[Shape, ...]) -> Shape:
    return _broadcast(inputs)


def _broadcast(inputs: tuple[Shape, ...]) -> Shape:
    _require(len(inputs) == 2, f"it has {len(inputs)} inputs instead of two")
    first, second = inputs
    fits = len(first) == len(second) and all(a == b or 1 in (a, b) for a, b in zip(first, second, strict=True))
    _require(fits, f"its inputs differ in shape: {first} and {second}")
    return tuple(map(max, first, second))


def _clamp(op: ir.Clamp, inputs: tuple[Shape, ...]) -> Shape:
    return _any(inputs)


def _curve(op: ir.Curve, inputs: tuple[Shape, ...]) -> Shape:
    _require(bool(op.kind), "it has no kind")
    return _any(inputs)


def _resize(op: ir.Resize, inputs: tuple[Shape, ...]) -> Shape:
    channels, height, width = _only(inputs, (3,))
    taken = (op.rows.shape[1], op.columns.shape[1])
    _require((height, width) == taken, f"it resizes images of {taken[0]}x{taken[1]}, not of {height}x{width}")
    return channels, len(op.rows), len(op.columns)


def _softmax(op: ir.Softmax, inputs: tuple[Shape, ...]) -> Shape:
    shape = _any(inputs)
    _require(0 <= op.axis < len(shape), f"its axis {op.axis} is not one of {shape}")
    return shape


def _max_pool2d(op: ir.MaxPool2d, inputs: tuple[Shape, ...]) -> Shape:
    shape = _only(inputs, (3,))
    return (shape[0], *_windows(op, shape, op.kernel, op.dilation))


def _avg_pool2d(op: ir.AvgPool2d, inputs: tuple[Shape, ...]) -> Shape:
    shape = _only(inputs, (3,))
    return (shape[0], *_windows(op, shape, op.kernel, (1, 1)))


def _global_mean(op: ir.GlobalMean, inputs: tuple[Shape, ...]) -> Shape:
    return _only(inputs, (3,))[:1]


def _flatten(op: ir.Flatten, inputs: tuple[Shape, ...]) -> Shape:
    return (math.prod(_any(inputs)),)


def _slice(op: ir.Slice, inputs: tuple[Shape, ...]) -> Shape:
    shape = _any(inputs)
    _require(0 <= op.axis < len(shape), f"its axis {op.axis} is not one of {shape}")
    inside = 0 <= op.start <= op.stop <= shape[op.axis] and op.step > 0
    _require(inside, f"it takes {op.start}:{op.stop}:{op.step} of {shape[op.axis]}")
    size = len(range(op.start, op.stop, op.step))
    return (*shape[: op.axis], size, *shape[op.axis + 1 :])


def _pad(op: ir.Pad, inputs: tuple[Shape, ...]) -> Shape:
    shape = _only(inputs, (3,))
    _require(min(min(pair) for pair in op.amounts) >= 0, f"its amounts {op.amounts} are negative")
    return tuple(size + before + after for size, (before, after) in zip(shape, op.amounts, strict=True))


def _concat(op: ir.Concat, inputs: tuple[Shape, ...]) -> Shape:
    _require(len(inputs) > 0, "it has no inputs")
    first = _any(inputs[:1])
    _require(0 <= op.axis < len(first), f"its axis {op.axis} is not one of {first}")
    around = [(*shape[: op.axis], *shape[op.axis + 1 :]) for shape in inputs]
    _require(len(set(around)) == 1, f"its inputs differ beside axis {op.axis}: {', '.join(map(str, inputs))}")
    size = sum(shape[op.axis] for shape in inputs)
    return (*first[: op.axis], size, *first[op.axis + 1 :])


def _expand(op: ir.Expand, inputs: tuple[Shape, ...]) -> Shape:
    shape = _any(inputs)
    fits = len(shape) == len(op.shape) and all(a in (1, b) for a, b in zip(shape, op.shape, strict=True))
    _require(fits, f"it cannot repeat {shape} to {op.shape}")
    return op.shape


def _reshape(op: ir.Reshape, inputs: tuple[Shape, ...]) -> Shape:
    shape = _any(inputs)
    _require(math.prod(shape) == math.prod(op.shape), f"it cannot make {op.shape} of {shape}")
    return op.shape


def _permute(op: ir.Permute, inputs: tuple[Shape, ...]) -> Shape:
    shape = _any(inputs)
    _require(sorted(op.axes) == list(range(len(shape))), f"its axes {op.axes} are not those of {shape}")
    return tuple(shape[axis] for axis in op.axes)


def _constant(op: ir.Constant, inputs: tuple[Shape, ...]) -> Shape:
    _require(not inputs, f"it has {len(inputs)} inputs instead of none")
    return op.value.shape


def _layer_norm(op: ir.LayerNorm, inputs: tuple[Shape, ...]) -> Shape:
    shape = _any(inputs)
    _require(op.weight.shape == op.bias.shape == shape[-1:], f"it has {op.weight.shape} weights for {shape}")
    return shape


def _matmul(op: ir.MatMul, inputs: tuple[Shape, ...]) -> Shape:
    _require(len(inputs) == 2, f"it has {len(inputs)} inputs instead of two")
    first, second = inputs
    fits = len(first) == len(second) > 1 and first[:-2] == second[:-2] and first[-1] == second[-2]
    _require(fits, f"it cannot multiply {first} and {second}")
    return (*first[:-1], second[-1])


def _attention(op: ir.Attention, inputs: tuple[Shape, ...]) -> Shape:
    _require(len(inputs) in (3, 4), f"it has {len(inputs)} inputs instead of three, or four with numbers for the keys")
    query, key, value = inputs[:3]
    axes = len(query) == len(key) == len(value) > 1 and query[:-2] == key[:-2] == value[:-2]
    _require(axes and query[-1] == key[-1] and key[-2] == value[-2], f"it cannot attend with {query}, {key}, {value}")
    scores = (*query[:-1], key[-2])
    mask = scores if op.mask is None else op.mask.shape
    _require(mask in (scores, scores[-2:]), f"its mask is {mask}, its scores {scores}")
    _require(inputs[3:] in ((), (scores[-1:],)), f"its numbers for keys are {inputs[-1]}, its scores {scores}")
    return (*query[:-1], value[-1])


_RULES: Mapping[type, Callable[[Any, tuple[Shape, ...]], Shape]] = {
    ir.Conv2d: _conv2d,
    ir.Linear: _linear,
    ir.Affine: _affine,
    ir.Add: _add,
    ir.Mul: _mul,
    ir.Clamp: _clamp,
    ir.Curve: _curve,
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
