"""Gathering what a criterion averages over training steps: from gradients after a step, or from layers' inputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from flexgroup.pruning._columns import column_squares
from flexgroup.pruning._criteria import Averaged
from flexgroup.pruning._mask import dense_original
from flexgroup.pruning._regrowth import like
from flexgroup.pruning._targets import Layer

IMAGES = 16  # of a batch; all 256 of a ResNet-20's would add a tenth to a training step


class Averages:
    """By layer name, a criterion's average so far: shaped like the weight, or (convolution groups, K) for inputs.

    Gradients are taken by `add_gradients`. Inputs are taken by forward pre-hooks, while a layer is in training mode,
    until `close`.
    """

    def __init__(self, criterion: Averaged, layers: Sequence[Layer]) -> None:
        self.criterion = criterion
        self.by_layer: dict[str, Tensor] = {}
        self._layers = layers
        self._seen = 0
        self._handles = [self._watch(layer) for layer in layers] if criterion.of_inputs else []

    @torch.no_grad()
    def add_gradients(self, step: int) -> None:
        """Take the gradients of training step ``step``, counted from 1; layers without one keep what they have."""
        self._seen = step
        if self.criterion.of_inputs:
            return
        names, weights, gradients = [], [], []
        for layer in self._layers:
            weight = dense_original(layer.module)
            if weight.grad is not None:
                names.append(layer.name)
                weights.append(_at_least_single(weight.detach()))
                gradients.append(_at_least_single(weight.grad))
        if names:
            self.blend(names, self.criterion.values(weights, gradients), self._share(step))

    def blend(self, names: Sequence[str], values: Sequence[Tensor], share: float) -> None:
        """``average += share * (value - average)``; the first value of a layer is its average."""
        old = [(name, value) for name, value in zip(names, values, strict=True) if name in self.by_layer]
        self.by_layer |= {name: value for name, value in zip(names, values, strict=True) if name not in self.by_layer}
        if old:
            averages = [self.by_layer[name] for name, _ in old]
            torch._foreach_lerp_(averages, [value for _, value in old], share)

    def load(self, averages: Mapping[str, Tensor], step: int) -> None:
        """Go on from the averages of a saved state, each on its layer's device and sharded like its weight."""
        self._seen, self.by_layer = step, {}
        for layer in self._layers:
            if layer.name in averages:
                weight = dense_original(layer.module)
                value = averages[layer.name].to(weight.device, copy=True)
                self.by_layer[layer.name] = value if self.criterion.of_inputs else like(value, weight)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle()
        self._handles = []

    def _share(self, step: int) -> float:
        return max(1.0 - self.criterion.decay, 1.0 / step)

    def _watch(self, layer: Layer) -> Callable[[], None]:
        # A plain function: a deepcopy of the model takes its hooks along, and would take what a method is bound to.
        own, averages = weakref.ref(layer.module), weakref.ref(self)

        @torch.no_grad()
        def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            mine = averages()
            if mine is not None and module is own() and module.training:
                squares = column_squares(layer, inputs[0][:IMAGES])
                mine.blend([layer.name], [squares], mine._share(mine._seen + 1))

        return layer.module.register_forward_pre_hook(take).remove


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
