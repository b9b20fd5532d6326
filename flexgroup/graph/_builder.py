"""The graph while it grows, whichever door the network comes through: nodes with names, and complaints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flexgroup._errors import FlexgroupError
from flexgroup.graph import ir
from flexgroup.graph._factors import size_of
from flexgroup.graph._hints import SUPPORTED
from flexgroup.graph._validate import Shape, infer_shape
from flexgroup.graph._value import Unsupported, Value

_PARTS = (ir.Expand, ir.Reshape, ir.Permute, ir.Slice, ir.Constant, ir.MatMul, ir.Attention)  # never a whole layer


class Builder:
    """What the walks over a torch program and over an ONNX file have in common.

    A door says what its own ``node`` is: a layer (`layer_of`) on a line of the user's source (`source_of`).
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._nodes: list[ir.Node] = []
        self._used_names: set[str] = set()
        self._unsupported: list[str] = []
        self._broken: list[str] = []
        self.batch = 0  # images in the example
        self.shapes: dict[str, Shape] = {}

    def layer_of(self, node: Any, kind: str = "", inner: bool = False) -> str:
        """The name of the layer that ``node`` belongs to; ``inner`` if the operator ``kind`` is only a part of it."""
        raise NotImplementedError

    def source_of(self, node: Any) -> str:
        """Where the user wrote ``node``: "file.py:42, in forward", or the empty string."""
        raise NotImplementedError

    def emit(self, node: Any, op: ir.Op, inputs: tuple[Value, ...], kind: str) -> Value:
        """Append ``op`` under a name of its own; refuse it where the shapes do not fit."""
        try:
            shape = infer_shape(op, *(self.shapes[value.name] for value in inputs))
        except FlexgroupError as error:
            raise Unsupported(str(error)) from None
        name = _unused(self.layer_of(node, kind, inner=isinstance(op, _PARTS)), self._used_names, "#")
        output = _unused(name, set(self.shapes), ".")  # an input may be called like a layer
        self._used_names.add(name)
        self.shapes[output] = shape
        source = self.source_of(node)
        self._nodes.append(ir.Node(name, op, tuple(value.name for value in inputs), output, source))
        return Value(output, shape)

    def shape_of(self, value: Value) -> Shape:
        """The shape of ``value`` as the network's author sees it, batch included."""
        return (self.batch, *value.shape) if value.axes is None else tuple(map(size_of, value.axes))

    def check_shapes(self, values: Sequence[Value], expected: Sequence[Shape]) -> None:
        """Refuse results of other shapes than ``expected``; a rule may leave out results that nobody reads."""
        for value, wanted in zip(values, expected, strict=False):
            shape = self.shape_of(value)
            if shape != wanted:
                raise Unsupported(f"its result {wanted} is not the {shape} of the graph")

    def stand_in(self, name: str, shape: Shape) -> Value | None:
        """Something of ``shape``, so that what follows an unsupported operator can be judged too."""
        if len(shape) < 2 or shape[0] != self.batch:
            return None
        value = Value(_unused(f"unsupported {name}", set(self.shapes), "."), shape[1:])
        self.shapes[value.name] = value.shape
        return value

    def note_unsupported(self, where: str, why: str) -> None:
        """Remember that the operator at ``where`` cannot be lowered, and what would help."""
        self._unsupported.append(f"{where}: {why}")

    def note_broken(self, node: Any, name: str, bad: int, size: int) -> None:
        """Remember that ``bad`` of the ``size`` numbers in ``name`` of this layer are not finite."""
        self._broken.append(f"layer {self.layer_of(node)!r} has {bad} of {size} in its {name}")

    def finish(self, inputs: tuple[str, ...], outputs: tuple[str, ...], keys: tuple[str, ...] = ()) -> ir.Graph:
        """The graph, or one `FlexgroupError` about everything that stood in the way."""
        lines = list(dict.fromkeys(self._unsupported))
        if lines:
            count = "1 operator that is" if len(lines) == 1 else f"{len(lines)} operators that are"
            raise FlexgroupError(
                f"{self._model_name} uses {count} not supported; supported are {SUPPORTED}"
                + "".join(f"\n  {line}" for line in lines)
            )
        if self._broken:
            raise FlexgroupError(
                f"weights are NaN or infinite: {', '.join(self._broken)}; "
                f"load weights from before the training diverged"
            )
        return ir.Graph(inputs, outputs, tuple(self._nodes), self.shapes, keys)


def _unused(name: str, used: set[str], separator: str) -> str:
    candidate, count = name, 1
    while candidate in used:
        count += 1
        candidate = f"{name}{separator}{count}"
    return candidate
