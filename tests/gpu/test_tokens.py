"""What there is no OpenCL code for is refused by name, all of it at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.engine import plan_graph
from flexgroup.gpu._launch import OPENCL, check_supported
from flexgroup.graph import from_torch, optimize


def test_layers_of_transformers_are_refused() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    plan = plan_graph(optimize(from_torch(model, (torch.randn(1, 5, 8),))), OPENCL)
    with pytest.raises(FlexgroupError) as caught:
        check_supported(plan.steps)
    assert str(caught.value) == (
        "there is no OpenCL code yet for 'self_attn.attention' (attention), 'norm1' (layer), 'norm2' (layer); compile "
        "the network for the CPU, or the part of it that is convolutions for the GPU"
    )
