"""Scores from calibration images, for pruning at once: the criteria that otherwise average over training steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._columns import column_squares
from flexgroup.pruning._criteria import Averaged, Criterion, find_criterion, score
from flexgroup.pruning._distributed import mean_over_ranks
from flexgroup.pruning._evaluate import check_images, device_of, full_batches, in_mode
from flexgroup.pruning._mask import dense_original
from flexgroup.pruning._targets import Layer, as_matrix, find_layers, listed

Loss = Callable[[Tensor, Tensor], Tensor]


def sensitivities(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    criterion: str | Criterion = "taylor",
    *,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    batch_size: int = 128,
    loss: Loss = F.cross_entropy,
) -> dict[str, Tensor]:
    """Return the (M, K) scores of every targeted layer by name, from calibration images: a ``criterion`` of `Pruner`.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    >>> scores = sensitivities(model, torch.ones(8, 3, 6, 6), criterion="wanda")
    >>> {name: tuple(matrix.shape) for name, matrix in scores.items()}
    {'1': (4, 36)}

    The network runs in eval mode and is not changed. Averages are plain ones over batches (`Wanda`: over images), and
    over all ranks; a last batch that is not full is left out. Scores of `Movement` may be negative. A criterion that is
    a function gets the gradient of the mean loss.

    Args:
        images: (N, C, H, W), normalised; some hundreds are enough for ``"wanda"``, some thousands for gradients.
        labels: (N,) integers; ``"wanda"`` needs none.
        batch_size: over how many images a gradient is averaged before it is squared or made absolute.
        loss: ``loss(outputs, labels)``, a scalar.

    Raises:
        FlexgroupError: without labels where gradients are needed, for weights that take no gradient, and as `Pruner`.
    """
    found = find_criterion(criterion)
    check_images(images, labels)
    layers = find_layers(model, targets, ignore)
    of_inputs = isinstance(found, Averaged) and found.of_inputs
    if not of_inputs and labels is None:
        raise FlexgroupError(f"criterion {criterion!r} needs gradients, and so labels; give them, or use 'wanda'")
    with in_mode(model, training=False):
        if of_inputs:
            averages = _of_inputs(model, layers, images, batch_size)
        else:
            assert labels is not None
            averages = _of_gradients(model, layers, images, labels, batch_size, loss, found)
    scores = {}
    for layer in layers:
        average = as_matrix(mean_over_ranks(averages[layer.name]))
        scores[layer.name] = score(found, as_matrix(dense_original(layer.module)), average, layer.name, average)
    return scores


def _of_inputs(model: nn.Module, layers: Sequence[Layer], images: Tensor, batch_size: int) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys((layer.name for layer in layers), 0)

    def add(layer: Layer, inputs: Tensor) -> None:
        squares = column_squares(layer, inputs) * len(inputs)
        sums[layer.name] = sums[layer.name] + squares if layer.name in sums else squares
        counts[layer.name] += len(inputs)

    with torch.no_grad(), ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_pre_hook(lambda _, given, at=layer: add(at, given[0])).remove)
        for batch in torch.split(images, batch_size):
            model(batch.to(device_of(model)))
    _check_all_ran(layers, set(sums))
    return {name: value / counts[name] for name, value in sums.items()}


def _of_gradients(
    model: nn.Module,
    layers: Sequence[Layer],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    loss: Loss,
    criterion: Criterion,
) -> dict[str, Tensor]:
    """By layer name, the plain average over batches of what the criterion averages, or of the gradient."""
    weights = [dense_original(layer.module) for layer in layers]
    fixed = [layer.name for layer, weight in zip(layers, weights, strict=True) if not weight.requires_grad]
    if fixed:
        raise FlexgroupError(f"the weights of {listed(fixed)} take no gradients; set requires_grad, or use 'wanda'")
    device = device_of(model)
    detached = [weight.detach() for weight in weights]
    sums: list[Tensor] = []
    batches = list(zip(full_batches(images, batch_size), torch.split(labels, batch_size), strict=False))
    with torch.enable_grad():
        for batch, truth in batches:
            gradients = torch.autograd.grad(loss(model(batch.to(device)), truth.to(device)), weights, allow_unused=True)
            given = {layer.name for layer, gradient in zip(layers, gradients, strict=True) if gradient is not None}
            _check_all_ran(layers, given)
            with torch.no_grad():
                found = [gradient.detach() for gradient in gradients]
                values = criterion.values(detached, found) if isinstance(criterion, Averaged) else found
                sums = list(torch._foreach_add(sums, values)) if sums else values
    return {layer.name: value / len(batches) for layer, value in zip(layers, sums, strict=True)}


def _check_all_ran(layers: Sequence[Layer], ran: set[str]) -> None:
    idle = [layer.name for layer in layers if layer.name not in ran]
    if idle:
        raise FlexgroupError(
            f"{listed(idle)} had no part in the network's outputs, so nothing is known of their weights; "
            f"leave them out with ignore"
        )
