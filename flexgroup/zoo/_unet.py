"""A small network for segmentation in the manner of Ronneberger, Fischer and Brox, 2015 ("U-Net", arXiv 1505.04597).

Unlike theirs it pads its convolutions, so that the output is as large as the image, normalises, and resizes on the way
up instead of convolving transposed.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.zoo._initial import draw_weights

Resize: TypeAlias = Literal["bilinear", "nearest"]

LEVELS = 4


class DoubleConv(nn.Sequential):
    """Twice a 3x3 convolution, batch norm and relu."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """(N, 3, H, W) images, H and W multiples of 16 -> (N, num_classes, H, W) logits.

    ``width`` is the number of channels at full size; it doubles with each of the four halvings. ``resize`` is how the
    decoder doubles an image. Raises `FlexgroupError` for another ``resize`` and, when called, for another size.
    """

    def __init__(self, *, width: int = 16, num_classes: int = 1, resize: Resize = "bilinear") -> None:
        super().__init__()
        if resize not in ("bilinear", "nearest"):
            raise FlexgroupError(f"resize {resize!r} is unknown; use 'bilinear' or 'nearest'")
        if min(width, num_classes) < 1:
            raise FlexgroupError(
                f"a U-Net of width={width}, num_classes={num_classes} is empty; give at least 1 of each"
            )
        channels = [width * 2**level for level in range(LEVELS + 1)]
        self.encoder = nn.ModuleList([DoubleConv(3, width)])
        self.encoder.extend(DoubleConv(channels[level], channels[level + 1]) for level in range(LEVELS))
        self.decoder = nn.ModuleList(
            DoubleConv(channels[level] + channels[level + 1], channels[level]) for level in reversed(range(LEVELS))
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        self.resize = resize
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % 2**LEVELS or width % 2**LEVELS:
            raise FlexgroupError(
                f"a U-Net halves the image {LEVELS} times and does not take {height}x{width} pixels; "
                f"pad both to multiples of {2**LEVELS}"
            )
        x = self.encoder[0](x)
        skipped = []
        for block in list(self.encoder)[1:]:
            skipped.append(x)
            x = block(F.max_pool2d(x, 2))
        for block, skip in zip(self.decoder, reversed(skipped), strict=True):
            x = block(torch.cat([skip, self._double(x)], 1))
        logits: Tensor = self.head(x)
        return logits

    def _double(self, x: Tensor) -> Tensor:
        if self.resize == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def unet(*, width: int = 16, num_classes: int = 1, resize: Resize = "bilinear") -> UNet:
    """19 layers, 2.0 million weights at width 16."""
    return UNet(width=width, num_classes=num_classes, resize=resize)


def unet_nearest() -> UNet:
    """The same, with pixels repeated instead of interpolated on the way up."""
    return UNet(resize="nearest")
