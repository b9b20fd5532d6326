"""The network as an ONNX file that every engine reads well: shapes computed, padding inside the convolutions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import nn

from flexgroup.report._peers import quiet

OPSET = 13  # the newest that every engine here reads: DeepSparse's last one


def write_onnx(model: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Export ``model``, a module in evaluation mode, for inputs of the shape of ``x``."""
    with tempfile.TemporaryDirectory() as folder:
        raw, folded = Path(folder) / "raw.onnx", Path(folder) / "folded.onnx"
        with quiet():
            export: Any = torch.onnx.export
            names = {"input_names": ["x"], "output_names": ["y"]}
            export(model, (x,), str(raw), opset_version=OPSET, dynamo=False, **names)
        _fold_constants(raw, folded)
        document = onnx.load(str(folded))
    # The runtime lists all domains that it knows, some in versions that older readers refuse.
    foreign = [imported for imported in document.opset_import if imported.domain]
    for imported in foreign:
        document.opset_import.remove(imported)
    _pad_in_convolutions(document.graph)
    onnx.checker.check_model(document)
    partial = path.with_suffix(".part")
    onnx.save(document, str(partial))
    os.replace(partial, path)


def _fold_constants(source: Path, result: Path) -> None:
    """ONNX Runtime's optimizations that keep to standard operators: constants, batch norms, what has no effect."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(result)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _pad_in_convolutions(graph: onnx.GraphProto) -> None:
    """Replace each padding with zeros of an image, before a convolution, by the convolution's own padding.

    Engines that do not know the operator would otherwise leave out whole networks.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        padding = makers.get(node.input[0])
        amounts = _image_padding(padding, constants) if padding is not None else None
        if padding is None or amounts is None:
            continue
        node.input[0] = padding.input[0]
        old = next((attribute for attribute in node.attribute if attribute.name == "pads"), None)
        own = list(old.ints) if old else [0, 0, 0, 0]
        if old:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute("pads", [a + b for a, b in zip(own, amounts, strict=True)]))
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    unused = [node for node in graph.node if not used.intersection(node.output)]
    for node in unused:
        graph.node.remove(node)
    kept = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in kept]:
        graph.initializer.remove(tensor)


def _image_padding(node: onnx.NodeProto, constants: dict[str, Any]) -> list[int] | None:
    """(top, left, bottom, right) of a padding with zeros of height and width alone."""
    if node.op_type != "Pad" or node.input[1] not in constants:
        return None
    if any(attribute.name == "mode" and attribute.s != b"constant" for attribute in node.attribute):
        return None
    filled = len(node.input) > 2 and node.input[2] and constants.get(node.input[2], 1) != 0
    amounts = [int(value) for value in constants[node.input[1]]]
    if filled or len(amounts) != 8 or any(amounts[axis] for axis in (0, 1, 4, 5)):
        return None
    return [amounts[2], amounts[3], amounts[6], amounts[7]]
