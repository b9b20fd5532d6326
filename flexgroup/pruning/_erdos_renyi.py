"""Shares of the layers by their sizes: small layers keep more, so that none collapses under a common budget."""

from __future__ import annotations

from collections.abc import Sequence

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._targets import Layer


def erdos_renyi(layers: Sequence[Layer], sparsity: float) -> dict[str, float]:
    """The share of its weights that each layer keeps, by name, if ``sparsity`` of all weights are pruned.

    The Erdős-Rényi-kernel rule of Evci et al., "Rigging the lottery" (2020, arXiv 1911.11134, section 3): a layer's
    density is proportional to ``(in + out + kernel height + kernel width) / (in * out * kernel height * kernel
    width)``, ``in`` being the input channels of one convolution group and ``out`` its output channels. Layers that
    would keep more than all keep all, and the others share the rest. Raises `FlexgroupError` for a sparsity outside
    [0, 1].

    """
    if not 0.0 <= sparsity <= 1.0:
        raise FlexgroupError(f"sparsity {sparsity!r} is not in [0, 1]")
    sizes = {layer.name: layer.shape[0] * layer.shape[1] for layer in layers}
    raw = {layer.name: _raw_density(layer) for layer in layers}
    left = (1.0 - sparsity) * sum(sizes.values())
    whole: set[str] = set()
    while True:
        others = [name for name in sizes if name not in whole]
        weight = sum(raw[name] * sizes[name] for name in others)
        scale = (left - sum(sizes[name] for name in whole)) / weight if others else 0.0
        full = {name for name in others if raw[name] * scale > 1.0}
        if not full:
            return {name: 1.0 if name in whole else raw[name] * scale for name in sizes}
        whole |= full


def _raw_density(layer: Layer) -> float:
    rows, columns = layer.part_shape
    kernel = tuple(layer.module.weight.shape[2:])
    entries = 1
    for extent in kernel:
        entries *= extent
    return (columns // entries + rows + sum(kernel)) / (rows * columns)
