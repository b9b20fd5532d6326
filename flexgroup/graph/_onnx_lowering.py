"""The walk over an ONNX network: constants are computed, the rest becomes nodes of the graph or is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexgroup.graph import ir
from flexgroup.graph._builder import Builder
from flexgroup.graph._call import Call, Unknown, Unsupported, Value
from flexgroup.graph._onnx_call import OnnxCall, OnnxRule, Operand, Results
from flexgroup.graph._onnx_constants import evaluate
from flexgroup.graph._onnx_file import Network, Step
from flexgroup.graph._onnx_hints import onnx_hint_for
from flexgroup.graph._onnx_rules import ONNX_RULES
from flexgroup.graph._onnx_shapes import inferred_shapes
from flexgroup.graph._validate import Shape


@dataclass(frozen=True)
class LeftOut(Unknown):
    """A result that the step at ``where`` has in ONNX, but not in a graph."""

    where: str


class OnnxLowering(Builder):
    """The state of one walk over ``network`` for inputs of ``shapes``, batch included."""

    def __init__(self, network: Network, shapes: Mapping[str, Shape]) -> None:
        super().__init__(network.name)
        self._network = network
        self._input_shapes = shapes
        self._known: dict[str, Operand | Unknown] = dict(network.constants)
        self._inferred: Mapping[str, Shape] | None = None

    def run(self) -> ir.Graph:
        """Lower the whole network, or raise one `FlexgroupError` about everything that stands in the way."""
        for name, shape in self._input_shapes.items():
            self.batch = shape[0]
            self.shapes[name] = shape[1:]
            self._known[name] = Value(name, shape[1:])
        inputs = tuple(self.shapes)
        for step in self._network.steps:
            results = self._lower(step)
            self._known.update((name, x) for name, x in zip(step.outputs, results, strict=False) if name)
        return self.finish(inputs, self._outputs())

    def layer_of(self, node: Step, kind: str = "", inner: bool = False) -> str:
        return f"{node.name}.{kind or node.operator.lower()}" if inner else node.name

    def source_of(self, node: Step) -> str:
        return node.source

    def _read(self, name: str) -> Operand | Unknown:
        value = self._known.get(name, Unknown())
        if isinstance(value, LeftOut):
            self.note_unsupported(value.where, f"its result {name!r} is read, and only its first result is compiled")
        return value

    def _where(self, step: Step) -> str:
        source = f" at {step.source}" if step.source else ""
        return f"{step.name}: {step.operator} (opset {self._network.opset}){source}"

    def _outputs(self) -> tuple[str, ...]:
        names = []
        for name in self._network.outputs:
            value = self._read(name)
            try:
                if isinstance(value, Value):
                    names.append(Call(self, _output_step(name), {}, ()).settled(value).name)
                elif not isinstance(value, Unknown):
                    raise Unsupported("it does not depend on the input; leave it out of the network's outputs")
            except Unsupported as error:
                self.note_unsupported(f"output {name!r}", str(error))
        return tuple(names)

    def _lower(self, step: Step) -> list[Operand | Unknown]:
        inputs = [self._read(name) if name else None for name in step.inputs]
        computed = self._compute(step, inputs)
        if computed is not None:
            return computed
        try:
            known = [x for x in inputs if not isinstance(x, Unknown)]
            reads_activations = any(isinstance(x, Value) for x in known)
            if len(known) < len(inputs) and not reads_activations:
                return self._stand_ins(step)  # it may well be a constant, computed from the shape of something unknown
            rule = ONNX_RULES.get(step.operator)
            if rule is None:
                raise Unsupported(onnx_hint_for(step.operator))
            if len(known) < len(inputs):
                return self._stand_ins(step)
            if not reads_activations:
                raise Unsupported("it works on constants, but not the same way every time")
            results = _applied(rule, OnnxCall(self, step, known, self._network.opset))
        except Unsupported as error:
            self.note_unsupported(self._where(step), str(error))
            return self._stand_ins(step)
        given: list[Any] = list(results) if isinstance(results, list | tuple) else [results]
        return given + [LeftOut(self._where(step))] * (len(step.outputs) - len(given))

    def _compute(self, step: Step, inputs: list[Operand | Unknown | None]) -> list[Operand | Unknown] | None:
        """What ``step`` gives if no number of an activation matters to it."""
        first = inputs[0] if inputs else None
        if step.operator in ("Shape", "Size") and isinstance(first, Value):
            shape = np.array(self.shape_of(first), np.int64)
            if step.operator == "Size":
                return [np.array(shape.prod())]
            return [shape[slice(step.attributes.get("start", 0), step.attributes.get("end"))]]
        constants = [x for x in inputs if x is None or isinstance(x, np.ndarray)]
        if len(constants) < len(inputs):
            return None
        results = evaluate(step, constants, self._network.opset)
        return None if results is None else list(results)

    def _stand_ins(self, step: Step) -> list[Operand | Unknown]:
        """Values of the shapes that ONNX itself infers, so that what follows can be judged too."""
        if self._inferred is None:
            self._inferred = inferred_shapes(self._network, self._input_shapes)
        shapes = [self._inferred.get(name) for name in step.outputs]
        values = [None if shape is None else self.stand_in(step.name, shape) for shape in shapes]
        return [Unknown() if value is None else value for value in values]


def _applied(rule: OnnxRule, call: OnnxCall) -> Results:
    """What ``rule`` gives; attributes that contradict each other or ONNX (lists of wrong lengths, ...) are refused."""
    call.check_attributes()
    try:
        return rule(call)
    except (ArithmeticError, IndexError, KeyError, MemoryError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Unsupported(f"its attributes contradict each other or its inputs ({reason}); check the file") from error


def _output_step(name: str) -> Step:
    return Step(name, "Identity", (name,), (name,), {}, "", None)
