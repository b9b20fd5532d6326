"""What an ONNX rule sees: one step with its inputs and attributes, and torch's operators to say what it means.

An operator of ONNX is one of torch, or a few. So a rule calls these, and each goes through the rule by which the other
door lowers it: views, broadcasting and whatever the graph learns are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils import _pytree

from flexgroup.graph._builder import Builder
from flexgroup.graph._call import Call, Unsupported, Value
from flexgroup.graph._onnx_file import Step, Tensor
from flexgroup.graph._rules import apply_rule
from flexgroup.graph._validate import Shape

Operand: TypeAlias = Value | Tensor
Results: TypeAlias = Operand | Sequence[Operand]


aten = torch.ops.aten

# What windows along a row have across it. Of pads, those before come before those after.
_ROWS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0, "output_padding": 0, "output_shape": 1}

_KNOWN = 24  # the opset whose attributes the rules know, and those of all before


class OnnxCall:
    """One step: ``inputs`` are activations, constants (numpy arrays), or None where they are left out."""

    def __init__(self, builder: Builder, step: Step, inputs: Sequence[Operand | None], opset: int) -> None:
        self.builder = builder
        self.step = step
        self.inputs = inputs
        self.opset = opset

    def __getitem__(self, index: int) -> Operand:
        """Input ``index``, activation or constant; it must be there."""
        operand = self.get(index)
        if operand is None:
            raise Unsupported(f"its input {index} is missing")
        return operand

    def get(self, index: int) -> Operand | None:
        """Input ``index``, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Value:
        """The activation that is input ``index``."""
        operand = self[index]
        if not isinstance(operand, Value):
            raise Unsupported("it works on a constant where it needs an activation")
        return operand

    def constant(self, index: int, what: str) -> Tensor:
        """The constant that is input ``index``, called ``what`` in complaints."""
        operand = self[index]
        if isinstance(operand, Value):
            raise Unsupported(f"its {what} is computed from the network's input")
        return operand

    def shape(self, operand: Operand) -> Shape:
        """The shape of ``operand``, batch included."""
        return self.builder.shape_of(operand) if isinstance(operand, Value) else operand.shape

    def attribute(self, name: str, default: Any = None) -> Any:
        """Attribute ``name``; texts are str, lists of numbers lists."""
        return self.step.attributes.get(name, default)

    def check_attributes(self) -> None:
        """Refuse attributes that opsets have brought after the rules were written."""
        if self.opset <= _KNOWN:
            return
        from onnx import defs

        known = defs.get_schema(self.step.operator, _KNOWN, "").attributes
        unknown = [name for name in self.step.attributes if name not in known]
        if unknown:
            raise Unsupported(f"its attribute {unknown[0]!r} is not known here; export with opset_version={_KNOWN}")

    def numbers(self, name: str, index: int) -> list[int] | None:
        """A list that older opsets give as attribute ``name`` and newer ones as constant input ``index``."""
        if name in self.step.attributes:
            return [int(x) for x in self.attribute(name)]
        if self.get(index) is None:
            return None
        return [int(x) for x in self.constant(index, name).reshape(-1)]

    def number(self, name: str, index: int, default: float) -> float:
        """One number that older opsets give as attribute ``name`` and newer ones as constant input ``index``."""
        if name in self.step.attributes:
            return float(self.attribute(name))
        return default if self.get(index) is None else float(self.constant(index, name).reshape(-1)[0])

    def plain(self, **arguments: Any) -> Call:
        """A call with these arguments, to emit nodes of the graph itself."""
        return Call(self.builder, self.step, arguments, ())

    def of_one_row(self) -> OnnxCall:
        """The same call on images with one row, where it is on sequences (channels, length).

        Raises `Unsupported` where the first input is no such sequence.
        """
        shape = self.shape(self.value(0))
        if len(shape) != 3:
            raise Unsupported(
                f"it reads a value of shape {shape} where sequences (batch, channels, length) are supported"
            )
        attributes = dict(self.step.attributes)
        for name, before in _ROWS.items():
            numbers = attributes.get(name)
            if numbers is not None:
                attributes[name] = [x for number in numbers for x in (before, int(number))]
        image = self.apply(aten.view.default, self.value(0), [*shape[:2], 1, shape[2]])
        weights = [x[:, :, None] if isinstance(x, np.ndarray) and x.ndim == 3 else x for x in self.inputs[1:]]
        step = replace(self.step, attributes=attributes)
        return OnnxCall(self.builder, step, [image, *weights], self.opset)

    def image(self, index: int = 0) -> Value:
        """Input ``index``, which must be (channels, height, width) behind the batch."""
        return self.plain(image=self.value(index)).image("image")

    def apply(self, operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Operand:
        """What torch's ``operator`` lowers to; on constants alone, what it computes."""
        return self.apply_parts(operator, *args, **kwargs)[0]

    def apply_parts(self, operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> list[Operand]:
        """All results of torch's ``operator``."""
        arguments = _bind(operator, args, kwargs)
        leaves = _pytree.tree_leaves(list(arguments.values()))
        if not any(isinstance(leaf, Value) for leaf in leaves):
            return [x.numpy() for x in _pytree.tree_leaves(_run(operator, arguments))]
        shapes = self._shapes(operator, arguments)
        name = f"{operator.namespace}.{operator._schema.name.partition('::')[2]}"
        given = apply_rule(name, Call(self.builder, self.step, arguments, shapes[0]))
        parts = given if isinstance(given, tuple) else (given,)
        self.builder.check_shapes(parts, shapes)
        return list(parts)

    def _shapes(self, operator: torch._ops.OpOverload, arguments: Mapping[str, Any]) -> list[Shape]:
        """The shapes of the results, found by torch on tensors that have shapes only."""

        def hollow(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return torch.empty(self.builder.shape_of(leaf), device="meta")
            return leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf

        try:
            results = _run(operator, _pytree.tree_map(hollow, dict(arguments)))
        except (RuntimeError, IndexError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise Unsupported(f"its inputs do not fit each other: {reason}; check the shape of the input") from None
        tensors = [x for x in _pytree.tree_leaves(results) if isinstance(x, torch.Tensor)]
        if tensors[0].dtype != torch.float32:
            kind = str(tensors[0].dtype).removeprefix("torch.")
            raise Unsupported(f"its result is {kind}; keep activations in float32")
        return [tuple(x.shape) for x in tensors]


def _bind(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by the names in torch's schema, with its defaults; numpy arrays become tensors."""
    named = {
        argument.name: args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
        for i, argument in enumerate(operator._schema.arguments)
    }
    return {
        name: _pytree.tree_map_only(np.ndarray, lambda x: torch.from_numpy(np.array(x)), value)
        for name, value in named.items()
    }


def _run(operator: torch._ops.OpOverload, arguments: Mapping[str, Any]) -> Any:
    schema = operator._schema.arguments
    positional = [arguments[x.name] for x in schema if not x.kwarg_only]
    return operator(*positional, **{x.name: arguments[x.name] for x in schema if x.kwarg_only})


OnnxRule: TypeAlias = Callable[[OnnxCall], Results]
