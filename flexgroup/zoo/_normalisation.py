"""How a network wants its pixels: which mean and deviation it was trained with."""

from __future__ import annotations

from typing import NamedTuple


class Normalisation(NamedTuple):
    """By channel: a pixel x of 0..255 becomes ``(x / 255 - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# the mean and the deviation of ImageNet's training images, as torchvision's networks expect them
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# x / 127.5 - 1: Keras's MobileNets, timm's vision transformers
SYMMETRIC = Normalisation((0.5,) * 3, (0.5,) * 3)

# (x - 127) / 128: EfficientNet-Lite
LITE = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)
