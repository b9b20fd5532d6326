"""The ImageNet networks are the published ones: size, names of the weights, padding, and what they see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.zoo import MODELS, MobileNetV1, build, load_weights, mobilenet_v2, normalisation
from flexgroup.zoo._channels import divisible
from flexgroup.zoo._same_conv import SameConv2d

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
    "efficientnet_lite0": 4_652_008,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "squeezenet1_1": 1_235_496,
    "vit_tiny": 5_717_416,
}
# names that the public checkpoints have, from every kind of layer
KEYS = {
    "resnet18": ["conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.weight", "fc.bias"],
    "resnet50": ["layer1.0.downsample.0.weight", "layer3.5.conv3.weight", "layer4.2.bn3.bias"],
    "mobilenet_v3_small": ["features.1.block.1.fc1.weight", "features.12.1.weight", "classifier.3.bias"],
    "mobilenet_v3_large": ["features.4.block.2.fc2.bias", "features.15.block.3.0.weight", "classifier.0.weight"],
    "efficientnet_lite0": ["_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_blocks.15._expand_conv.weight"],
    "vgg16": ["features.28.weight", "classifier.0.weight", "classifier.6.bias"],
    "vgg16_bn": ["features.40.weight", "features.41.running_mean"],
    "squeezenet1_1": ["features.0.bias", "features.12.expand3x3.weight", "classifier.1.weight"],
    "vit_tiny": ["cls_token", "pos_embed", "patch_embed.proj.bias", "blocks.11.attn.qkv.weight", "head.weight"],
}
# of the first 100 photographs; no two best logits are nearer than 0.01
FILES = {
    "mobilenet_v2": ("mobilenet_v2.safetensors", 88),
    "mobilenet_v1_075": ("mobilenet_v1_0.75_224_float.safetensors", 78),
}


def on_no_device(name: str) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(name)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_published_ones(name):
    assert sum(parameter.numel() for parameter in on_no_device(name).parameters()) == COUNTS[name]


def test_keras_counts_the_statistics_of_batch_norm_too():
    state = on_no_device("mobilenet_v1").state_dict()
    assert sum(value.numel() for key, value in state.items() if "num_batches" not in key) == 4_253_864


@pytest.mark.parametrize("name", KEYS)
def test_weights_have_the_names_of_public_checkpoints(name):
    assert set(KEYS[name]) <= on_no_device(name).state_dict().keys()


@pytest.mark.parametrize("name", [name for name in MODELS if normalisation(name) and name != "vit_tiny"])
def test_shapes_go_through_and_give_a_logit_a_class(name):
    model = on_no_device(name).eval()
    assert model(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    assert model(torch.zeros(1, 3, 96, 64, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1_025", "mobilenet_v3_small", "squeezenet1_1"])
def test_an_untrained_network_gives_finite_logits_that_differ(name):
    logits = build(name).eval()(torch.randn(1, 3, 64, 64))
    assert bool(torch.isfinite(logits).all())
    assert float(logits.detach().std()) > 1e-3


@pytest.mark.parametrize("name", FILES)
def test_names_and_shapes_are_those_of_the_pretrained_files(shared_data, name):
    own = {key: list(value.shape) for key, value in on_no_device(name).state_dict().items() if "num_batches" not in key}
    with safe_open(shared_data / "imagenet_nets" / FILES[name][0], "np") as file:
        found = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    assert own == {key: shape for key, shape in found.items() if "num_batches" not in key}


@pytest.mark.parametrize("name", FILES)
def test_the_pretrained_network_classifies_photographs(shared_data, photographs, name):
    file, expected = FILES[name]
    model = build(name).eval()
    load_weights(model, shared_data / "imagenet_nets" / file)
    mean, std = normalisation(name)
    pixels, labels = photographs.test_images[:100], photographs.test_labels[:100]
    images = (pixels / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in images.split(20)])
    assert int((logits.argmax(1) == labels).sum()) == expected


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
)
def test_same_padding_is_split_with_the_odd_pixel_at_the_end(height, width, kernel, stride):
    convolution, x = SameConv2d(1, 1, kernel, stride=stride), torch.randn(1, 1, height, width)
    y = convolution(x)
    rows, cols = -(-height // stride), -(-width // stride)
    assert y.shape == (1, 1, rows, cols)
    top = max((rows - 1) * stride + kernel - height, 0) // 2
    left = max((cols - 1) * stride + kernel - width, 0) // 2
    around = F.pad(x, (left, 2 * kernel, top, 2 * kernel))[0, 0]
    for row, col in {(0, 0), (rows - 1, cols - 1)}:
        window = around[row * stride : row * stride + kernel, col * stride : col * stride + kernel]
        assert torch.allclose(y[0, 0, row, col], (window * convolution.weight[0, 0]).sum(), atol=1e-5)


def test_even_images_of_stride_2_are_padded_below_and_right_only():
    assert SameConv2d(1, 1, 3, stride=2)._padding(224) == (0, 1)
    assert SameConv2d(1, 1, 3, stride=2)._padding(7) == (1, 1)
    assert SameConv2d(1, 1, 5, stride=2)._padding(56) == (1, 2)


@pytest.mark.parametrize(("channels", "rounded"), [(1, 8), (8, 8), (11, 16), (12, 16), (16.5, 16), (36, 40), (24, 24)])
def test_channels_are_rounded_to_eights_but_lose_no_tenth(channels, rounded):
    assert divisible(channels) == rounded


@pytest.mark.parametrize("width", [0.35, 0.5, 1.4])
def test_mobilenet_v2_of_any_width(width):
    model = mobilenet_v2(width=width, num_classes=5).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert model.classifier[1].in_features == max(1280, divisible(1280 * width))


def test_a_mobilenet_without_channels_is_refused():
    with pytest.raises(FlexgroupError, match=r"MobileNetV1 of width 0.01 has a layer without channels; give a number"):
        MobileNetV1(width=0.01)
    with pytest.raises(FlexgroupError, match="width nan"):
        MobileNetV1(width=float("nan"))


def test_the_squeeze_scales_whole_channels():
    block = build("mobilenet_v3_small").eval().features[1].block[1]
    x = torch.randn(2, 16, 5, 5)
    ratio = block(x) / x
    assert torch.allclose(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-5)
    assert bool(((ratio >= 0) & (ratio <= 1 + 1e-5)).all())


def test_a_network_of_unknown_origin_has_torchvisions_pixels(photographs):
    assert normalisation("resnet20") is normalisation("a:b") is None
    assert (photographs.mean, photographs.std) == normalisation("resnet50")


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("mobilenet_v1", lambda x: x / 127.5 - 1),
        ("efficientnet_lite0", lambda x: (x - 127) / 128),
        ("vit_tiny", lambda x: x / 127.5 - 1),
    ],
)
def test_each_network_gets_the_pixels_it_was_trained_on(name, meaning):
    x = torch.arange(256.0)
    mean, std = normalisation(name)
    assert torch.allclose((x / 255 - mean[0]) / std[0], meaning(x), atol=1e-6)
    assert len(mean) == len(std) == 3
