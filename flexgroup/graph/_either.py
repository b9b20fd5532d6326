"""Whichever door a network comes through: its graph, a torch module that computes the same, and an example input."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexgroup._errors import FlexgroupError
from flexgroup.graph import ir
from flexgroup.graph.evaluate import evaluate
from flexgroup.graph.from_onnx import from_onnx
from flexgroup.graph.from_torch import from_torch


class GraphModule(torch.nn.Module):
    """A graph as a torch module: slow, and what its compiled form is compared with where there is no other module."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__()
        self.graph = graph
        arrays = [getattr(node.op, "weight", None) for node in graph.nodes]
        self.weights = torch.nn.ParameterList(torch.from_numpy(x) for x in arrays if x is not None)

    def changed(self, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> GraphModule:
        """The same with ``change`` of every array of numbers that an operator has."""

        def of(op: Any) -> Any:
            values = {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}
            floats = {
                name: np.asarray(change(value), value.dtype)
                for name, value in values.items()
                if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
            }
            return dataclasses.replace(op, **floats)

        nodes = tuple(dataclasses.replace(node, op=of(node.op)) for node in self.graph.nodes)
        return GraphModule(dataclasses.replace(self.graph, nodes=nodes))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        arrays = [x.detach().cpu().numpy() for x in inputs]
        outputs = tuple(torch.from_numpy(np.array(y)) for y in evaluate(self.graph, arrays))
        return outputs[0] if len(outputs) == 1 else outputs


def is_onnx(model: Any) -> bool:
    """Whether ``model`` is the path, the bytes or the parsed form of an ONNX file, rather than a torch module.

    Raises `FlexgroupError` for paths of other files.
    """
    if isinstance(model, str | os.PathLike) and Path(model).suffix.lower() != ".onnx":
        raise FlexgroupError(f"{os.fspath(model)!r} is not a .onnx file; give one, or a torch module")
    return isinstance(model, str | os.PathLike | bytes) or type(model).__name__ == "ModelProto"


def read_network(model: Any, example: Any = None) -> tuple[ir.Graph, torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The graph of a torch module or an ONNX file, a module that computes what it means, and an example.

    An ONNX file, or a `GraphModule`, needs no ``example`` where its inputs' sizes are known: then it is random, of
    batch 1. Raises `FlexgroupError` as `from_torch` and `from_onnx` do, and for a module without an example.
    """
    if isinstance(model, GraphModule) or is_onnx(model):
        given = None if example is None else _tensors(example)
        shapes = None if given is None else [tuple(x.shape) for x in given]
        module = model if isinstance(model, GraphModule) else GraphModule(from_onnx(model, shapes))
        return module.graph, module, _random(module.graph) if given is None else given
    if example is None:
        raise FlexgroupError("a torch module needs an example of its inputs: pass a tuple of tensors, batch first")
    inputs = (example,) if isinstance(example, torch.Tensor) else example
    return from_torch(model, inputs), model, inputs


def _tensors(example: Any) -> tuple[torch.Tensor, ...]:
    """The example as float32 tensors: tensors or numpy arrays, one or a tuple of them."""
    tensors = []
    for index, value in enumerate(example if isinstance(example, tuple | list) else (example,)):
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise FlexgroupError(f"example[{index}] is a {type(value).__name__}; give a torch tensor or a numpy array")
        kind = str(value.dtype).removeprefix("torch.")
        if kind != "float32":
            raise FlexgroupError(f"example[{index}] is {kind}, and flexgroup compiles float32; convert it")
        tensors.append(value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value)))
    return tuple(tensors)


def _random(graph: ir.Graph) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, *graph.shapes[name], generator=generator) for name in graph.inputs)
