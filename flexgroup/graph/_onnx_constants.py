"""What a file computes from constants alone, computed once, by ONNX's own reference implementation in numpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flexgroup.graph._onnx_file import Network, Step, Tensor

_DRAWN = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)


def evaluate(step: Step, inputs: Sequence[Tensor | None], opset: int) -> tuple[Tensor, ...] | None:
    """The outputs of ``step`` on constants; None where it draws random numbers or has no reference implementation."""
    from onnx.reference import ReferenceEvaluator

    if step.operator in _DRAWN or step.proto.domain not in ("", "ai.onnx") or outer_names(step):
        return None
    feeds = {name: array for name, array in zip(step.inputs, inputs, strict=True) if array is not None}
    try:
        results = ReferenceEvaluator(_alone(step, feeds, opset)).run(None, feeds)
        named = dict(zip(filter(None, step.outputs), results, strict=True))
        return tuple(named.get(name, np.zeros(0)) for name in step.outputs)
    except Exception:  # whatever it was: the step stays, and is judged where it stands
        return None


def _alone(step: Step, names: Iterable[str], opset: int) -> Any:
    """A model of ``step`` alone: of a node without a model, ONNX takes the newest version."""
    from onnx import ValueInfoProto, helper

    inputs, outputs = ([ValueInfoProto(name=name) for name in group if name] for group in (names, step.outputs))
    graph = helper.make_graph([step.proto], "step", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def fold(network: Network) -> Network:
    """``network`` with every step computed that depends on nothing but constants, and what nobody reads dropped."""
    constants = dict(network.constants)
    left = []
    for step in network.steps:
        known = all(not name or name in constants for name in step.inputs)
        results = evaluate(step, [constants.get(name) for name in step.inputs], network.opset) if known else None
        if results is None:
            left.append(step)
        else:
            constants.update(zip(step.outputs, results, strict=False))
    return replace(network, steps=needed(left, network.outputs), constants=constants)


def needed(steps: Iterable[Step], outputs: Iterable[str]) -> tuple[Step, ...]:
    """The steps, in order, that the outputs depend on."""
    wanted = set(outputs)
    kept = []
    for step in reversed(list(steps)):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(filter(None, step.inputs), outer_names(step))
    return tuple(reversed(kept))


def outer_names(step: Step) -> set[str]:
    """Names that the subgraphs of an If, Loop or Scan may read from around it."""
    graphs: list[Any] = [x.g for x in step.proto.attribute if x.HasField("g")]
    names: set[str] = set()
    while graphs:
        for node in graphs.pop().node:
            names.update(node.input)
            graphs += [x.g for x in node.attribute if x.HasField("g")]
    return names
