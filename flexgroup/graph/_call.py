"""What a lowering rule sees: one operator call with named arguments, and a way to append nodes for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from flexgroup.graph import ir
from flexgroup.graph._validate import Shape

if TYPE_CHECKING:
    from flexgroup.graph._lowering import Lowering


@dataclass(frozen=True)
class Value:
    """An activation: its name in the graph, and its shape (without batch) as torch sees it.

    A view may make that another shape than the graph notes: (channels, 1, 1) seen as (channels, 1). Only
    rules that ask for it (`Call.viewed`) get to see such a value.
    """

    name: str
    shape: Shape


@dataclass(frozen=True)
class Unknown:
    """What an operator would have given that is not supported: its readers cannot be judged."""


class Unsupported(Exception):
    """The graph has no word for this operator; the text says what would help."""


class Call:
    """One call of an operator: its arguments by the names in torch's schema, and a way to emit nodes."""

    def __init__(self, lowering: Lowering, node: torch.fx.Node, arguments: Mapping[str, Any], result: Shape) -> None:
        self._lowering = lowering
        self._node = node
        self.arguments = arguments
        self.result = result

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
        """The activation ``name`` of one or three axes."""
        return self.settled(self.viewed(name))

    def settled(self, value: Value) -> Value:
        """``value``, if torch and the graph agree on its shape."""
        if value.shape != self.stored(value):
            raise Unsupported(
                f"it reads {self.stored(value)} reshaped to {value.shape} (without batch); the only reshape "
                f"that is compiled flattens to (batch, features)"
            )
        if len(value.shape) not in (1, 3):
            raise Unsupported(f"it reads a value of shape (batch, {', '.join(map(str, value.shape))})")
        return value

    def image(self, name: str) -> Value:
        """The activation ``name`` of shape (channels, height, width)."""
        value = self.activation(name)
        if len(value.shape) != 3:
            raise Unsupported("it reads a vector where images (batch, channels, height, width) are supported")
        return value

    def stored(self, value: Value) -> Shape:
        """The shape that the graph notes for ``value``."""
        return self._lowering.shapes[value.name]

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
            self._lowering.note_broken(self._node, name, bad, array.size)
        return array

    def emit(self, op: ir.Op, *inputs: Value, kind: str = "") -> Value:
        """Append a node; ``kind`` names it where torch's own name for the operator would mislead."""
        return self._lowering.emit(self._node, op, inputs, kind)


Rule: TypeAlias = Callable[[Call], Value]
