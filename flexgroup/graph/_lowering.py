"""The walk over an exported program: constants are computed, the rest becomes nodes or is listed."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from flexgroup.graph import ir
from flexgroup.graph._builder import Builder
from flexgroup.graph._call import Call, Unknown, Unsupported, Value
from flexgroup.graph._hints import hint_for
from flexgroup.graph._names import LayerNames, source_line
from flexgroup.graph._rules import RULES, SHAPE_ONLY, apply_rule
from flexgroup.graph._validate import Shape
from flexgroup.graph._value import BATCH_MOVES


class Lowering(Builder):
    """The state of one walk over ``program``, the export of ``model``."""

    def __init__(self, program: torch.export.ExportedProgram, model: torch.nn.Module) -> None:
        super().__init__(type(model).__name__)
        self._program = program
        self._names = LayerNames(model)
        self._known: dict[torch.fx.Node, Any] = {}

    def run(self) -> ir.Graph:
        """Lower the whole program, or raise one `FlexgroupError` about everything that stands in the way."""
        graph = self._program.graph
        self._read_inputs([node for node in graph.nodes if node.op == "placeholder"])
        inputs = tuple(self.shapes)
        for node in graph.nodes:
            if node.op == "call_function":
                self._known[node] = self._lower(node)
            elif node.op == "get_attr":
                self._known[node] = Unknown()
        outputs = self._read_outputs(next(node for node in graph.nodes if node.op == "output"))
        return self.finish(inputs, outputs, _keys(self._program))

    def layer_of(self, node: torch.fx.Node, kind: str = "", inner: bool = False) -> str:
        """The name of torch's own layer that ran ``node``; the operator's ``kind`` is added to any other."""
        path = self._names.path(node)
        whole = self._names.is_torch_layer(path) and path and not inner
        return path if whole else f"{path}.{kind or _kind(node)}".lstrip(".")

    def source_of(self, node: torch.fx.Node) -> str:
        return source_line(node)

    def _read_inputs(self, placeholders: list[torch.fx.Node]) -> None:
        state = {**self._program.state_dict, **self._program.constants}
        for node, spec in zip(placeholders, self._program.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self.batch, *shape = node.meta["val"].shape
                self.shapes[node.name] = tuple(shape)
                self._known[node] = Value(node.name, tuple(shape))
            else:
                self._known[node] = state.get(str(spec.target), Unknown())

    def _read_outputs(self, output: torch.fx.Node) -> tuple[str, ...]:
        names = []
        specs = self._program.graph_signature.output_specs
        for result, spec in zip(output.args[0], specs, strict=True):  # type: ignore[arg-type]
            if spec.kind != OutputKind.USER_OUTPUT:
                self._note("(model)", f"writes {spec.target!r}", "", "a compiled network keeps no state")
                continue
            value = self._known[result] if isinstance(spec.arg, TensorArgument) else None
            if isinstance(value, Value):
                try:
                    names.append(Call(self, result, {}, ()).settled(value).name)
                except Unsupported as error:
                    self._note("(output)", str(result.target), source_line(result), str(error))
            elif not isinstance(value, Unknown):
                what = str(getattr(spec.arg, "value", "a constant tensor"))
                self._note("(output)", what, "", "return only tensors that depend on the input")
        return tuple(names)

    def _lower(self, node: torch.fx.Node) -> Any:
        result = node.meta.get("val")
        if result is None and not node.users:
            return None  # an assertion: it computes nothing
        if isinstance(result, (bool, int, float)):
            return result
        arguments = _arguments(node, self._known)
        operands = torch.utils._pytree.tree_leaves(list(arguments.values()))
        if node.target is operator.getitem:
            return self._item(node, *arguments.values())
        drops_nothing = arguments.get("dropout_p") == 0  # attention, which torch counts among what is random
        if not any(isinstance(operand, (Value, Unknown)) for operand in operands) and (_is_pure(node) or drops_nothing):
            return _compute(node, self._known)
        try:
            return self._apply(node, arguments, operands)
        except Unsupported as error:
            self._note(self._names.path(node) or "(model)", str(node.target), source_line(node), str(error))
            return self._stand_in(node)

    def _apply(self, node: torch.fx.Node, arguments: Mapping[str, Any], operands: list[Any]) -> Any:
        operator_name = _packet(node)
        rule = RULES.get(operator_name)
        if rule is None and operator_name not in SHAPE_ONLY:
            raise Unsupported(hint_for(operator_name))
        if any(isinstance(operand, Unknown) for operand in operands):
            return self._stand_in(node)
        if rule is None:
            return _compute(node, self._known)
        shapes = _result_shapes(node)
        if not shapes:
            raise Unsupported(BATCH_MOVES)
        _check_type(node)
        value = apply_rule(operator_name, Call(self, node, arguments, shapes[0]))
        self.check_shapes(value if isinstance(value, tuple) else (value,), shapes)
        return (value,) if isinstance(value, Value) and isinstance(node.meta["val"], (tuple, list)) else value

    def _item(self, node: torch.fx.Node, items: Any, index: int) -> Any:
        if isinstance(items, Unknown):
            return items if node.users else None
        if isinstance(items, (tuple, list)) and index < len(items):
            return items[index]
        self._note(self._names.path(node) or "(model)", str(node), source_line(node), "use only the first result")
        return Unknown()

    def _stand_in(self, node: torch.fx.Node) -> Any:
        shapes = _result_shapes(node)
        value = self.stand_in(node.name, shapes[0]) if shapes else None
        if value is None:
            return Unknown()
        results = node.meta["val"]
        if not isinstance(results, (tuple, list)):
            return value
        return (value, *(Unknown() for _ in results[1:]))

    def _note(self, layer: str, what: str, source: str, hint: str) -> None:
        where = f" at {source}" if source else ""
        self.note_unsupported(f"{layer}: {what}{where}", hint)


def _keys(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The keys of the dict of tensors that the program returns; empty if it returns no dict."""
    spec = program.call_spec.out_spec
    returned = None if spec is None else torch.utils._pytree.tree_unflatten(range(spec.num_leaves), spec)
    return tuple(map(str, returned)) if isinstance(returned, Mapping) and len(returned) == spec.num_leaves else ()


def _packet(node: torch.fx.Node) -> str:
    """``aten.conv2d`` for ``aten.conv2d.padding``: overloads share a rule, which looks at their arguments."""
    is_overload = isinstance(node.target, torch._ops.OpOverload)
    return str(node.target).rpartition(".")[0] if is_overload else str(node.target)


def _kind(node: torch.fx.Node) -> str:
    return _packet(node).rpartition(".")[2].strip("_")


def _result_shapes(node: torch.fx.Node) -> list[Shape]:
    """The shapes of a node's tensors; none where they depend on numbers that only a run knows."""
    result = node.meta.get("val")
    results = result if isinstance(result, (tuple, list)) else (result,)
    shapes = [tuple(tensor.shape) for tensor in results if isinstance(tensor, torch.Tensor)]
    return shapes if all(isinstance(size, int) for shape in shapes for size in shape) else []


def _check_type(node: torch.fx.Node) -> None:
    result = node.meta["val"]
    first = result[0] if isinstance(result, (tuple, list)) else result
    if first.dtype != torch.float32:
        raise Unsupported(f"its result is {str(first.dtype).removeprefix('torch.')}; keep activations in float32")


def _arguments(node: torch.fx.Node, known: Mapping[torch.fx.Node, Any]) -> dict[str, Any]:
    """The arguments of ``node`` by the names in torch's schema, with defaults, and values for other nodes."""
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: known[n])
    if not isinstance(node.target, torch._ops.OpOverload):
        return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
    named = {}
    for index, argument in enumerate(node.target._schema.arguments):
        given = args[index] if index < len(args) else kwargs.get(argument.name, argument.default_value)
        named[argument.name] = given
    return named


def _is_pure(node: torch.fx.Node) -> bool:
    """Whether ``node`` gives the same result at any time: no random numbers, no writing, no nested graphs."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags
    return getattr(target, "__module__", "") in ("_operator", "math")


def _compute(node: torch.fx.Node, known: Mapping[torch.fx.Node, Any]) -> Any:
    """Run ``node`` on constants; of activations only the shape may matter to it."""

    def concrete(argument: torch.fx.Node) -> Any:
        value = known[argument]
        return torch.empty(tuple(argument.meta["val"].shape)) if isinstance(value, Value) else value

    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), concrete)
    return node.target(*args, **kwargs)  # type: ignore[operator]
