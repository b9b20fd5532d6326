"""An ONNX file as plain values: read, checked, and refused in one line where it cannot be what it says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.graph._names import line_in

Source: TypeAlias = "str | os.PathLike[str] | bytes | Any"  # Any: an onnx.ModelProto, without importing onnx
Dims: TypeAlias = "tuple[int | str, ...] | None"
Tensor: TypeAlias = npt.NDArray[Any]

OLDEST, NEWEST = 7, 28  # opsets whose operators mean what the rules say

_TRACE = "pkg.torch.onnx.stack_trace"
_FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Step:
    """One node of the file: its name (or that of its first output), operator, and the names it reads and writes.

    Inputs that are left out are empty strings. ``operator`` has its domain before it where that is not ONNX's own.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    source: str  # "file.py:42, in forward", where torch's exporter has noted it
    proto: Any  # the onnx.NodeProto, for ONNX's own reference implementation


@dataclass(frozen=True)
class Network:
    """What a file says: its steps in order, its constants, and its inputs with a word for every size that is open."""

    name: str  # of the file, for messages
    opset: int
    inputs: Mapping[str, Dims]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Tensor]
    proto: Any  # the onnx.ModelProto


def read_network(source: Source) -> Network:
    """The network in a file, or in the bytes of one.

    Raises `FlexgroupError` where onnx is not installed, where the file is missing, truncated, malformed or lacks the
    files that hold its weights, and for opsets that are too old or too new and inputs that are not float32.
    """
    _require_onnx()
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the ONNX model"
    model = _with_functions_inlined(_load(source, name), name)
    _check(model, name)
    return _network(model, name)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise FlexgroupError(
            'ONNX models are read with the package onnx, which is not installed; pip install "flexgroup[onnx]"'
        ) from error


def _load(source: Source, name: str) -> Any:
    import onnx

    if isinstance(source, onnx.ModelProto):
        return _with_external_data(source, None, name)
    if isinstance(source, bytes):
        return _with_external_data(_parse(source, name), None, name)
    path = Path(source)
    if path.is_dir():
        raise FlexgroupError(f"{name} is a folder; give the .onnx file in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FlexgroupError(f"{name}: there is no such file; check the path") from error
    except OSError as error:
        raise FlexgroupError(f"{name} cannot be read: {error.strerror or error}") from error
    return _with_external_data(_parse(content, name), path.parent, name)


def _parse(content: bytes, name: str) -> Any:
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, wherever this version keeps it
        raise FlexgroupError(f"{name} is not a complete ONNX file; copy, download or export it again") from error
    if not model.ByteSize() or not model.HasField("graph"):
        raise FlexgroupError(f"{name} holds no ONNX graph; copy, download or export it again")
    return model


def _with_external_data(model: Any, folder: Path | None, name: str) -> Any:
    """``model`` with the weights that are kept in other files beside it."""
    from onnx import external_data_helper

    outside = [x for x in model.graph.initializer if external_data_helper.uses_external_data(x)]
    if not outside:
        return model
    files = sorted({entry.value for x in outside for entry in x.external_data if entry.key == "location"})
    kept = f"{name}: its weights are in {', '.join(map(repr, files))}"
    if folder is None:
        raise FlexgroupError(f"{kept}, which bytes alone do not lead to; give the path of the .onnx file")
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FlexgroupError(f"{kept}, but there is no {missing[0]!r} in {folder}; copy it there")
    try:
        external_data_helper.load_external_data_for_model(model, str(folder))
    except Exception as error:  # onnx raises what it likes; whatever it is, the weights are not there
        raise FlexgroupError(f"{kept}, which cannot be read: {_first_line(error)}; copy it again") from error
    return model


def _with_functions_inlined(model: Any, name: str) -> Any:
    if not len(model.functions):
        return model
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # onnx raises what it likes
        raise FlexgroupError(f"{name}: its local functions cannot be inlined: {_first_line(error)}") from error


def _check(model: Any, name: str) -> None:
    import onnx

    opset = _opset(model)
    if not OLDEST <= opset <= NEWEST:
        what = "older" if opset < OLDEST else "newer"
        raise FlexgroupError(
            f"{name} is of opset {opset}, {what} than flexgroup reads ({OLDEST} to {NEWEST}); export it with "
            f"opset_version=17, or convert it with onnx.version_converter.convert_version(model, 17)"
        )
    if opset > onnx.defs.onnx_opset_version():
        raise FlexgroupError(
            f"{name} is of opset {opset}, and the installed onnx {onnx.__version__} knows "
            f"{onnx.defs.onnx_opset_version()}; pip install -U onnx, or export it with opset_version=17"
        )
    try:
        complaint = _complaint(model, opset)
    except (TypeError, ValueError) as error:  # names that are no texts
        complaint = f"it is damaged: {_first_line(error)}"
    if complaint:
        raise FlexgroupError(f"{name} is not a valid ONNX model: {complaint}; export it again, or ask its maker")


def _complaint(model: Any, opset: int) -> str:
    """What is wrong with the nodes of ``model``, or nothing. ONNX's own check of a whole model refuses more than that:
    outputs without a declared shape, which engines take."""
    from onnx import checker

    context = checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 10, {"": opset}
    known = {"", *(x.name for x in model.graph.input), *(x.name for x in model.graph.initializer)}
    for node in model.graph.node:
        step = step_of(node)
        unknown = [name for name in step.inputs if name not in known]
        if unknown:
            return f"node {step.name!r} reads {unknown[0]!r}, which nothing before it computes"
        if "." not in step.operator and not any(x.HasField("g") for x in node.attribute):
            try:
                checker.check_node(node, context)
            except Exception as error:  # the checker raises several types of its own, and protobuf's
                return f"node {step.name!r}: {_first_line(error)}"
        known.update(step.outputs)
    missing = [x.name for x in model.graph.output if x.name not in known]
    return f"nothing computes its output {missing[0]!r}" if missing else ""


def _opset(model: Any) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _network(model: Any, name: str) -> Network:
    graph = model.graph
    if len(graph.sparse_initializer):
        raise FlexgroupError(f"{name} keeps weights in ONNX's sparse format; export them dense, with their zeros")
    try:
        constants = {x.name: _array(x) for x in graph.initializer}
    except Exception as error:  # sizes that do not fit, types that numpy does not know
        raise FlexgroupError(f"{name} has a damaged weight: {_first_line(error)}; export it again") from error
    inputs = {x.name: _dims(x, name) for x in graph.input if x.name not in constants}
    return Network(
        name=name,
        opset=_opset(model),
        inputs=inputs,
        outputs=tuple(x.name for x in graph.output),
        steps=tuple(map(step_of, graph.node)),
        constants=constants,
        proto=model,
    )


def step_of(node: Any) -> Step:
    """An onnx.NodeProto as a `Step`."""
    from onnx import helper

    operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    outputs = tuple(node.output)
    name = node.name or next(filter(None, outputs), operator)
    attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    words = {
        key: value.decode(errors="replace") if isinstance(value, bytes) else value for key, value in attributes.items()
    }
    trace = next((x.value for x in getattr(node, "metadata_props", ()) if x.key == _TRACE), "")
    return Step(name, operator, tuple(node.input), outputs, words, line_in(trace), node)


def _array(tensor: Any) -> Tensor:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))


def _dims(value: Any, name: str) -> Dims:
    """The declared sizes of an input: numbers, or words for what is open; None where not even the rank is declared."""
    import onnx

    if not value.type.HasField("tensor_type"):
        raise FlexgroupError(f"{name}: input {value.name!r} is not a tensor; flexgroup compiles networks of tensors")
    kind = value.type.tensor_type
    if kind.elem_type != _FLOAT:
        known = onnx.TensorProto.DataType.values()
        number = kind.elem_type
        type_name = onnx.TensorProto.DataType.Name(number).lower() if number in known else f"of type {number}"
        raise FlexgroupError(
            f"{name}: input {value.name!r} is {type_name}, and flexgroup compiles float32; {_remedy(type_name)}"
        )
    if not kind.HasField("shape"):
        return None
    return tuple(
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
        for dim in kind.shape.dim
    )


def _remedy(type_name: str) -> str:
    if type_name in ("float16", "bfloat16", "double"):
        return "export the float32 model"
    if type_name in ("int8", "uint8"):
        return "compile the model from before quantisation, or cast pixels to float32 outside of it"
    return "compute the embedding outside, and compile the network behind it"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
