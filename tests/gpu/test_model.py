"""What a compiled model tells about itself, and how every mistake is reported."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import flexgroup
from flexgroup import FlexgroupError, gpu


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


@pytest.fixture(scope="module")
def compiled(model: nn.Module, device: gpu.Device) -> gpu.GpuModel:
    return gpu.compile(model, (torch.randn(1, 3, 6, 6),), device=device)


def test_the_profile_has_a_timed_row_for_every_step(compiled: gpu.GpuModel) -> None:
    profile = compiled.profile(torch.randn(2, 3, 6, 6), rounds=3)
    assert [row.name for row in profile.rows] == [step.name for step in compiled.plan.steps]
    assert all(row.ms > 0 for row in profile.rows)
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    assert "layer" in str(profile).splitlines()[0]


def test_the_explanation_names_every_layer_with_weights(compiled: gpu.GpuModel) -> None:
    assert [layer.name for layer in compiled.explain().layers] == ["0", "3"]


def test_the_model_and_its_device_say_which_device_it_is(compiled: gpu.GpuModel) -> None:
    assert compiled.device.name in repr(compiled.device)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "the network takes 1 inputs, but 0 were given"),
        ((torch.zeros(1, 3, 6, 5),), r"has shape \(1, 3, 6, 5\), but the network was compiled for \(batch, 3, 6, 6\)"),
        ((torch.zeros(1, 3, 6, 6, dtype=torch.float64),), "is float64; convert it to float32"),
        ((np.zeros((1, 3, 6, 6), np.uint8),), "is uint8; convert it to float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: tuple, message: str, compiled: gpu.GpuModel) -> None:
    with pytest.raises(FlexgroupError, match=message):
        compiled(*inputs)


def test_inputs_are_refused_in_the_words_of_the_engine(model: nn.Module, compiled: gpu.GpuModel) -> None:
    bad, texts = torch.zeros(2, 4, 6, 6), []
    for network in (compiled, flexgroup.compile(model, (torch.randn(1, 3, 6, 6),))):
        with pytest.raises(FlexgroupError) as caught:
            network(bad)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_an_empty_batch_cannot_be_profiled(compiled: gpu.GpuModel) -> None:
    with pytest.raises(FlexgroupError, match="the batch is empty; give at least one image"):
        compiled.profile(torch.zeros(0, 3, 6, 6))


def test_a_closed_model_says_so(model: nn.Module, device: gpu.Device) -> None:
    x = torch.randn(1, 3, 6, 6)
    compiled = gpu.compile(model, (x,), device=device)
    compiled.close()
    compiled.close()
    with pytest.raises(FlexgroupError, match="this model was closed; compile it again"):
        compiled(x)


def test_a_difference_beyond_the_tolerance_is_an_error(model: nn.Module, device: gpu.Device) -> None:
    with pytest.raises(FlexgroupError, match=f"on {re.escape(device.name)} differs from torch by .* tolerance=-1"):
        gpu.compile(model, (torch.randn(1, 3, 6, 6),), device=device, tolerance=-1)


def test_a_device_is_found_by_a_part_of_its_name(device: gpu.Device) -> None:
    assert gpu.find_device(device.name.split()[0].upper()).name == device.name


def test_an_unknown_device_is_refused_with_the_known_ones(device: gpu.Device) -> None:
    with pytest.raises(
        FlexgroupError, match=r"no OpenCL device is called 'abacus'; there are: .*" + re.escape(device.name)
    ):
        gpu.compile(nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),), device="abacus")


def test_a_kernel_that_does_not_build_is_reported_with_its_device(device: gpu.Device) -> None:
    with pytest.raises(FlexgroupError) as caught:
        device.kernel("mean", ("ELEMENT=nonsense", "CONDITION=int", "LANES=4"))
    assert f"device {device.name}: its OpenCL compiler cannot build the kernel 'mean'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_pyopencl_the_error_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(FlexgroupError, match=r'pip install "flexgroup\[gpu\]".* pip install pocl-binary-distribution'):
        gpu.find_device()


@pytest.mark.parametrize("loader_fails", [False, True])
def test_without_a_device_the_error_tells_what_to_install(
    loader_fails: bool, device: gpu.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    cl = device.cl

    def platforms() -> list[object]:
        if loader_fails:
            raise cl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")
        return []

    monkeypatch.setattr(cl, "get_platforms", platforms)
    with pytest.raises(
        FlexgroupError, match=r"no OpenCL device was found; install your GPU's driver, or .* pip install"
    ):
        gpu.find_device()


def test_importing_the_package_does_not_import_pyopencl() -> None:
    code = "import sys, flexgroup.gpu; sys.exit('pyopencl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
