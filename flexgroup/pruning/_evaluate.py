"""Running a network over images without training it: accuracy, and batch-norm statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._distributed import reshard


def accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 512,
    normalise: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Return the top-1 accuracy in percent; the model runs in eval mode, and is left in the mode it was in.

    ``images`` (N, C, H, W), normalised, or uint8 pixels that ``normalise`` makes such, batch by batch; ``labels`` (N,)
    integers. Batches are moved to the model's device.
    """
    check_images(images, labels, normalise is not None)
    return 100.0 * count_right(model, images, labels, batch_size, normalise) / len(images)


def count_right(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 512,
    normalise: Callable[[Tensor], Tensor] | None = None,
) -> int:
    """How many images the model classifies as ``labels`` say; arguments as of `accuracy`, and checked."""
    device = device_of(model)
    right = 0
    with in_mode(model, training=False), torch.inference_mode():
        for batch, truth in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            batch = batch.to(device)
            logits = model(batch if normalise is None else normalise(batch))
            right += int((logits.argmax(1) == truth.to(device)).sum())
    reshard(model)
    return right


def reestimate_batch_norm(model: nn.Module, images: Tensor, batch_size: int = 128) -> None:
    """Measure the statistics of every batch norm again, because pruning shifts what reaches it.

    The new running mean and variance are the plain averages over all batches of ``images`` (N, C, H, W),
    which should be training images, normalised as in training; a last batch that is not full is left out.
    Everything else (dropout, weights, momentum, modes) is as it was.
    """
    check_images(images)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    device = device_of(model)
    with in_mode(model, training=False), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.training = True
            if norms:
                for batch in full_batches(images, batch_size):
                    model(batch.to(device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def full_batches(rows: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cut ``rows`` into batches, without a last one that is not full (unless it is the only one)."""
    batches = torch.split(rows, batch_size)
    return batches if len(batches) == 1 or len(batches[-1]) == batch_size else batches[:-1]


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the whole model into training or eval mode, and every module back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def check_images(images: Tensor, labels: Tensor | None = None, pixels: bool = False) -> None:
    """Raise `FlexgroupError` unless these are (N, C, H, W) images with N integer labels.

    Images must be floating-point, or uint8 where they are ``pixels``, which are normalised later.
    """
    right = images.dtype == torch.uint8 if pixels else images.is_floating_point()
    if images.ndim != 4 or not len(images) or not right:
        wanted = "uint8 (N, C, H, W) for normalise=" if pixels else "normalised floating-point (N, C, H, W)"
        raise FlexgroupError(f"images are {images.dtype} of shape {tuple(images.shape)}; give {wanted}")
    if labels is not None and (labels.shape != images.shape[:1] or labels.is_floating_point()):
        raise FlexgroupError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"give one integer for each of the {len(images)} images"
        )
