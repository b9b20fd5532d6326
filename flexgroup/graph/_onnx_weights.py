"""The kernels and matrices in an ONNX file, without looking at shapes of inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flexgroup.graph import ir
from flexgroup.graph._onnx_constants import fold
from flexgroup.graph._onnx_file import Source, Step, Tensor, read_network


def onnx_weights(model: Source) -> dict[str, ir.Array]:
    """The weights of every convolution and constant matrix by the name of its node, rows (outputs) first, as in torch.

    Raises `FlexgroupError` where the file cannot be read.
    """
    network = fold(read_network(model))
    found = {step.name: _weight(step, network.constants) for step in network.steps}
    return {name: weight for name, weight in found.items() if weight is not None}


def _weight(step: Step, constants: Mapping[str, Tensor]) -> ir.Array | None:
    weight = constants.get(step.inputs[1]) if len(step.inputs) > 1 else None
    if weight is None or step.operator not in ("Conv", "Gemm", "MatMul"):
        return None
    if weight.ndim < 2 or (step.operator != "Conv" and weight.ndim != 2) or weight.dtype.kind != "f":
        return None
    rows_first = step.operator == "Conv" or (step.operator == "Gemm" and step.attributes.get("transB", 0))
    return np.ascontiguousarray(weight if rows_first else weight.T, np.float32)
