"""Which layers are pruned, and how their weights are seen as matrices."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from flexgroup._errors import FlexgroupError
from flexgroup.groups import Groups

NEAREST = 3
PYTORCH_ORDER = "ic-ky-kx"  # the input channel changes slowest
ORDERS = (PYTORCH_ORDER, "ky-kx-ic")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer whose weight is pruned.

    Its weight matrix has ``shape`` M x K: rows are output channels, columns are the reduction (input channel,
    ky, kx) in PyTorch's order. The ``conv_groups`` of a grouped convolution reduce over different inputs, so
    each is a matrix of its own, M / conv_groups rows high, and no group of weights straddles two of them.
    """

    name: str
    module: nn.Conv2d | nn.Linear = field(repr=False)
    shape: tuple[int, int]

    @property
    def conv_groups(self) -> int:
        return self.module.groups if isinstance(self.module, nn.Conv2d) else 1

    @property
    def part_shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix of one convolution group."""
        return self.shape[0] // self.conv_groups, self.shape[1]

    @property
    def part_names(self) -> tuple[str, ...]:
        """A name for each convolution group's matrix; the layer's own name where there is only one."""
        if self.conv_groups == 1:
            return (self.name,)
        return tuple(f"{self.name}[{i}]" for i in range(self.conv_groups))

    def split(self, matrix: Tensor, order: str) -> dict[str, Tensor]:
        """Cut an (M, K) matrix into one matrix a convolution group, columns in ``order``."""
        columns = matrix[:, self._columns(order)] if order != PYTORCH_ORDER else matrix
        return dict(zip(self.part_names, columns.reshape(self.conv_groups, *self.part_shape), strict=True))

    def join(self, parts: Mapping[str, Tensor], order: str) -> Tensor:
        """The (M, K) matrix that `split` cut into ``parts``, columns in PyTorch's order again."""
        columns = torch.cat([parts[name] for name in self.part_names])
        if order == PYTORCH_ORDER:
            return columns
        matrix = torch.empty_like(columns)
        matrix[:, self._columns(order)] = columns
        return matrix

    def _columns(self, order: str) -> Tensor:
        """The column of PyTorch's order that stands at each place of ``order``."""
        columns = torch.arange(self.shape[1])
        if order == PYTORCH_ORDER or isinstance(self.module, nn.Linear):
            return columns
        return columns.reshape(-1, *self.module.kernel_size).permute(1, 2, 0).reshape(-1)


def as_matrix(weight: Tensor) -> Tensor:
    """See a convolution weight (O, I/groups, kh, kw) or a linear weight (O, I) as its weight matrix (M, K).

    A view where the weight is contiguous.
    """
    return weight.detach().reshape(weight.shape[0], -1)


def find_layers(
    model: nn.Module, targets: Sequence[str] | None = None, ignore: Sequence[str] | None = None
) -> tuple[Layer, ...]:
    """Return the layers to prune, in the order in which the model registers them.

    Without ``targets``: every `nn.Conv2d` and `nn.Linear` but the first convolution, depthwise convolutions
    (each kernel sees one channel) and the classifier (the last linear layer). ``targets`` and ``ignore`` are
    glob patterns (``fnmatch``) on layer names; with ``targets`` exactly the layers that match are taken,
    these exceptions included. ``ignore`` is applied last. Raises `FlexgroupError` if a pattern matches no
    layer, or no layer is left.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    if not layers:
        raise FlexgroupError(f"{type(model).__name__} has no nn.Conv2d or nn.Linear layer: there is nothing to prune")
    chosen = set(layers) - _spared(layers) if targets is None else _match(targets, layers, "targets")
    chosen -= _match(ignore or (), layers, "ignore")
    if not chosen:
        raise FlexgroupError(
            f"no layer of {type(model).__name__} is left to prune: by default its first convolution, "
            f"its depthwise convolutions and its last linear layer stay dense; "
            f"name layers in targets (it has {listed(layers)})"
        )
    found = []
    for name, module in layers.items():
        if name in chosen:
            weight = module.weight
            if is_lazy(weight):
                raise FlexgroupError(f"layer {name!r} has no weights yet; run the model once, then prune it")
            found.append(Layer(name, module, (weight.shape[0], math.prod(weight.shape[1:]))))
    return tuple(found)


def check_layers(model: nn.Module, layers: Sequence[Layer], groups: Groups) -> None:
    """Raise `FlexgroupError` if groups do not fit a layer, or its weight is shared or parametrized."""
    owners: dict[int, list[str]] = {}
    for owner, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(owner)
    for layer in layers:
        if parametrize.is_parametrized(layer.module, "weight"):
            raise FlexgroupError(
                f"layer {layer.name!r}: its weight is already parametrized (by another Pruner, or by weight "
                f"or spectral norm); finalize() that Pruner, or remove the parametrization, first"
            )
        sharing = owners.get(id(layer.module.weight), [])
        if len(sharing) > 1:
            raise FlexgroupError(
                f"layer {layer.name!r}: its weight is shared ({', '.join(sharing)}), so a mask on one "
                f"would not hold in the other; leave the layer out with ignore"
            )
        groups.check_fits(layer.part_shape, layer.name)


def weight_matrices(
    model: nn.Module, targets: Sequence[str] | None = None, ignore: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Return the weight matrix (M, K) of every targeted layer by name, detached, on the weight's device.

    Pruned weights are zeros, whether or not the model is finalized. ``targets`` and ``ignore`` as in
    `Pruner`.
    """
    return {layer.name: as_matrix(layer.module.weight) for layer in find_layers(model, targets, ignore)}


def _spared(layers: Mapping[str, nn.Module]) -> set[str]:
    """The layers that stay dense unless asked for: they are small, and everything depends on them."""
    convolutions = [name for name, module in layers.items() if isinstance(module, nn.Conv2d)]
    linears = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
    depthwise = {name for name in convolutions if _is_depthwise(layers[name])}
    return {*convolutions[:1], *linears[-1:], *depthwise}


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels


def _match(patterns: Sequence[str], layers: Mapping[str, nn.Module], option: str) -> set[str]:
    if isinstance(patterns, str):
        raise FlexgroupError(f"{option}={patterns!r} is one string; give a list of patterns, [{patterns!r}]")
    matched: set[str] = set()
    for pattern in patterns:
        names = {name for name in layers if fnmatchcase(name, pattern)}
        if not names:
            nearest = difflib.get_close_matches(pattern, layers, n=NEAREST, cutoff=0.0)
            raise FlexgroupError(
                f"{option}: {pattern!r} matches no convolution or linear layer; the nearest names are "
                f"{', '.join(repr(name) for name in nearest)}"
            )
        matched |= names
    return matched


def listed(names: Iterable[str], most: int = 5) -> str:
    """``'a', 'b' and 3 more``: names for an error message."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most} more" if len(quoted) > most else "")
