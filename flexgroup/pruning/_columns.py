"""What meets a weight matrix in a forward pass: a layer's inputs as columns, its outputs as rows, at some positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup.pruning._targets import Layer


def column_squares(layer: Layer, inputs: Tensor) -> Tensor:
    """The mean square of the inputs that meet each column of the weight matrix, (convolution groups, K) float32."""
    module = layer.module
    inputs = inputs.detach().float()
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).square().mean(0, keepdim=True)
    images = inputs if inputs.ndim == 4 else inputs[None]
    squares = _padded(module, images).square().mean(0, keepdim=True)
    columns = F.unfold(squares, module.kernel_size, module.dilation, stride=module.stride)
    return columns.mean((0, 2)).reshape(module.groups, -1)


def columns_at(layer: Layer, inputs: Tensor, positions: Tensor) -> Tensor:
    """The inputs that each row of the weight matrix multiplies: (convolution groups, N * P, K).

    ``inputs`` are the layer's, N of them; ``positions`` (N, P) count along its output's pixels or tokens.
    """
    module = layer.module
    image = torch.arange(len(inputs), device=inputs.device)[:, None]
    if isinstance(module, nn.Linear):
        tokens = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        return tokens[image, positions].reshape(1, -1, inputs.shape[-1])
    images = _padded(module, inputs)
    height, width = module.kernel_size
    across = (images.shape[3] - module.dilation[1] * (width - 1) - 1) // module.stride[1] + 1
    top, left = positions // across * module.stride[0], positions % across * module.stride[1]
    down = torch.arange(height, device=inputs.device)[:, None] * module.dilation[0]
    right = torch.arange(width, device=inputs.device) * module.dilation[1]
    rows, columns = top[..., None, None] + down, left[..., None, None] + right
    taps = images[image[..., None, None], :, rows, columns]  # (N, P, height, width, channels)
    entries = taps.permute(0, 1, 4, 2, 3).reshape(positions.numel(), module.groups, -1)
    return entries.transpose(0, 1)


def outputs_at(layer: Layer, outputs: Tensor, positions: Tensor) -> Tensor:
    """The layer's outputs there: (convolution groups, N * P, M / groups)."""
    rows = by_position(layer, outputs)
    image = torch.arange(len(outputs), device=outputs.device)[:, None]
    return rows[image, positions].reshape(positions.numel(), layer.conv_groups, -1).transpose(0, 1)


def by_position(layer: Layer, outputs: Tensor) -> Tensor:
    """(N, positions, M): the outputs with one row for every pixel or token."""
    if isinstance(layer.module, nn.Linear):
        return outputs.reshape(len(outputs), -1, outputs.shape[-1])
    return outputs.flatten(2).transpose(1, 2)


def _padded(module: nn.Conv2d, images: Tensor) -> Tensor:
    """The (N, C, H, W) input of a convolution with the border that it adds itself."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    border = module._reversed_padding_repeated_twice
    return F.pad(images, border, mode=mode) if any(border) else images
