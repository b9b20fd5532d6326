"""What the GPU room's tests share: a device (PoCL runs on the processor), and a comparison with torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import flexgroup
from flexgroup import FlexgroupError, gpu

Compare = Callable[..., gpu.GpuModel]


@pytest.fixture(scope="session")
def device() -> gpu.Device:
    """One device for all tests, so that every kernel is built once."""
    try:
        found = gpu.find_device()
        found.kernel("mean", ("ELEMENT=float", "CONDITION=int", "LANES=4"))
    except FlexgroupError as error:
        # PoCL's compiler, for one, refuses processors that are newer than itself.
        pytest.skip(str(error))
    return found


@pytest.fixture(autouse=True)
def _device_that_compiles(device: gpu.Device) -> None:
    """Every test here runs something on the device, or asks what it says of itself."""


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def same_as_torch(device: gpu.Device) -> Compare:
    """Compile a model and compare it with torch on batches of 1 and 3 new inputs; returns the compiled model."""

    def compare(model: nn.Module, *example: torch.Tensor) -> gpu.GpuModel:
        model.eval()
        compiled = gpu.compile(model, example, device=device)
        for images in (1, 3):
            inputs = [torch.randn(images, *x.shape[1:]) for x in example]
            with torch.no_grad():
                expected = model(*inputs)
            given = compiled(*inputs)
            assert given.shape == expected.shape
            assert float((given - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
        return compiled

    return compare


@pytest.fixture(scope="session")
def prune() -> Callable[[nn.Module, flexgroup.Groups, float], nn.Module]:
    """Zero all but the share ``keep`` of a model's convolution weights, in groups, by magnitude."""

    def zero(model: nn.Module, groups: flexgroup.Groups, keep: float) -> nn.Module:
        convolutions = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
        scores = {
            name: np.abs(layer.weight.detach().numpy()).reshape(len(layer.weight), -1)
            for name, layer in convolutions.items()
        }
        masks = flexgroup.select(scores, groups, keep=keep, budget="layer").masks
        with torch.no_grad():
            for name, layer in convolutions.items():
                layer.weight.mul_(torch.from_numpy(masks[name]).reshape(layer.weight.shape))
        return model

    return zero
