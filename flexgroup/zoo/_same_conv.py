"""Convolutions with TensorFlow's "SAME" padding, for networks whose weights were trained there."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ceil(size / stride) pixels each way.

    Where the padding is odd the extra pixel lies right and below: a 3x3 kernel of stride 2 pads an even image by
    (0, 1), while PyTorch's ``padding=1`` pads it by (1, 1) and reads other pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return super().forward(F.pad(x, (*self._padding(width), *self._padding(height))))

    def _padding(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
