"""Masks in a saved state: eight to a byte, by layer name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._targets import Layer, listed


def pack(masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """``shapes``: by layer name, [M, K]; ``masks``: the bits row by row (uint8, the first in the highest bit)."""
    matrices = {name: mask.cpu().numpy() for name, mask in masks.items()}
    return {
        "shapes": {name: list(matrix.shape) for name, matrix in matrices.items()},
        "masks": {name: torch.from_numpy(np.packbits(matrix)) for name, matrix in matrices.items()},
    }


def unpack(state: Mapping[str, Any], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The masks that `pack` packed, (M, K) bool on the CPU; raise `FlexgroupError` if they are of other layers."""
    names = {layer.name for layer in layers}
    odd = set(state["shapes"]).symmetric_difference(names)
    if odd or set(state["masks"]) != set(state["shapes"]):
        odd |= set(state["masks"]).symmetric_difference(names)
        raise FlexgroupError(
            f"the state is of other layers than this pruner's: they differ in {listed(sorted(odd))}; "
            f"give the same model, targets and ignore"
        )
    masks = {}
    for layer in layers:
        shape, bits = tuple(state["shapes"][layer.name]), state["masks"][layer.name]
        if shape != layer.shape:
            raise FlexgroupError(
                f"layer {layer.name!r}: the state's mask is {'x'.join(map(str, shape))}, its weight "
                f"matrix is {layer.shape[0]}x{layer.shape[1]}; give the same model"
            )
        size = shape[0] * shape[1]
        if not isinstance(bits, Tensor) or bits.dtype != torch.uint8 or bits.numel() != -(-size // 8):
            raise FlexgroupError(f"layer {layer.name!r}: the state's mask is damaged; it must be {-(-size // 8)} bytes")
        mask = np.unpackbits(bits.cpu().numpy(), count=size).astype(bool).reshape(shape)
        masks[layer.name] = torch.from_numpy(mask)
    return masks
