"""VGG-16 of Simonyan and Zisserman, 2014: 3x3 convolutions and nothing else.

"Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv 1409.1556, table 1, column D.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup.zoo._initial import draw_weights

# (channels, convolutions) of each stage; every stage ends with a 2x2 max-pool
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
LAST_SIDE = 7


class VGG(nn.Module):
    """(N, 3, H, W) images, 224x224 as published -> (N, num_classes) logits.

    Images of another size of at least 32x32 are averaged to 7x7 before the classifier. The names of the weights are
    torchvision's.
    """

    def __init__(self, *, batch_norm: bool, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for channels, convolutions in STAGES:
            for _ in range(convolutions):
                layers.append(nn.Conv2d(in_channels, channels, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU())
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(in_channels * LAST_SIDE * LAST_SIDE, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if x.shape[-2:] != (LAST_SIDE, LAST_SIDE):  # at 224x224 the average would be of single pixels
            x = F.adaptive_avg_pool2d(x, LAST_SIDE)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def vgg16(*, num_classes: int = 1000) -> VGG:
    """16 layers, 138 million weights."""
    return VGG(batch_norm=False, num_classes=num_classes)


def vgg16_bn(*, num_classes: int = 1000) -> VGG:
    """The same with a batch norm after every convolution."""
    return VGG(batch_norm=True, num_classes=num_classes)
