"""A network is traced once, unless its operators write in place or have no rule; its graph is the same either way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.graph import from_torch
from flexgroup.graph.evaluate import evaluate
from flexgroup.zoo import build, input_shape


@pytest.fixture
def simplified(monkeypatch) -> list[str]:
    """Notes every program that is traced once more."""
    done: list[str] = []
    original = torch.export.ExportedProgram.run_decompositions

    def note(program, *arguments):
        done.append("simplified")
        return original(program, *arguments)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", note)
    return done


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z = y[:, :2]
        z.add_(1.0)  # seen in y
        return y.relu_()


@pytest.mark.parametrize("name", ["digits_net", "resnet20", "mobilenet_v2"])
def test_plain_networks_are_traced_once(simplified, name):
    from_torch(build(name), (torch.zeros(1, *input_shape(name)),))
    assert simplified == []


def test_writing_in_place_is_replaced(simplified):
    model, x = InPlace().eval(), torch.randn(2, 3, 5, 5)
    with pytest.raises(FlexgroupError, match=r"slice_scatter|add_"):
        from_torch(model, (x,))
    assert simplified


def test_an_activation_in_place_is_no_difference(simplified):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)).eval()
    x = torch.randn(2, 3, 5, 5)
    (given,) = evaluate(from_torch(model, (x,)), [x.numpy()])
    assert simplified == ["simplified"]
    np.testing.assert_allclose(given, model(x).detach().numpy(), atol=1e-5)


def test_errors_name_simple_operators(simplified):
    with pytest.raises(FlexgroupError, match=r"aten\.view\.default"):
        from_torch(nn.Flatten(0), (torch.zeros(2, 3, 4, 4),))
    assert simplified == ["simplified"]
