"""The shapes of a network's inputs, where the file leaves some open, and what ONNX infers from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from flexgroup._errors import FlexgroupError
from flexgroup.graph._onnx_file import Dims, Network
from flexgroup.graph._validate import Shape

InputShapes: TypeAlias = Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None


def resolve_shapes(network: Network, given: InputShapes) -> dict[str, Shape]:
    """The shape of every input, batch included: ``given`` by name or in order, else as the file declares it.

    A batch that is open is 1. A fixed batch stays what the file says: its constants may depend on it.
    Raises `FlexgroupError` for sizes that are open or contradict the file, and shapes without a batch.
    """
    if not network.inputs:
        raise FlexgroupError(f"{network.name} has no input")
    named = _named(network, given)
    shapes = {name: _resolve(network, name, dims, named.get(name)) for name, dims in network.inputs.items()}
    batches = {shape[0] for shape in shapes.values()}
    if len(batches) > 1:
        listed = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
        raise FlexgroupError(
            f"{network.name}: its inputs have different first axes ({listed}); the first axis is the batch"
        )
    return shapes


def _named(network: Network, given: InputShapes) -> Mapping[str, Sequence[int]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(given) != len(network.inputs):
            raise FlexgroupError(
                f"{network.name} has {len(network.inputs)} inputs ({', '.join(network.inputs)}), "
                f"but {len(given)} shapes were given"
            )
        return dict(zip(network.inputs, given, strict=True))
    unknown = [name for name in given if name not in network.inputs]
    if unknown:
        raise FlexgroupError(f"{network.name} has no input {unknown[0]!r}; its inputs are {', '.join(network.inputs)}")
    return given


def _resolve(network: Network, name: str, dims: Dims, given: Sequence[int] | None) -> Shape:
    where = f"{network.name}: input {name!r}"
    if given is None:
        return _declared(where, dims)
    shape = tuple(int(size) for size in given)
    if len(shape) < 2 or min(shape) < 1:
        raise FlexgroupError(f"{where} cannot have shape {shape}; give (batch, channels, height, width) or the like")
    if dims is None:
        return shape
    fits = len(dims) == len(shape) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(dims[1:], shape[1:], strict=True)
    )
    if not fits:
        raise FlexgroupError(
            f"{where} is declared as {_in_words(dims)}, but shape {shape} was given; give one that fits"
        )
    return (dims[0] if isinstance(dims[0], int) else shape[0], *shape[1:])


def _declared(where: str, dims: Dims) -> Shape:
    if dims is not None and len(dims) < 2:
        raise FlexgroupError(f"{where} is declared as {_in_words(dims)}; flexgroup takes inputs with the batch first")
    if dims is None or any(isinstance(dim, str) for dim in dims[1:]):
        raise FlexgroupError(
            f"{where} is declared as {_in_words(dims)}, with sizes left open; give them: an example of the size you "
            f"want to flexgroup.compile(model, example), --input on the command line, or input_shapes"
        )
    first, *rest = dims
    return (first if isinstance(first, int) else 1, *(int(size) for size in rest))


def _in_words(dims: Dims) -> str:
    return "a tensor of any shape" if dims is None else f"({', '.join(map(str, dims))})"


def inferred_shapes(network: Network, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """The shape of every value that ONNX can infer, batch included, for inputs of ``shapes``."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(network.proto)
    for value in model.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type
            kind.ClearField("shape")
            for size in shapes[value.name]:
                kind.shape.dim.add().dim_value = size
    del model.graph.value_info[:]  # with open sizes in them, which would stay open
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # no shapes, then: what follows an unsupported operator cannot be judged
        return {}
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.output)
        if all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)
    }
