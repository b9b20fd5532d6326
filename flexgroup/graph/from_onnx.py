"""The second door: an ONNX file in, a typed `Graph` out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from flexgroup._errors import FlexgroupError
from flexgroup.graph import ir
from flexgroup.graph._onnx_constants import fold
from flexgroup.graph._onnx_file import Network, Source, read_network
from flexgroup.graph._onnx_lowering import OnnxLowering
from flexgroup.graph._onnx_patterns import recognise
from flexgroup.graph._onnx_shapes import InputShapes, resolve_shapes
from flexgroup.graph._validate import check

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_HALF = ("float16", "bfloat16")


def from_onnx(model: Source, input_shapes: InputShapes = None) -> ir.Graph:
    """The graph of an ONNX ``model``: the path of a file, its bytes, or an ``onnx.ModelProto``, of opset 7 to 28.

    ``input_shapes`` gives the inputs' shapes, batch included, by name or in order, where the file leaves sizes open.
    An open batch is 1; the graph takes any. Weights are copied, and constants computed.

    Raises `FlexgroupError` where onnx is not installed, for files that are missing, truncated, malformed, quantised or
    not of float32, for shapes that do not fit, for operators that the graph has no word for (all of them at once, one
    line each), and for weights that are NaN or infinite.
    """
    with torch.no_grad(), np.errstate(all="ignore"):  # numbers that are not finite are reported by layer
        network = recognise(fold(read_network(model)))
        _check_numbers(network)
        graph = OnnxLowering(network, resolve_shapes(network, input_shapes)).run()
    check(graph)
    return graph


def _check_numbers(network: Network) -> None:
    """Refuse, as a whole, networks that compute in other numbers than float32."""
    quantised = [
        step
        for step in network.steps
        if step.operator in _QUANTISED or step.operator.rpartition(".")[2].startswith("QLinear")
    ]
    if quantised:
        raise FlexgroupError(
            f"{network.name} is quantised: {_listed([f'{x.name} ({x.operator})' for x in quantised])}; "
            f"compile the float32 model from before quantisation"
        )
    read = dict.fromkeys(name for step in network.steps for name in step.inputs if name in network.constants)
    half = [name for name in read if str(network.constants[name].dtype) in _HALF]
    if half:
        kind = network.constants[half[0]].dtype
        raise FlexgroupError(
            f"{network.name} computes in {kind} ({_listed([repr(name) for name in half])}), and flexgroup compiles "
            f"float32; export the float32 model"
        )


def _listed(items: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
