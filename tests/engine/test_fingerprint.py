"""A model's digest changes with whatever an export depends on, and there is none where that cannot be told."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import os
import random
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from flexgroup.engine._fingerprint import fingerprint
from flexgroup.zoo import MODELS, build, input_shape

X = (torch.zeros(1, 3, 8, 8),)

SOURCE = """
import dataclasses, enum, functools
import torch
from torch import nn
import torch.nn.functional as F
import helpers_of_net
from helpers_of_net import scaled, Settings

BOUND = 6.0
TABLE = {"a": [1, 2], "b": (3, 4)}

class Mode(enum.Enum):
    SOFT = 1
    HARD = 2

def decorated(function):
    @functools.wraps(function)
    def wrapper(self, x):
        return function(self, x) + 0
    return wrapper

def made_by(factor):
    return lambda x: x * factor

class Net(nn.Module):
    slope = 0.5
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pool = 2
        self.mode = Mode.SOFT
        self.settings = Settings(3)
        self.after = made_by(2.0)
    @property
    def factor(self):
        return 1.0
    @staticmethod
    def shift(x, by=0.5):
        return x + by
    @decorated
    def forward(self, x):
        x = self.conv(x).clamp(0, BOUND) * self.factor * self.slope
        x = scaled(x) + TABLE["a"][0] + helpers_of_net.extra.more(x)
        x = F.max_pool2d(x, self.pool)
        return self.after(self.shift(x)) * [s for s in (1, 2)][0]
"""

HELPERS = """
import dataclasses, types

@dataclasses.dataclass
class Settings:
    size: int

def scaled(x):
    return _inner(x)

def _inner(x):
    return x * 2

def unrelated(x):
    return x

extra = types.ModuleType("extra_of_net")
exec("def more(x):\\n    return x + 1", extra.__dict__)
"""


def network(monkeypatch: pytest.MonkeyPatch, source: str = SOURCE, helpers: str = HELPERS) -> nn.Module:
    """The network of a module that was just imported from these sources."""
    for name, text in (("helpers_of_net", helpers), ("net_of_user", source)):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, f"/somewhere/{name}.py", "exec"), module.__dict__)
    torch.manual_seed(0)
    return sys.modules["net_of_user"].Net().eval()


def test_the_same_network_has_the_same_digest(monkeypatch):
    first = fingerprint(network(monkeypatch), X)
    assert first is not None
    model = network(monkeypatch)
    assert fingerprint(model, X) == first
    assert fingerprint(model.train(), X) == first  # exports are made in eval mode
    assert fingerprint(network(monkeypatch, helpers=HELPERS + "\ndef unrelated_too(x):\n    return x"), X) == first
    model(X[0])
    assert fingerprint(model, X) == first


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("net", "BOUND = 6.0", "BOUND = 8.0"),
        ("net", "[1, 2]", "[7, 2]"),
        ("net", "slope = 0.5", "slope = 0.25"),
        ("net", "return 1.0", "return 2.0"),
        ("net", "by=0.5", "by=0.75"),
        ("net", "made_by(2.0)", "made_by(3.0)"),
        ("net", "self.pool = 2", "self.pool = 3"),
        ("net", "self.mode = Mode.SOFT", "self.mode = Mode.HARD"),
        ("net", "Settings(3)", "Settings(4)"),
        ("net", "function(self, x) + 0", "function(self, x) - 0"),
        ("net", "s for s in (1, 2)", "s for s in (2, 1)"),
        ("net", "F.max_pool2d", "F.avg_pool2d"),
        ("net", "Conv2d(3, 4, 3)", "Conv2d(3, 4, 3, padding_mode='reflect')"),
        ("net", "BOUND = 6.0", "BOUND = 6.0 # moved\n"),  # sources of layers are named by line
        ("helpers", "return x * 2", "return x * 4"),
        ("helpers", "return _inner(x)", "return _inner(x) + 1"),
        ("helpers", "return x + 1", "return x - 1"),
        ("helpers", "size: int", "size: int\n    def twice(self): return 2 * self.size"),
    ],
)
def test_every_edit_that_forward_may_see_counts(monkeypatch, file, before, after):
    plain = fingerprint(network(monkeypatch), X)
    assert before in (SOURCE if file == "net" else HELPERS)
    source = SOURCE.replace(before, after) if file == "net" else SOURCE
    helpers = HELPERS.replace(before, after) if file == "helpers" else HELPERS
    changed = fingerprint(network(monkeypatch, source, helpers), X)
    assert changed is not None
    assert changed != plain


def _zero_a_weight(model):
    model.conv.weight.data[0, 0, 0, 0] = 0


def _negative_zero(model):
    model.conv.bias.data[0] = -0.0


def _replace_forward(model):
    model.conv.forward = types.MethodType(lambda self, x: nn.Conv2d.forward(self, x) * 2, model.conv)


def _parametrize(model):
    nn.utils.parametrize.register_parametrization(model.conv, "weight", nn.Identity())


def _global(model):
    sys.modules["net_of_user"].BOUND = 5.0


CHANGES = [
    _zero_a_weight,
    _negative_zero,
    _replace_forward,
    _parametrize,
    _global,
    lambda model: model.conv.double(),
    lambda model: model.register_buffer("more", torch.zeros(1)),
    lambda model: setattr(model.conv, "stride", (2, 2)),
    lambda model: setattr(model, "array", np.ones(3)),
    lambda model: setattr(model, "after", functools.partial(torch.mul, other=3)),
    lambda model: setattr(model, "after", torch.relu),
    lambda model: setattr(model, "after", torch.sigmoid),
    lambda model: setattr(model, "after", torch.Tensor.tanh),
]


def test_every_change_of_a_living_network_counts(monkeypatch):
    seen = set()
    for change in [lambda model: model.conv.bias.data.zero_(), *CHANGES]:
        model = network(monkeypatch)
        model.conv.bias.data.zero_()
        change(model)
        seen.add(fingerprint(model, X))
    assert None not in seen
    assert len(seen) == 1 + len(CHANGES)


def test_the_examples_shape_and_type_and_torchs_default_type_count(monkeypatch):
    model = network(monkeypatch)
    seen = {fingerprint(model, (torch.zeros(1, 3, 8, 8),)), fingerprint(model, (torch.zeros(1, 3, 9, 8),))}
    seen |= {fingerprint(model, (X[0].double(),)), fingerprint(model, (X[0], X[0]))}
    seen.add(fingerprint(network(monkeypatch).double(), X))
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    seen.add(fingerprint(model, X))
    assert len(seen) == 6


def test_a_patched_method_of_torchs_own_class_counts(monkeypatch):
    model = network(monkeypatch)
    plain = fingerprint(model, X)
    original = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", functools.wraps(original)(lambda self, x: original(self, x) * 2))
    patched = fingerprint(model, X)
    assert patched is not None
    assert patched != plain


def _with_forward(body: str) -> str:
    return SOURCE.replace("        return self.after", f"        {body}\n        return self.after")


class Slots:
    __slots__ = ("value",)


class Number(float):
    pass


class Meta(type):
    pass


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.register_forward_hook(lambda module, inputs, output: output * 2),
        lambda model: model.conv.register_forward_pre_hook(lambda module, inputs: None),
        lambda model: setattr(model, "thing", random.Random(0)),
        lambda model: setattr(model, "thing", Slots()),
        lambda model: setattr(model, "thing", Number(3)),
        lambda model: setattr(model, "thing", Meta("Made", (), {})()),
        lambda model: setattr(model, "thing", iter([1])),
        lambda model: setattr(model, "thing", torch.Generator()),
        lambda model: setattr(model, "thing", {object()}),
        lambda model: setattr(model, "after", random.uniform),
        lambda model: setattr(model, "sparse", torch.eye(3).to_sparse()),
        lambda model: setattr(model, "meta", torch.zeros(3, device="meta")),
        lambda model: setattr(model, "after", torch.no_grad()(lambda x: x)),
    ],
)
def test_objects_that_cannot_be_told_mean_no_digest(monkeypatch, change):
    model = network(monkeypatch)
    change(model)
    assert fingerprint(model, X) is None


@pytest.mark.parametrize(
    "body",
    [
        "import json",
        "x = x * eval('2')",
        "global MORE; MORE = 3",
        "x = x + len(open('/dev/null').read())",
        "x = x + len(os.environ)",
        "x = x + random.random()",
        "x = getattr(helpers_of_net, 'scaled')(x)",
        "x = x * helpers_of_net.__dict__['unrelated'](1)",
    ],
)
def test_code_that_does_more_than_compute_means_no_digest(monkeypatch, body):
    source = "import os, random\n" + _with_forward(body)
    assert fingerprint(network(monkeypatch, source), X) is None


def test_hooks_on_all_modules_and_active_modes_mean_no_digest(monkeypatch):
    model = network(monkeypatch)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert fingerprint(model, X) is None
    handle.remove()
    with torch.device("cpu"):
        assert fingerprint(model, X) is None
    with torch.autocast("cpu"):
        assert fingerprint(model, X) is None
    assert fingerprint(model, X) is not None


def test_importing_torch_inside_of_forward_is_fine(monkeypatch):
    assert fingerprint(network(monkeypatch, _with_forward("import torch.nn.functional")), X) is not None


def test_networks_that_hold_themselves_in_a_circle_have_a_digest(monkeypatch):
    model = network(monkeypatch)
    model.names = [{}]
    model.names[0]["self"] = model.names
    assert fingerprint(model, X) is not None


def test_a_model_with_a_file_named_like_a_library_is_not_taken_for_it(monkeypatch):
    model = network(monkeypatch)
    monkeypatch.setattr(sys.modules["net_of_user"].scaled, "__module__", "operator_of_mine")
    assert fingerprint(model, X) is not None


def test_compiled_by_torch_or_not_a_model_is_the_same(monkeypatch):
    model = network(monkeypatch)
    assert fingerprint(torch.compile(model), X) == fingerprint(model, X)
    assert fingerprint(copy.deepcopy(model).eval(), X) is not None


@pytest.mark.parametrize("name", ["digits_net", "resnet20", "mobilenet_v2"])
def test_networks_of_the_zoo_have_digests(name):
    assert name in MODELS
    assert fingerprint(build(name), (torch.zeros(1, *input_shape(name)),)) is not None


PROCESS = """
import torch
from flexgroup.engine._fingerprint import fingerprint
from flexgroup.zoo import build
torch.manual_seed(0)
print(fingerprint(build("resnet20"), (torch.zeros(1, 3, 32, 32),)))
"""


def test_all_processes_find_the_same_digest():
    environments = [{**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"} for seed in ("1", "2")]
    found = {subprocess.check_output([sys.executable, "-c", PROCESS], env=each) for each in environments}
    assert len(found) == 1
    assert b"None" not in found.pop()


def test_dataclasses_and_enumerations_count_by_content():
    @dataclasses.dataclass
    class Options:
        size: int = 3

    class Kind(enum.Enum):
        FIRST = "a"

    def digest(value: object) -> str | None:
        model = nn.Identity()
        model.value = value
        return fingerprint(model, X)

    assert digest(Options()) == digest(Options(3)) != digest(Options(4))
    assert digest(Options()) is not None
    assert digest(Kind.FIRST) is not None
