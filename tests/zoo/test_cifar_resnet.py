"""The CIFAR ResNets are those of the paper, under the names of the pretrained files."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.zoo import (
    CifarResNet,
    load_weights,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
)


@pytest.mark.parametrize(
    ("builder", "layers"), [(resnet20, 20), (resnet32, 32), (resnet44, 44), (resnet56, 56), (resnet110, 110)]
)
def test_the_name_counts_the_layers_with_weights(builder, layers):
    model = builder()
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules()) == layers


def test_parameter_count_is_that_of_the_paper():
    assert sum(parameter.numel() for parameter in resnet20().parameters()) == pytest.approx(0.27e6, rel=0.01)
    assert sum(parameter.numel() for parameter in resnet110().parameters()) == pytest.approx(1.7e6, rel=0.02)


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_keys_and_shapes_are_those_of_the_pretrained_files(shared_data, name):
    model = {"resnet20": resnet20, "resnet56": resnet56}[name]()
    own = {key: list(value.shape) for key, value in model.state_dict().items() if "num_batches" not in key}
    with safe_open(shared_data / "cifar10_resnet" / f"{name}.safetensors", "np") as file:
        assert own == {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


@settings(max_examples=10, deadline=None)
@given(
    width=st.integers(1, 9),
    classes=st.integers(1, 12),
    shortcut=st.sampled_from("AB"),
    side=st.integers(4, 33),
)
def test_any_width_gives_one_logit_a_class(width, classes, shortcut, side):
    model = CifarResNet(1, width=width, num_classes=classes, shortcut=shortcut).eval()
    assert model(torch.zeros(2, 3, side, side)).shape == (2, classes)


@settings(max_examples=10, deadline=None)
@given(width=st.integers(1, 9), side=st.integers(1, 9))
def test_option_a_takes_every_second_pixel_and_centres_the_channels(width, side):
    x = torch.randn(2, width, side, side)
    block = resnet20(width=width).layer2[0]
    y = block.shortcut(x)
    before = width // 2
    assert y.shape == (2, 2 * width, -(-side // 2), -(-side // 2))
    assert torch.equal(y[:, before : before + width], x[:, :, ::2, ::2])
    assert torch.count_nonzero(y[:, :before]) == torch.count_nonzero(y[:, before + width :]) == 0


def test_a_block_is_two_convolutions_and_its_shortcut():
    block = resnet20(shortcut="B").eval().layer2[0]
    x = torch.randn(1, 16, 8, 8)
    y = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    short = block.shortcut[1](block.shortcut[0](x))
    assert torch.allclose(block(x), F.relu(y + short))


def test_option_b_has_a_convolution_and_a_norm_where_the_shape_changes():
    keys = {key for key in resnet20(shortcut="B").state_dict() if "shortcut" in key and key.endswith("weight")}
    assert keys == {f"layer{stage}.0.shortcut.{i}.weight" for stage in (2, 3) for i in (0, 1)}


def test_the_pretrained_network_classifies_the_test_images(shared_data, cifar10):
    model = resnet20().eval()
    load_weights(model, shared_data / "cifar10_resnet" / "resnet20.safetensors")
    images, labels = cifar10.normalise(cifar10.test_images[:500]), cifar10.test_labels[:500]
    with torch.inference_mode():
        right = int((model(images).argmax(1) == labels).sum())
    assert right == pytest.approx(455, abs=1), "a tie may fall either way on another machine"


def test_errors_say_what_to_use_instead():
    with pytest.raises(FlexgroupError, match=r"shortcut 'C' is unknown; use 'A' .* or 'B'"):
        resnet20(shortcut="C")  # type: ignore[arg-type]
    with pytest.raises(FlexgroupError, match=r"width=0, .* is empty; give at least 1 of each"):
        resnet20(width=0)
