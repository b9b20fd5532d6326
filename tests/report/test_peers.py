"""Other engines as callables."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.report import has_onnxruntime, onnxruntime_session, torch_session, torch_threads

needs_onnxruntime = pytest.mark.skipif(not has_onnxruntime(), reason="needs onnxruntime and onnx")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@needs_onnxruntime
def test_onnxruntime_computes_what_torch_computes(capfd: pytest.CaptureFixture[str]) -> None:
    model, x = network(), torch.randn(2, 1, 8, 8)
    session = onnxruntime_session(model, x, threads=1)
    np.testing.assert_allclose(session(x.numpy()), torch_session(model)(x).numpy(), atol=1e-5)
    assert capfd.readouterr().out == "", "stdout belongs to the command's own result"


@needs_onnxruntime
def test_exporting_leaves_the_model_in_its_mode() -> None:
    model = network().train()
    onnxruntime_session(model, torch.randn(1, 1, 8, 8))
    assert all(module.training for module in model.modules())


@needs_onnxruntime
def test_a_model_that_cannot_be_exported_is_refused_with_the_reason() -> None:
    class Uneven(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("this network does not run")

    with pytest.raises(FlexgroupError) as refusal:
        onnxruntime_session(Uneven(), torch.randn(1, 1, 8, 8))

    text = str(refusal.value)
    assert "cannot export Uneven to ONNX for input (1, 1, 8, 8)" in text
    assert "this network does not run" in text
    assert "\n" not in text


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FlexgroupError, match=r"pip install 'flexgroup\[bench\]'"):
        onnxruntime_session(network(), torch.randn(1, 1, 8, 8))


def test_torch_runs_in_eval_mode_without_gradients() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)).train()
    x = torch.randn(1, 4)
    run = torch_session(model)
    assert torch.equal(run(x), run(x))
    assert not run(x).requires_grad


def test_threads_are_given_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    inside = []

    def fail() -> None:
        with torch_threads(before + 1):
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before
