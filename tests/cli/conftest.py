"""A runner for command lines, and a small trained network."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from flexgroup.cli import main
from flexgroup.pruning import finetune
from flexgroup.zoo import digits_net, load_data, save_weights


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def reason(self) -> str:
        """The one line with which the input was refused."""
        assert self.status == 2
        assert self.stdout == ""
        assert self.stderr.startswith("flexgroup: ")
        assert self.stderr.count("\n") == 1
        return self.stderr.removeprefix("flexgroup: ").strip()


@pytest.fixture
def flexgroup(capsys):
    """Run the command line with these arguments."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory) -> Path:
    """A digits network after a few seconds of training."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, data = digits_net(), load_data("digits")
    finetune(model, *data.train(), *data.test(), epochs=3, batch_size=64)
    torch.set_num_threads(before)
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_weights(model, path)
    return path


@pytest.fixture
def my_nets(tmp_path, monkeypatch):
    """A module of the user's in the current folder; one function says things on stdout, as users' functions do."""
    (tmp_path / "my_nets_for_cli.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    body = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]\n"
        "    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 36, 10))\n"
        "def talkative():\n"
        "    print('hello from the module')\n"
        "    return make()\n"
        "def two_classes():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
        "def sick():\n"
        "    model = make()\n"
        "    model[2].weight.data[0, 0] = float('nan')\n"
        "    return model\n"
        "def defective():\n"
        "    raise ZeroDivisionError('a defect')\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "my_nets_for_cli"
    sys.modules.pop("my_nets_for_cli", None)


@pytest.fixture
def common(digits_weights, tmp_path):
    """Arguments of a valid run into ``tmp_path / "run"``."""
    return [
        *("prune", "--model", "digits_net", "--weights", digits_weights, "--data", "digits", "--threads", 1),
        *("--out", tmp_path / "run"),
    ]


@pytest.fixture
def training(common):
    """Arguments of a run with two epochs of training, in one precision."""
    return [*common, "--sparsity", 0.8, "--epochs", 2, "--batch-size", 128, "--precision", "fp32"]
