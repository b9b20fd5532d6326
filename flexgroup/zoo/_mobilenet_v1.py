"""MobileNet, the first, of Howard et al., 2017: depthwise 3x3 and pointwise 1x1 convolutions in turn.

"MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", arXiv 1704.04861, table 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.zoo._initial import draw_weights
from flexgroup.zoo._same_conv import SameConv2d

# (output channels at width 1, stride of the depthwise convolution)
LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


class MobileNetV1(nn.Module):
    """(N, 3, H, W) images, 224x224 as published -> (N, num_classes) logits.

    ``width`` multiplies every layer's channels, rounded down, as Keras does. Padding, batch norm and the names of the
    weights (``conv1``, ``conv_dw_1`` .. ``conv_pw_13``, each with ``_bn``, and ``fc``) are those of the Keras
    networks too. Raises `FlexgroupError` where ``width`` leaves a layer without channels.
    """

    def __init__(self, *, width: float = 1.0, num_classes: int = 1000) -> None:
        super().__init__()
        if not 1 <= 32 * width < float("inf"):
            raise FlexgroupError(
                f"a MobileNetV1 of width {width:g} has a layer without channels; give a number of at least {1 / 32:g}"
            )
        channels = int(32 * width)
        self._add("conv1", SameConv2d(3, channels, 3, stride=2))
        for index, (full, stride) in enumerate(LAYERS, 1):
            out_channels = int(full * width)
            self._add(f"conv_dw_{index}", SameConv2d(channels, channels, 3, stride=stride, groups=channels))
            self._add(f"conv_pw_{index}", nn.Conv2d(channels, out_channels, 1, bias=False))
            channels = out_channels
        self.fc = nn.Linear(channels, num_classes)
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self._layer("conv1", x)
        for index in range(1, len(LAYERS) + 1):
            x = self._layer(f"conv_pw_{index}", self._layer(f"conv_dw_{index}", x))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits

    def _add(self, name: str, convolution: nn.Conv2d) -> None:
        self.add_module(name, convolution)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(convolution.out_channels, eps=1e-3, momentum=0.01))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        """The convolution ``name``, its batch norm, and a relu cut off at 6."""
        convolution, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        return F.relu6(norm(convolution(x)))


def mobilenet_v1(*, width: float = 1.0, num_classes: int = 1000) -> MobileNetV1:
    """28 layers, 4.2 million weights at width 1."""
    return MobileNetV1(width=width, num_classes=num_classes)


def mobilenet_v1_075() -> MobileNetV1:
    """Width 0.75, 2.6 million weights."""
    return MobileNetV1(width=0.75)


def mobilenet_v1_050() -> MobileNetV1:
    """Width 0.5, 1.3 million weights."""
    return MobileNetV1(width=0.5)


def mobilenet_v1_025() -> MobileNetV1:
    """Width 0.25, 0.5 million weights."""
    return MobileNetV1(width=0.25)
