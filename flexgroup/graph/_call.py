"""What a lowering rule sees: one operator call with named arguments, and a way to append nodes for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._builder import Builder
from flexgroup.graph._validate import Shape
from flexgroup.graph._value import BATCH_MOVES, Unknown, Unsupported, Value
from flexgroup.graph._views import axes_of, plain_axes, settle


class Call:
    """One call of an operator: its arguments by the names in torch's schema, and a way to emit nodes."""

    def __init__(self, builder: Builder, node: Any, arguments: Mapping[str, Any], result: Shape) -> None:
        self._builder = builder
        self._node = node
        self.arguments = arguments
        self.result = result

    def given(self, arguments: Mapping[str, Any], result: Shape) -> Call:
        """The same call with other arguments, and a result of another shape."""
        return Call(self._builder, self._node, arguments, result)

    @property
    def batch(self) -> int:
        """Images in the example that torch exported."""
        return self._builder.batch

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Argument ``name``, or ``default`` where this overload does not have it."""
        return self.arguments.get(name, default)

    def viewed(self, name: str) -> Value:
        """The activation ``name``, whatever it has been reshaped to."""
        value = self.arguments[name]
        if not isinstance(value, Value):
            raise Unsupported("it works on a constant where it needs an activation")
        return value

    def activation(self, name: str) -> Value:
        """The activation ``name`` in torch's order, behind the batch."""
        return self.settled(self.viewed(name))

    def settled(self, value: Value) -> Value:
        """``value`` as torch and the graph see it alike; nodes that reshape it are added where they must be."""
        return self.first(settle(self, value))

    def first(self, value: Value) -> Value:
        """``value``, which is settled, if the batch is its first axis and in no other."""
        stored = self.stored(value)
        if axes_of(self, value) != plain_axes(self.batch, stored):
            raise Unsupported(BATCH_MOVES)
        return Value(value.name, stored)

    def image(self, name: str) -> Value:
        """The activation ``name`` of shape (channels, height, width)."""
        value = self.activation(name)
        if len(value.shape) != 3:
            shape = ", ".join(map(str, value.shape))
            what = "a vector" if len(value.shape) == 1 else f"a value of shape (batch, {shape})"
            raise Unsupported(f"it reads {what} where images (batch, channels, height, width) are supported")
        return value

    def stored(self, value: Value) -> Shape:
        """The shape that the graph notes for ``value``."""
        return self._builder.shapes[value.name]

    def constant(self, name: str) -> torch.Tensor:
        """The tensor ``name``, which must not depend on the network's input."""
        tensor = self.arguments[name]
        if not isinstance(tensor, torch.Tensor):
            raise Unsupported(f"its {name} is computed from the network's input")
        return tensor

    def array(self, name: str, tensor: torch.Tensor) -> ir.Array:
        """A float32 copy of ``tensor`` for the graph to own; NaN and infinity count against this layer."""
        array = np.array(tensor.detach().to("cpu", torch.float32).numpy(), order="C")
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            self._builder.note_broken(self._node, name, bad, array.size)
        return array

    def constant_value(self, name: str, tensor: torch.Tensor, shape: Shape | None = None) -> Value:
        """The constant ``tensor`` (batch first) as a value of the graph, spread to ``shape`` (without batch)."""
        rows = tensor[:1] if bool((tensor == tensor[:1]).all()) else tensor
        if len(rows) > 1:
            raise Unsupported(f"its constant {name} of shape {tuple(tensor.shape)} differs between images of a batch")
        spread = rows[0] if shape is None else rows[0].expand(shape)
        finite = torch.nan_to_num(spread, nan=torch.nan, posinf=0.0, neginf=0.0)
        self.array(name, finite)  # counts what is not a number; a mask may well be infinite
        return self.emit(ir.Constant(np.array(spread.detach().to("cpu", torch.float32).numpy())), kind="constant")

    def emit(self, op: ir.Op, *inputs: Value, kind: str = "") -> Value:
        """Append a node; ``kind`` names it where torch's own name for the operator would mislead."""
        return self._builder.emit(self._node, op, inputs, kind)


Result: TypeAlias = Value | tuple[Value, ...]
Rule: TypeAlias = Callable[[Call], Result]
__all__ = ["Call", "Result", "Rule", "Unknown", "Unsupported", "Value"]
