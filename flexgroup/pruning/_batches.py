"""Which images a training step sees: one order for all processes, a pure function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._augment import Augment

Normalise = Callable[[Tensor], Tensor]
"""``normalise(pixels) -> images``: uint8 (N, C, H, W) to floating point, on the device where the pixels are."""


def training_steps(samples: int, batch_size: int, epochs: int) -> int:
    """Return how many steps `finetune` takes: an epoch leaves out a last batch that is not full."""
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        if not isinstance(value, int) or value < 1:
            raise FlexgroupError(f"{name}={value!r} is not a positive integer")
    return max(1, samples // batch_size) * epochs


def orders(samples: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """The order of the images in each epoch, from ``epoch`` (0, 1, ...) on: permutations of one seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch):
        torch.randperm(samples, generator=generator)
    while True:
        yield torch.randperm(samples, generator=generator)


def shares(samples: int, batch_size: int, accumulate: int, ranks: int) -> tuple[int, int]:
    """(images in a step, images that one process takes at once); raises `FlexgroupError` where they do not divide."""
    batch = min(samples, batch_size)
    if batch % (accumulate * ranks):
        raise FlexgroupError(
            f"a step has {batch} images, which {ranks} process{'es' if ranks > 1 else ''} "
            f"with accumulate={accumulate} cannot share out evenly; choose a batch_size that is a multiple of "
            f"{accumulate * ranks}"
        )
    return batch, batch // (accumulate * ranks)


class Batches:
    """The batches of one process: its share of every step's images, on ``device``, normalised and augmented.

    The share of a step does not depend on how many steps came before in this process, so that a resumed run sees what
    the undisturbed one would have seen.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        device: torch.device,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        normalise: Normalise | None = None,
        augment: Augment | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._images, self._labels, self._device = images, labels, device
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self._normalise, self._augment = normalise, augment
        self._memory_format = memory_format
        self._generator = torch.Generator()

    def at(self, indices: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """This process's images and labels of the step that trains on ``indices``."""
        own = indices.chunk(self._ranks)[self._rank]
        batch = self._images[own.to(self._images.device)].to(self._device)
        if self._normalise is not None:
            batch = self._normalise(batch)
        if self._augment is not None:
            self._generator.manual_seed(((self._seed * 1_000_003 + step) * 65_537 + self._rank) % 2**63)
            batch = self._augment(batch, self._generator)
        if self._memory_format is not torch.contiguous_format:
            batch = batch.contiguous(memory_format=self._memory_format)
        return batch, self._labels[own.to(self._labels.device)].to(self._device)
