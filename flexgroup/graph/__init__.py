"""A network becomes a small typed graph: ``from_torch`` or ``from_onnx`` in, ``Graph`` out, passes in between."""

from flexgroup.graph._either import GraphModule, is_onnx, read_network
from flexgroup.graph._onnx_weights import onnx_weights
from flexgroup.graph.from_onnx import from_onnx
from flexgroup.graph.from_torch import from_torch
from flexgroup.graph.ir import (
    Add,
    Affine,
    AvgPool2d,
    Clamp,
    Concat,
    Conv2d,
    Curve,
    Flatten,
    GlobalMean,
    Graph,
    Linear,
    MaxPool2d,
    Mul,
    Node,
    Pad,
    Resize,
    Slice,
    Softmax,
)
from flexgroup.graph.passes import optimize

__all__ = [
    "Add",
    "Affine",
    "AvgPool2d",
    "Clamp",
    "Concat",
    "Conv2d",
    "Curve",
    "Flatten",
    "GlobalMean",
    "Graph",
    "GraphModule",
    "Linear",
    "MaxPool2d",
    "Mul",
    "Node",
    "Pad",
    "Resize",
    "Slice",
    "Softmax",
    "from_onnx",
    "from_torch",
    "is_onnx",
    "onnx_weights",
    "optimize",
    "read_network",
]
