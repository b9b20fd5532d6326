"""Operators that files spell out in smaller ones: gelu, swish, mish, hard-swish, hard-sigmoid, layer norm.

Exporters write what an opset has no operator for as a formula. It is found here, and becomes the operator again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from flexgroup.graph._onnx_constants import needed
from flexgroup.graph._onnx_file import Network, Step, Tensor, step_of

_COMMUTATIVE = frozenset(("Add", "Mul"))
_CLOSE = 1e-4  # relative: exporters write constants in float32, or with few digits


@dataclass(frozen=True)
class Op:
    """An operator applied to ``inputs``, all of them; the order does not matter where the operator does not mind."""

    operator: str
    inputs: tuple[Pattern, ...]


# A number is a constant of one element; a text is a name, the same wherever it stands; a list holds alternatives.
Pattern: TypeAlias = "Op | float | str | list[Pattern]"
Bound: TypeAlias = Mapping[str, str]


def op(operator: str, *inputs: Pattern) -> Op:
    return Op(operator, inputs)


def _halved(x: Pattern, y: Pattern) -> list[Pattern]:
    """``0.5 * x * y`` in every order."""
    return _scaled(x, y, 0.5)


def _scaled(x: Pattern, y: Pattern, factor: float) -> list[Pattern]:
    """``factor * x * y`` in every order, or with a division by its inverse."""
    return [
        op("Mul", op("Mul", x, y), factor),
        op("Mul", op("Mul", x, factor), y),
        op("Mul", x, op("Mul", y, factor)),
        op("Div", op("Mul", x, y), 1 / factor),
        op("Mul", op("Div", x, 1 / factor), y),
        op("Mul", x, op("Div", y, 1 / factor)),
    ]


_ERF = op("Add", op("Erf", [op("Div", "x", math.sqrt(2)), op("Mul", "x", math.sqrt(0.5))]), 1.0)
_CUBE: Pattern = [op("Pow", "x", 3.0), op("Mul", "x", op("Mul", "x", "x")), op("Mul", op("Mul", "x", "x"), "x")]
_INNER = op("Mul", op("Add", "x", op("Mul", _CUBE, 0.044715)), math.sqrt(2 / math.pi))
_TANH = op("Add", op("Tanh", _INNER), 1.0)
_GATE = op("Clip", op("Add", "x", 3.0), 0.0, 6.0)
_CENTRED = op("Sub", "x", op("ReduceMean", "x"))
_SQUARE: Pattern = [op("Pow", _CENTRED, 2.0), op("Mul", _CENTRED, _CENTRED)]
_NORMAL = op("Div", _CENTRED, op("Sqrt", op("Add", op("ReduceMean", _SQUARE), "eps")))

_GELU = _halved("x", _ERF)
_TANH_GELU = _halved("x", _TANH)
_HARD_SWISH = [*_scaled("x", _GATE, 1 / 6), op("Mul", "x", op("HardSigmoid", "x"))]
_SWISH = op("Mul", "x", [op("Sigmoid", "x"), op("Sigmoid", op("Mul", "x", 1.0))])
_MISH = op("Mul", "x", op("Tanh", op("Softplus", "x")))
_HARD_SIGMOID: Pattern = [op("Div", _GATE, 6.0), op("Mul", _GATE, 1 / 6)]
_LAYER_NORM = op("Add", op("Mul", _NORMAL, "weight"), "bias")


def recognise(network: Network) -> Network:
    """``network`` with every formula that is an operator replaced by it."""
    finder = _Finder(network)
    steps = [finder.recognised(step) for step in network.steps]
    return replace(network, steps=needed(steps, network.outputs))


class _Finder:
    """Looks for patterns that end in a step."""

    def __init__(self, network: Network) -> None:
        self._constants = network.constants
        self._makers = {name: step for step in network.steps for name in step.outputs if name}

    def recognised(self, step: Step) -> Step:
        """The operator that ``step`` completes, or ``step`` itself."""
        if step.operator not in ("Add", "Mul", "Div"):
            return step
        for pattern, operator, attributes in (
            (_GELU, "Gelu", {}),
            (_TANH_GELU, "Gelu", {"approximate": "tanh"}),
            (_HARD_SWISH, "HardSwish", {}),
            (_SWISH, "Swish", {}),
            (_MISH, "Mish", {}),
            (_HARD_SIGMOID, "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ):
            bound = self._find(pattern, step)
            if bound is not None:
                return _step(step, operator, (bound["x"],), attributes)
        bound = self._find(_LAYER_NORM, step)
        return step if bound is None else self._layer_norm(step, bound)

    def _layer_norm(self, step: Step, bound: Bound) -> Step:
        weight, bias, eps = (self._constants.get(bound[name]) for name in ("weight", "bias", "eps"))
        fits = weight is not None and bias is not None and eps is not None
        if not (fits and weight.ndim == 1 and bias.shape == weight.shape and eps.size == 1):  # type: ignore[union-attr]
            return step
        attributes = {"axis": -1, "epsilon": float(eps.reshape(-1)[0])}  # type: ignore[union-attr]
        return _step(step, "LayerNormalization", (bound["x"], bound["weight"], bound["bias"]), attributes)

    def _find(self, pattern: Pattern, step: Step) -> Bound | None:
        return next(self._match(pattern, step.outputs[0], {}), None)

    def _match(self, pattern: Pattern, name: str, bound: Bound) -> Iterator[Bound]:
        """Every way in which the value ``name`` fits ``pattern``, as the names that its words stand for."""
        if isinstance(pattern, list):
            for choice in pattern:
                yield from self._match(choice, name, bound)
        elif isinstance(pattern, str):
            if bound.get(pattern, name) == name:
                yield {**bound, pattern: name}
        elif isinstance(pattern, Op):
            step = self._makers.get(name)
            if step is not None and step.operator == pattern.operator and self._is_usual(step):
                yield from self._match_inputs(pattern, step, bound)
        elif _is_number(self._constants.get(name), pattern):
            yield bound

    def _match_inputs(self, pattern: Op, step: Step, bound: Bound) -> Iterator[Bound]:
        names = step.inputs[:1] if step.operator == "ReduceMean" else step.inputs
        if len(names) != len(pattern.inputs):
            return
        orders = itertools.permutations(names) if step.operator in _COMMUTATIVE else (names,)
        for order in orders:
            matches: list[Bound] = [bound]
            for part, name in zip(pattern.inputs, order, strict=True):
                matches = [after for before in matches for after in self._match(part, name, before)]
            yield from matches

    def _is_usual(self, step: Step) -> bool:
        """Whether the attributes of ``step`` are those that patterns mean.

        Means are over the last axis, which stays; a hard sigmoid is that of hard-swish.
        """
        if step.operator == "HardSigmoid":
            alpha, beta = step.attributes.get("alpha", 0.2), step.attributes.get("beta", 0.5)
            return math.isclose(alpha, 1 / 6, rel_tol=_CLOSE) and beta == 0.5
        if step.operator != "ReduceMean":
            return True
        axes = step.attributes.get("axes")
        if axes is None and len(step.inputs) > 1:
            given = self._constants.get(step.inputs[1])
            axes = None if given is None else given.reshape(-1).tolist()
        return axes == [-1] and step.attributes.get("keepdims", 1) == 1


def _is_number(array: Tensor | None, number: float) -> bool:
    return array is not None and array.size == 1 and math.isclose(float(array.reshape(-1)[0]), number, rel_tol=_CLOSE)


def _step(step: Step, operator: str, inputs: tuple[str, ...], attributes: Mapping[str, Any]) -> Step:
    from onnx import helper

    made = step_of(helper.make_node(operator, inputs, step.outputs, step.name, **attributes))
    return replace(made, source=step.source)
