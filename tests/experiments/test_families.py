"""The list of which networks compile: what is known stays, what fails is a result."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError


class Flipped(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(x).real


@pytest.fixture
def families(monkeypatch):
    """The script, with a collection of three networks in the place of timm."""
    import families

    def create_model(name: str, pretrained: bool) -> nn.Module:
        networks = {"good": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), "odd": Flipped()}
        model = networks[name]
        model.default_cfg = {"input_size": (3, 8, 8)}
        return model

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    return families


def test_every_network_has_a_result_and_is_compiled_once(families, tmp_path, capsys):
    out = tmp_path / "results" / "families.json"
    names = ["timm:good", "timm:odd", "timm:absent"]
    families.main(names, table=False, again=False, out=out)
    results = json.loads(out.read_text())["networks"]
    assert results["timm:good"]["compiles"]
    assert results["timm:good"]["difference"] < 1e-4
    assert "aten.fft_fft2" in results["timm:odd"]["why"][0]
    assert "KeyError: 'absent'" in results["timm:absent"]["why"][0]

    before = out.stat().st_mtime_ns
    families.main(names, table=False, again=False, out=out)
    assert out.stat().st_mtime_ns == before
    capsys.readouterr()
    families.main(table=True, again=False, out=out)
    assert "1 of 3 compile." in capsys.readouterr().out


def test_a_name_without_a_collection_is_refused(families):
    with pytest.raises(FlexgroupError, match=r"'resnet18' is not known; write timm:NAME, torchvision:NAME or"):
        families.build("resnet18")
