"""Networks are found by name, and a wrong name is answered with the right ones."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.zoo import MODELS, build, input_shape


@pytest.fixture
def my_nets(tmp_path, monkeypatch):
    (tmp_path / "my_nets_for_test.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Linear(3, 2)\n"
        "def number(): return 3\n"
        "def sized(width): return nn.Linear(width, 2)\n"
        "def broken(): raise RuntimeError('boom')\n"
        "made = nn.Linear(3, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "my_nets_for_test"
    sys.modules.pop("my_nets_for_test", None)


@pytest.mark.parametrize("name", [name for name in MODELS if input_shape(name)[1] <= 32])
def test_a_small_network_takes_the_images_it_was_made_for(name):
    assert build(name).eval()(torch.zeros(1, *input_shape(name))).shape == (1, 10)


def test_two_builds_share_no_weights():
    assert build("digits_net").linear.weight is not build("digits_net").linear.weight


def test_the_digits_network_is_small_but_not_trivial():
    assert 100_000 < sum(parameter.numel() for parameter in build("digits_net").parameters()) < 300_000


def test_a_function_of_the_users_is_found_from_the_current_folder(my_nets):
    before = list(sys.path)
    assert isinstance(build(f"{my_nets}:make"), nn.Linear)
    assert sys.path == before


def test_an_exception_in_the_users_code_passes_through(my_nets):
    with pytest.raises(RuntimeError, match="boom"):
        build(f"{my_nets}:broken")


def test_an_unknown_name_is_answered_with_the_nearest_and_all():
    with pytest.raises(FlexgroupError) as error:
        build("resnet_20")
    assert str(error.value) == (
        "model 'resnet_20' is unknown (did you mean 'resnet20'?); "
        f"choose {', '.join(MODELS)}, or write package.module:function"
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mke", r"has no 'mke' \(did you mean 'make'\?\)"),
        ("number", r"returned a int, not a torch.nn.Module; return the network itself"),
        (
            "sized",
            r"cannot be called without arguments \(.*'width'\); give them defaults",
        ),
        ("made", r"is a Linear, not a function; name a function"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(my_nets, function, message):
    with pytest.raises(FlexgroupError, match=message):
        build(f"{my_nets}:{function}")


def test_an_absent_module_is_named():
    with pytest.raises(FlexgroupError, match=r"cannot import no_such_thing.nets: no module named 'no_such_thing'"):
        build("no_such_thing.nets:make")


@pytest.mark.parametrize("name", ["a b:c", ":f", "m:", "m:f:g", "../m:f"])
def test_what_is_not_module_and_function_is_refused(name):
    with pytest.raises(FlexgroupError, match=r"is not package.module:function; write for example"):
        build(name)


def test_only_the_user_knows_the_input_of_the_users_network():
    with pytest.raises(FlexgroupError, match=r"input shape of model 'a:b' is not known; give it, for example --input"):
        input_shape("a:b")
