"""The random weights with which the zoo's ImageNet networks start."""

from __future__ import annotations

from torch import nn


def draw_weights(model: nn.Module) -> None:
    """Draw every convolution's and linear layer's weight as He et al. 2015 (arXiv 1502.01852); biases become zero.

    The deviation follows from the inputs of one output (the fan-in), so that activations keep their size through
    depthwise layers too, and an untrained network's outputs are neither zero nor infinite.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
