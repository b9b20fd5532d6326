"""A torch program becomes a small typed graph: ``from_torch`` in, ``Graph`` out, passes in between."""

from flexgroup.graph.from_torch import from_torch
from flexgroup.graph.ir import (
    Add,
    Affine,
    AvgPool2d,
    Clamp,
    Concat,
    Conv2d,
    Flatten,
    GlobalMean,
    Graph,
    Linear,
    MaxPool2d,
    Node,
    Pad,
    Slice,
)
from flexgroup.graph.passes import optimize

__all__ = [
    "Add",
    "Affine",
    "AvgPool2d",
    "Clamp",
    "Concat",
    "Conv2d",
    "Flatten",
    "GlobalMean",
    "Graph",
    "Linear",
    "MaxPool2d",
    "Node",
    "Pad",
    "Slice",
    "from_torch",
    "optimize",
]
