"""Fitting the kept weights of a pruned network to the outputs of the dense one, layer by layer, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._columns import by_position, columns_at, outputs_at
from flexgroup.pruning._evaluate import check_images, device_of, in_mode
from flexgroup.pruning._least_squares import Equations, solve
from flexgroup.pruning._mask import dense_original, mask_of
from flexgroup.pruning._targets import Layer, as_matrix, find_layers, listed

CHUNK = 1 << 24  # entries of a layer's columns that are in memory at a time


@dataclass(frozen=True)
class Refitted:
    """How far a layer's outputs were from the dense network's, and how far they are: squared error over squares."""

    layer: str
    before: float
    after: float


def refit(
    model: nn.Module,
    images: Tensor,
    dense: nn.Module,
    *,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    samples: int = 8192,
    ridge: float = 1e-3,
    bias: bool = True,
    seed: int = 0,
) -> tuple[Refitted, ...]:
    """Fit the kept weights of ``model``, in place, so that its layers' outputs are nearest those of ``dense``.

    Layer by layer, in the order in which they run: the inputs are those that the network, pruned and refitted so far,
    gives the layer; the targets are what the layer puts out in ``dense``. All rows that keep the same columns share one
    factorisation of the normal equations, so a strip of aligned groups costs as much as one row. One-shot, without
    labels: the least squares of layer-wise reconstruction (He, Zhang and Sun 2017, arXiv 1707.06168; Frantar and
    Alistarh 2022, arXiv 2208.11580) for a given pattern. Measure batch-norm statistics again afterwards.

    Args:
        model: pruned; finalized with zeros, or with the masks of a `Pruner`. The pattern stays as it is.
        images: (N, C, H, W), a few hundred training images, normalised as in training. They go through the network
            together, each network once.
        dense: the network before pruning, such as a ``copy.deepcopy`` of it; it is not changed.
        targets, ignore: glob patterns on layer names, as in `Pruner`. Without, all layers in which weights are pruned.
        samples: output positions that are looked at in a layer, spread over the images; should be some times the
            kept weights of a row.
        ridge: what pulls the weights to where they were, over the mean square of the layer's inputs; above 0.
        bias: fit a layer's bias too, where it has one.
        seed: of the choice of positions.

    Returns:
        The layers' errors on these images, in the order in which they ran. Layers that run more than once in a pass,
        or not at all, are left as they are.

    Raises:
        FlexgroupError: if ``dense`` is another network, nothing is pruned, or outputs are not finite. What ran before
            a layer whose outputs are not finite is refitted.
    """
    check_images(images)
    if not 0 < ridge < float("inf"):
        raise FlexgroupError(f"ridge={ridge!r} is not a number above 0, such as 0.001")
    if not isinstance(samples, int) or samples < 1:
        raise FlexgroupError(f"samples={samples!r} is not a positive integer")
    layers = _pruned_layers(model, targets, ignore)
    twins = _twins(layers, dense)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    calls = dict.fromkeys((layer.name for layer in layers), 0)
    generator = torch.Generator().manual_seed(seed)
    errors: list[Refitted] = []

    def see(layer: Layer, outputs: Tensor) -> None:
        calls[layer.name] += 1
        shape = by_position(layer, outputs).shape
        positions = _positions(shape[0], shape[1], samples, generator).to(outputs.device)
        found[layer.name] = positions, outputs_at(layer, outputs, positions)

    def fit(layer: Layer, inputs: Tensor) -> None:
        if calls[layer.name] == 1:
            positions, wanted = found.pop(layer.name)
            errors.append(_fit(layer, inputs, positions.to(inputs.device), wanted, ridge, bias))

    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(in_mode(dense, training=False))
        stack.enter_context(in_mode(model, training=False))
        for layer, twin in zip(layers, twins, strict=True):
            stack.callback(twin.register_forward_hook(lambda _m, _i, out, at=layer: see(at, out)).remove)
            stack.callback(layer.module.register_forward_pre_hook(lambda _m, given, at=layer: fit(at, given[0])).remove)
        dense(images.to(device_of(dense)))
        model(images.to(device_of(model)))
    return tuple(errors)


def _pruned_layers(model: nn.Module, targets: Sequence[str] | None, ignore: Sequence[str] | None) -> tuple[Layer, ...]:
    layers = [layer for layer in find_layers(model, targets or ["*"], ignore) if not bool(kept_of(layer).all())]
    if not layers:
        raise FlexgroupError("no weight of these layers is pruned, so there is nothing to refit; prune the model first")
    return tuple(layers)


def kept_of(layer: Layer) -> Tensor:
    """(M, K) bool: the mask where there is one, else where the weight is not zero."""
    mask = mask_of(layer.module)
    return as_matrix(layer.module.weight != 0 if mask is None else mask.kept)


def _twins(layers: Sequence[Layer], dense: nn.Module) -> list[nn.Module]:
    modules = dict(dense.named_modules())
    twins = [modules.get(layer.name) for layer in layers]
    odd = [
        layer.name
        for layer, twin in zip(layers, twins, strict=True)
        if twin is layer.module
        or type(twin).__name__.removeprefix("Parametrized") != _kind(layer)
        or not _alike(layer, twin)
    ]
    if odd:
        raise FlexgroupError(
            f"the dense network does not have {listed(odd)} as this one does, or it is this one; "
            f"give a copy of the network from before it was pruned"
        )
    return [twin for twin in twins if twin is not None]


def _kind(layer: Layer) -> str:
    return "Conv2d" if isinstance(layer.module, nn.Conv2d) else "Linear"


def _alike(layer: Layer, twin: object) -> bool:
    weight = getattr(twin, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == layer.module.weight.shape


def _positions(images: int, positions: int, samples: int, generator: torch.Generator) -> Tensor:
    """(images, P): different positions in every image, all of them where they are few."""
    each = min(positions, -(-samples // images))
    if each == positions:
        return torch.arange(positions).expand(images, -1)
    return torch.rand(images, positions, generator=generator).topk(each, dim=1).indices


def _fit(layer: Layer, inputs: Tensor, positions: Tensor, targets: Tensor, ridge: float, bias: bool) -> Refitted:
    own_bias = layer.module.bias
    fitted_bias = own_bias if bias else None
    fits_bias = fitted_bias is not None
    rows, columns = layer.part_shape
    equations = [Equations.empty(columns + fits_bias, rows, inputs.device) for _ in range(layer.conv_groups)]
    each = positions.shape[1]
    step = max(1, CHUNK // max(1, each * columns * layer.conv_groups))
    for first in range(0, len(inputs), step):
        part = columns_at(layer, inputs[first : first + step], positions[first : first + step])
        wanted = targets[:, first * each : (first + step) * each].to(part)
        if own_bias is not None and not bias:
            wanted = wanted - own_bias.reshape(layer.conv_groups, 1, rows)
        for equation, x, y in zip(equations, part, wanted, strict=True):
            equation.add(torch.cat([x, x.new_ones(len(x), 1)], 1) if fits_bias else x, y)
    original, kept = dense_original(layer.module), kept_of(layer)
    weight = as_matrix(original).double() * kept
    if fitted_bias is not None:
        weight = torch.cat([weight, fitted_bias.double()[:, None]], 1)
        kept = torch.cat([kept, kept.new_ones(len(kept), 1)], 1)
    fitted, before, after, scale = [], 0.0, 0.0, 0.0
    for equation, old, stays in zip(equations, torch.split(weight, rows), torch.split(kept, rows), strict=True):
        equation.check(layer.name)
        new = solve(equation, old, stays, ridge)
        fitted.append(new)
        before, after = before + equation.error(old), after + equation.error(new)
        scale += float(equation.squares)
    new = torch.cat(fitted)
    fresh = torch.where(kept, new, weight)[:, :columns].reshape(original.shape).to(original.dtype)
    original.copy_(torch.where(kept[:, :columns].reshape(original.shape), fresh, original))
    if fitted_bias is not None:
        fitted_bias.copy_(new[:, -1])
    return Refitted(layer.name, before / (scale or 1.0), after / (scale or 1.0))
