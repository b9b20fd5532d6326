"""Which channels of a network can change places without changing what it computes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import Node

from flexgroup._errors import FlexgroupError

Indices = npt.NDArray[np.int64]

# Each treats every channel alike and on its own, and keeps the axes.
_CHANNELWISE = {
    "relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid",
    "hardsigmoid_", "silu", "silu_", "gelu", "sigmoid", "tanh", "leaky_relu", "leaky_relu_", "elu", "elu_", "mish",
    "softplus", "exp", "neg", "abs", "sqrt", "rsqrt", "clamp", "clamp_min", "clamp_max", "dropout", "dropout_",
    "feature_dropout", "alias", "detach", "clone", "contiguous", "to", "_to_copy",
}  # fmt: skip
# Each treats every channel of an (N, C, H, W) image alike and on its own.
_SPATIAL = {
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d",
    "upsample_bilinear2d", "upsample_bicubic2d",
}  # fmt: skip
_PAIRWISE = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"}


@dataclass(frozen=True)
class Value:
    """A tensor whose axis ``axis`` is channels: wire ``wires[i]`` at entries ``i * block`` to ``(i + 1) * block``."""

    wires: Indices
    axis: int
    block: int = 1


@dataclass(frozen=True)
class Use:
    """Axis ``axis`` of a parameter or buffer goes along with a value's channels, ``width`` entries to each."""

    name: str
    axis: int
    wires: Indices
    width: int


@dataclass(frozen=True)
class Exchange:
    """Channels that may be permuted among themselves: ``places[i][j]`` is where channel j lies in ``uses[i]``."""

    uses: tuple[Use, ...]
    places: tuple[Indices, ...]

    @property
    def count(self) -> int:
        """How many channels."""
        return len(self.places[0])


def exchanges(model: nn.Module, example: tuple[Tensor, ...]) -> list[Exchange]:
    """Find all sets of channels that may be permuted, from the program that ``torch.export`` makes of the model.

    A *wire* is one channel followed through the network: element by element operations and batch norms continue it,
    additions join the wires of their operands. Two wires can change places if they pass through the same values, each
    once, and through no operation that is unknown or treats channels differently. Raises `FlexgroupError` with torch's
    reason if the model cannot be exported.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(model, example)
    except Exception as error:  # torch.export raises whatever the model's code raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FlexgroupError(f"the model cannot be exported, so its channels cannot be followed: {reason[0]}") from None
    signature = program.graph_signature
    tracer = _Tracer({**signature.inputs_to_parameters, **signature.inputs_to_buffers})
    for node in program.graph.nodes:
        tracer.visit(node)
    return tracer.exchanges()


class _Tracer:
    def __init__(self, stored: dict[str, str]) -> None:
        self._stored = stored  # placeholder -> name of the parameter or buffer
        self._values: dict[Node, Value] = {}
        self._parents: list[int] = []
        self._pinned: set[int] = set()
        self._uses: list[Use] = []

    def visit(self, node: Node) -> None:
        if node.op == "output":
            self._pin(node.all_input_nodes)
        if node.op != "call_function":
            return
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        rule = getattr(self, f"_{name}", None) if name in _RULES else None
        result: Value | None = None
        if name in _CHANNELWISE or (name in _SPATIAL and self._axis(node) == 1):
            result = self._values.get(node.args[0]) if isinstance(node.args[0], Node) else None
        elif name in _PAIRWISE:
            result = self._pairwise(node)
        elif rule is not None:
            result = rule(node)
        if result is None:
            self._pin(node.all_input_nodes)
        else:
            self._values[node] = result

    def exchanges(self) -> list[Exchange]:
        """Group the wires that pass through the same values."""
        names = Counter((use.name, use.axis) for use in self._uses)
        for use in self._uses:
            if names[use.name, use.axis] > 1:  # a weight that is used twice
                self._pinned.update(use.wires.tolist())
        pinned = {self._root(wire) for wire in self._pinned}
        passes: dict[int, list[int]] = {}
        for index, value in enumerate(self._values.values()):
            roots = [self._root(wire) for wire in value.wires.tolist()]
            for root, count in Counter(roots).items():
                passes.setdefault(root, []).append(index)
                if count > 1:
                    pinned.add(root)
        alike: dict[tuple[int, ...], list[int]] = {}
        for root, indices in passes.items():
            if root not in pinned:
                alike.setdefault(tuple(indices), []).append(root)
        found = []
        rooted = [np.array([self._root(wire) for wire in use.wires.tolist()]) for use in self._uses]
        for roots in alike.values():
            here = [i for i, wires in enumerate(rooted) if len(roots) > 1 and roots[0] in wires]
            if here:
                places = [{int(wire): at for at, wire in enumerate(rooted[i])} for i in here]
                orders = tuple(np.array([place[root] for root in roots]) for place in places)
                found.append(Exchange(tuple(self._uses[i] for i in here), orders))
        return found

    def _conv2d(self, node: Node) -> Value | None:
        weight, bias, groups = self._name(node.args[1]), _argument(node, 2, "bias"), _argument(node, 6, "groups", 1)
        given = self._given(node)
        if weight is None or (given is not None and (given.axis, given.block) != (1, 1)):
            return None
        rows, inputs = _shape(node.args[1])[:2]
        if groups == 1:
            if given is not None:
                self._use(weight, 1, given, 1)
            result = self._fresh(rows, 1)
        elif given is not None and groups == rows and inputs == 1:  # depthwise: an output goes with its input
            result = given
        else:
            return None
        self._use(weight, 0, result, 1)
        return result if self._follows(bias, result) else None

    def _linear(self, node: Node) -> Value | None:
        weight, given, last = self._name(node.args[1]), self._given(node), len(_shape(node)) - 1
        if weight is None or (given is not None and given.axis != last):
            return None
        if given is not None:
            self._use(weight, 1, given, given.block)
        result = self._fresh(_shape(node.args[1])[0], last)
        self._use(weight, 0, result, 1)
        return result if self._follows(_argument(node, 2, "bias"), result) else None

    def _batch_norm(self, node: Node) -> Value | None:
        given = self._given(node)
        if given is None or (given.axis, given.block) != (1, 1):
            return None
        return given if all([self._follows(entry, given) for entry in node.args[1:5]]) else None

    def _pairwise(self, node: Node) -> Value | None:
        """Operands of the same channels, which are joined, or a value and a number."""
        operands = [entry for entry in node.args[:2] if isinstance(entry, Node)]
        values = [self._values.get(entry) for entry in operands]
        first = values[0]
        if first is None or len(operands) == 1:
            return first
        second = values[1]
        same_rank = len(_shape(operands[0])) == len(_shape(operands[1])) == len(_shape(node))
        return self._join(first, second) if second is not None and same_rank else None

    def _join(self, first: Value, second: Value) -> Value | None:
        if (first.axis, first.block, len(first.wires)) != (second.axis, second.block, len(second.wires)):
            return None
        for one, other in zip(first.wires.tolist(), second.wires.tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)
        return first

    def _cat(self, node: Node) -> Value | None:
        parts: Any = node.args[0]
        values = [value for value in (self._values.get(part) for part in parts) if value is not None]
        dim = _argument(node, 1, "dim", 0) % len(_shape(node))
        if len(values) < len(parts) or len({(value.axis, value.block) for value in values}) > 1:
            return None
        if dim == values[0].axis:
            return Value(np.concatenate([value.wires for value in values]), dim, values[0].block)
        joined: Value | None = values[0]
        for value in values[1:]:
            joined = None if joined is None else self._join(joined, value)
        return joined

    def _pad(self, node: Node) -> Value | None:
        """Zero channels are wires of their own: any of them is as good as another."""
        given, widths = self._given(node), list(_argument(node, 1, "pad"))
        if given is None:
            return None
        behind = 2 * (len(_shape(node.args[0])) - 1 - given.axis)
        before, after = (widths + [0] * (behind + 2))[behind : behind + 2]
        if (before, after) == (0, 0):
            return given
        mode, filler = _argument(node, 2, "mode", "constant"), _argument(node, 3, "value")
        if mode != "constant" or filler not in (None, 0, 0.0) or min(before, after) < 0 or given.block > 1:
            return None
        zeros = [self._fresh(count, given.axis).wires for count in (before, after)]
        return Value(np.concatenate([zeros[0], given.wires, zeros[1]]), given.axis)

    def _slice(self, node: Node) -> Value | None:
        given = self._given(node)
        start, end, step = _argument(node, 2, "start"), _argument(node, 3, "end"), _argument(node, 4, "step", 1)
        if given is None or _argument(node, 1, "dim", 0) % len(_shape(node)) != given.axis:
            return given
        return Value(given.wires[start:end:step], given.axis) if given.block == 1 else None

    def _mean(self, node: Node) -> Value | None:
        given, rank = self._given(node), len(_shape(node.args[0]))
        dims = {dim % rank for dim in _argument(node, 1, "dim") or range(rank)}
        keep = _argument(node, 2, "keepdim", False)
        if given is None or given.axis in dims:
            return None
        return Value(given.wires, given.axis - (0 if keep else sum(dim < given.axis for dim in dims)), given.block)

    def _permute(self, node: Node) -> Value | None:
        given, rank = self._given(node), len(_shape(node))
        if given is None:
            return None
        return Value(given.wires, [dim % rank for dim in _argument(node, 1, "dims")].index(given.axis), given.block)

    def _transpose(self, node: Node) -> Value | None:
        given, rank = self._given(node), len(_shape(node))
        if given is None:
            return None
        one, other = _argument(node, 1, "dim0") % rank, _argument(node, 2, "dim1") % rank
        return Value(given.wires, {one: other, other: one}.get(given.axis, given.axis), given.block)

    def _reshape(self, node: Node) -> Value | None:
        """What keeps the channel axis and all before it, or all behind it, or flattens what is behind it into it."""
        given, before, after = self._given(node), _shape(node.args[0]), _shape(node)
        if given is None:
            return None
        axis = given.axis
        if after[: axis + 1] == before[: axis + 1]:
            return given
        if axis == len(before) - 1 and after[-1] == before[-1]:
            return Value(given.wires, len(after) - 1, given.block)
        if after == (*before[:axis], math.prod(before[axis:])):
            return Value(given.wires, axis, given.block * math.prod(before[axis + 1 :]))
        return None

    _flatten = _view = _squeeze = _unsqueeze = _reshape

    def _given(self, node: Node) -> Value | None:
        return self._values.get(node.args[0]) if isinstance(node.args[0], Node) else None

    def _axis(self, node: Node) -> int | None:
        given = self._given(node)
        return None if given is None else given.axis

    def _name(self, entry: object) -> str | None:
        """The parameter or buffer that a node is, if it is one."""
        return self._stored.get(entry.name) if isinstance(entry, Node) else None

    def _follows(self, entry: object, value: Value) -> bool:
        """Note a vector, such as a bias, whose entries go with the channels; whether that is possible."""
        if entry is None:
            return True
        name = self._name(entry)
        if name is not None:
            self._use(name, 0, value, 1)
        return name is not None

    def _use(self, name: str, axis: int, value: Value, width: int) -> None:
        self._uses.append(Use(name, axis, value.wires, width))

    def _fresh(self, count: int, axis: int) -> Value:
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return Value(np.arange(start, start + count), axis)

    def _pin(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node in self._values:
                self._pinned.update(self._values[node].wires.tolist())

    def _root(self, wire: int) -> int:
        while self._parents[wire] != wire:
            self._parents[wire] = self._parents[self._parents[wire]]
            wire = self._parents[wire]
        return wire


_RULES = {
    "conv2d", "linear", "batch_norm", "cat", "pad", "slice", "mean", "permute", "transpose", "reshape", "flatten",
    "view", "squeeze", "unsqueeze",
}  # fmt: skip


def _shape(entry: object) -> tuple[int, ...]:
    assert isinstance(entry, Node)
    return tuple(entry.meta["val"].shape)


def _argument(node: Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
