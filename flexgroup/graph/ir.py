"""The typed graph: what a network is once torch is out of the picture.

A graph is a list of nodes in execution order. Every activation is a named value whose shape leaves out the
batch dimension: ``(channels, height, width)`` for images, ``(features,)`` for vectors, ``(tokens, features)`` for
sequences, ``(heads, tokens, features)`` and the like within attention. Operators are frozen dataclasses that own their
weights as numpy arrays. Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]
Pair: TypeAlias = tuple[int, int]

INF = float("inf")


@dataclass(frozen=True)
class Clamp:
    """``min(max(x, low), high)``: relu is ``Clamp(0)``, relu6 ``Clamp(0, 6)``, ``Clamp()`` does nothing."""

    low: float = -INF
    high: float = INF

    @property
    def is_identity(self) -> bool:
        return self.low == -INF and self.high == INF

    def then(self, after: Clamp) -> Clamp:
        """The clamp that equals this one followed by ``after``."""
        low = min(max(self.low, after.low), after.high)
        high = min(max(self.high, after.low), after.high)
        return Clamp(low, high)


IDENTITY = Clamp()

CURVES = (
    *("sigmoid", "silu", "hard_swish", "tanh", "gelu", "gelu_tanh", "mish", "softplus"),
    *("exp", "log", "sqrt", "reciprocal", "erf"),
)
"""Activation functions that are no clamps, by name; `leaky_relu` makes one more for every slope.

``hard_swish`` is ``x * clamp(x + 3, 0, 6) / 6``, ``gelu`` the exact one, ``gelu_tanh`` its approximation by tanh,
``softplus`` ``log(1 + exp(x))``, ``reciprocal`` ``1 / x``.
Hard sigmoid is an `Affine` with a clamp.
"""

_LEAKY = "leaky_relu_"


def leaky_relu(slope: float) -> str:
    """The curve ``x if x > 0 else slope * x``: a name that holds the bits of ``slope`` as a float32."""
    return f"{_LEAKY}{int(np.float32(slope).view(np.uint32)):08x}"


def slope_of(curve: str) -> float | None:
    """The slope of a curve that `leaky_relu` made, None for any other."""
    if not curve.startswith(_LEAKY):
        return None
    return float(np.uint32(int(curve.removeprefix(_LEAKY), 16)).view(np.float32))


@dataclass(frozen=True)
class Curve:
    """An activation function, one of `CURVES` or a leaky relu, on every number.

    Operators that have a field ``curve`` apply it to their result, after the clamp; "" is none.
    """

    kind: str


@dataclass(frozen=True, eq=False)
class Conv2d:
    """2-D convolution, then ``+ bias``, ``+ second input`` if there is one (a residual), ``clamp`` and ``curve``.

    ``weight`` is (out_channels, in_channels / groups, kernel_h, kernel_w); ``padding`` is (top, bottom, left,
    right).
    """

    weight: Array
    bias: Array  # (out_channels,), zeros where the layer has none
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    clamp: Clamp = IDENTITY
    curve: str = ""


@dataclass(frozen=True, eq=False)
class Linear:
    """``curve(clamp(weight @ x + bias))`` along the last axis; ``weight`` is (out_features, in_features).

    A second input, of the output's shape, is added before the clamp; vectors have none.
    """

    weight: Array
    bias: Array
    clamp: Clamp = IDENTITY
    curve: str = ""


@dataclass(frozen=True, eq=False)
class Affine:
    """``curve(clamp(scale[c] * x[c] + shift[c]))`` for every index c of ``axis``: a batch norm that stands alone."""

    scale: Array
    shift: Array
    clamp: Clamp = IDENTITY
    axis: int = 0
    curve: str = ""


@dataclass(frozen=True)
class Add:
    """``curve(clamp(a + b))`` of two values of one shape, or of as many axes, along which those of size 1 repeat."""

    clamp: Clamp = IDENTITY
    curve: str = ""


@dataclass(frozen=True)
class Mul:
    """``curve(clamp(a * b))`` of two values that broadcast as those of `Add`: a gate is (channels, 1, 1)."""

    clamp: Clamp = IDENTITY
    curve: str = ""


@dataclass(frozen=True)
class MaxPool2d:
    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right
    dilation: Pair = (1, 1)


@dataclass(frozen=True)
class AvgPool2d:
    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    count_include_pad: bool = True


@dataclass(frozen=True)
class GlobalMean:
    """Mean over height and width; the output is the vector (channels,)."""


@dataclass(frozen=True, eq=False)
class Resize:
    """``rows @ image @ columns.T`` for every channel: an output pixel is a weighted sum of a rectangle of pixels.

    Nearest and bilinear resizing, and means over windows of unequal size, differ in their matrices only.
    """

    rows: Array  # (out_height, in_height)
    columns: Array  # (out_width, in_width)


@dataclass(frozen=True)
class Softmax:
    """``exp(x) / sum(exp(x))`` along an axis of the shape without batch."""

    axis: int


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) to (channels * height * width,), or a vector to itself."""


@dataclass(frozen=True)
class Slice:
    """``start:stop:step`` along an axis of the shape without batch; ``stop`` is at most the axis' size."""

    axis: int
    start: int
    stop: int
    step: int = 1


@dataclass(frozen=True)
class Pad:
    """Zeros around the value: ((channels before, after), (top, bottom), (left, right))."""

    amounts: tuple[Pair, Pair, Pair]


@dataclass(frozen=True)
class Concat:
    """Concatenation of all inputs along ``axis`` of the shape without batch (0 is channels)."""

    axis: int = 0


@dataclass(frozen=True)
class Expand:
    """The value with axes of size 1 repeated to ``shape``."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """The same numbers in the same order, as ``shape``."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Permute:
    """Axis i of the output is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that is the same for every image of a batch; it has no inputs."""

    value: Array


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """``weight * (x - mean) / sqrt(variance + eps) + bias`` along the last axis (Ba et al., arXiv 1607.06450).

    What is not ``centred`` takes the mean for zero: an RMS norm (Zhang and Sennrich, arXiv 1910.07467).
    """

    weight: Array  # (features,)
    bias: Array
    eps: float
    centred: bool = True


@dataclass(frozen=True)
class MatMul:
    """``scale * (..., n, k) @ (..., k, m)``; the axes before the last two are equal."""

    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Attention:
    """``softmax(scale * query @ key.T + mask) @ value`` along the last two axes (Vaswani et al., arXiv 1706.03762).

    Inputs are query (..., n, d), key (..., m, d) and value (..., m, e); axes before the last two are equal. ``mask``,
    where there is one, is (n, m) or (..., n, m); it may hold minus infinity. A fourth input (m,), where there is one,
    is added to the scores of its keys: it hides the padding of a batch.
    """

    scale: float
    mask: Array | None = None


TokenOp: TypeAlias = Expand | Reshape | Permute | Constant | LayerNorm | MatMul | Attention
Op: TypeAlias = (
    Conv2d
    | Linear
    | Affine
    | Add
    | Mul
    | Clamp
    | Curve
    | MaxPool2d
    | AvgPool2d
    | GlobalMean
    | Resize
    | Softmax
    | Flatten
    | Slice
    | Pad
    | Concat
    | TokenOp
)


@dataclass(frozen=True)
class Node:
    """One use of an operator; ``name`` is the layer's in the module (``layer1.0.conv1``) or the operator's."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    output: str
    source: str = ""  # "file.py:42, in forward", where torch.export knows it


@dataclass(frozen=True)
class Graph:
    """Inputs, outputs, nodes in execution order and the shape (without batch) of every value.

    ``keys`` are the outputs' names in the dict that the network returns, and empty if it returns a tensor or a tuple.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    def consumers(self) -> dict[str, list[Node]]:
        """For every value, the nodes that read it (a node that reads it twice counts twice)."""
        readers: dict[str, list[Node]] = {name: [] for name in self.shapes}
        for node in self.nodes:
            for value in node.inputs:
                readers[value].append(node)
        return readers

    def producers(self) -> dict[str, Node]:
        """For every value that a node computes, that node."""
        return {node.output: node for node in self.nodes}

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of one image through ``node`` if it were dense; 0 where it multiplies nothing."""
        op: Any = node.op
        shape = self.shapes[node.output]
        if isinstance(op, Conv2d):
            return int(op.weight.size) * math.prod(shape[1:])
        if isinstance(op, Linear):
            return int(op.weight.size) * math.prod(shape[:-1])
        if isinstance(op, MatMul):
            return math.prod(shape) * self.shapes[node.inputs[0]][-1]
        if isinstance(op, Attention):
            (*_, keys, width) = self.shapes[node.inputs[1]]
            return math.prod(shape[:-1]) * keys * (width + shape[-1])
        return 0
