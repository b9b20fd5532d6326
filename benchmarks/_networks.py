"""Networks of the zoo with random weights, and random groups among them zero."""

from __future__ import annotations

from typing import Any


def with_random_groups(name: str, sparsity: float, rows: int = 4) -> tuple[Any, Any]:
    """A network in which this share (0..1) of aligned groups of ``rows`` x 1 is zero, and an input.

    Depthwise layers have no zeros.
    """
    import torch

    from flexgroup import zoo

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = zoo.build(name).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight[0].numel() > 9:  # not the depthwise ones
                matrix = weight.flatten(1)
                kept = torch.rand(-(-len(matrix) // rows), matrix.shape[1], generator=generator) < 1 - sparsity
                weight.mul_(kept.repeat_interleave(rows, 0)[: len(matrix)].reshape(weight.shape))
    return model, torch.randn(1, *zoo.input_shape(name), generator=generator)
