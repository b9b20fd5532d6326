"""Small ONNX models made by hand, and the comparison of their graphs with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from flexgroup.graph import Graph, from_onnx, optimize
from flexgroup.graph._validate import check
from flexgroup.graph.evaluate import evaluate

onnx = pytest.importorskip("onnx")
node = onnx.helper.make_node


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def model_of(
    *nodes: Any,
    inputs: Mapping[str, Sequence[int | str] | None],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    weights: Mapping[str, Any] | None = None,
) -> Any:
    """A model of ``nodes``; ``weights`` are arrays, or lists of int64."""
    if onnx.defs.onnx_opset_version() < opset < 99:
        pytest.skip(f"needs an onnx that knows opset {opset}")
    arrays = {
        name: np.asarray(x, None if isinstance(x, np.ndarray) else np.int64) for name, x in (weights or {}).items()
    }
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(nodes),
        "by hand",
        [value(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [value(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def same_as_onnxruntime(
    model: Any, input_shapes: Any = None, batch: int | None = None, tolerance: float = 1e-5
) -> Graph:
    """Compare the graph of a model or path, as it is and optimized, with ONNX Runtime; give it back."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    graph = from_onnx(model, input_shapes)
    arrays = [numbers(batch or 1, *graph.shapes[name], seed=i) for i, name in enumerate(graph.inputs)]
    expected = session.run(None, dict(zip([x.name for x in session.get_inputs()], arrays, strict=True)))
    for candidate in (graph, optimize(graph)):
        check(candidate)
        for given, wanted in zip(evaluate(candidate, arrays), expected, strict=True):
            assert given.shape == wanted.shape
            assert np.abs(given - wanted).max() <= tolerance * max(1.0, float(np.abs(wanted).max()))
    return graph


def same_step(
    operator: str, *shapes: Sequence[int], opset: int = 17, weights: Mapping[str, Any] | None = None, **attributes: Any
) -> Graph:
    """Compare one operator on inputs of ``shapes``, and then ``weights`` in order, with ONNX Runtime."""
    names = [f"x{i}" for i in range(len(shapes))]
    step = node(operator, [*names, *(name.strip() for name in weights or {})], ["y"], "step", **attributes)
    given = {name: array for name, array in (weights or {}).items() if name.strip()}
    model = model_of(step, inputs=dict(zip(names, shapes, strict=True)), opset=opset, weights=given)
    return same_as_onnxruntime(model, batch=int(shapes[0][0]))
