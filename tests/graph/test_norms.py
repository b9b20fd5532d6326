"""Norms by what the network sees, padding by the image's own numbers, sequences: what they lower to, in both doors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup.graph import Affine, Conv2d, Linear, Resize
from tests.graph.test_gates import Net, kinds

IMAGE, SEQUENCE, TOKENS, VECTOR = (torch.randn(*shape) for shape in ((2, 6, 9, 7), (2, 6, 20), (2, 5, 8), (2, 12)))


def own_norm(s, x):
    """A layer norm over channels, written out, as in many segmentation networks."""
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)


def response_norm(s, x):
    """The global response norm of ConvNeXt V2 (Woo et al., arXiv 2301.00808, equations 1 to 3)."""
    size = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
    return x * (size / (size.mean(1, keepdim=True) + 1e-6)) + x


def windows(s, x):
    """Cosine attention in windows that are folded into the batch (Liu et al., arXiv 2111.09883, equation 2)."""
    batch, tokens, width = x.shape
    q = x.reshape(batch, tokens, 2, width // 2).transpose(1, 2).reshape(batch * 2, tokens, width // 2)
    angles = F.normalize(q, dim=-1) @ F.normalize(q, dim=-1).transpose(-2, -1)
    return (angles.softmax(-1) @ q).reshape(batch, 2, tokens, width // 2)


def linear_attention(s, x):
    """The kernel trick of EfficientViT: a column of ones sums the weights, by which the sums are divided."""
    x = F.relu(x)
    sums = x @ (x.transpose(1, 2) @ F.pad(x, (0, 1), value=1.0))
    return sums[..., :-1] / (sums[..., -1:] + 1e-5)


NORMS = {
    "one group": (nn.GroupNorm(1, 6), IMAGE),
    "groups": (nn.GroupNorm(3, 6), IMAGE),
    "groups of sequences": (nn.GroupNorm(2, 6), SEQUENCE),
    "groups of vectors": (nn.GroupNorm(3, 12), VECTOR),
    "instances": (nn.InstanceNorm2d(6, affine=True), IMAGE),
    "instances without weights": (nn.InstanceNorm2d(6), IMAGE),
    "instances of sequences": (nn.InstanceNorm1d(6), SEQUENCE),
    "length of vectors": (Net(lambda s, x: F.normalize(x)), VECTOR),
    "length along channels": (Net(lambda s, x: F.normalize(x, dim=1)), IMAGE),
    "length of tokens": (Net(lambda s, x: F.normalize(x, dim=-1)), TOKENS),
    "sum of magnitudes": (Net(lambda s, x: F.normalize(x, p=1, dim=-1)), TOKENS),
    "deviation": (Net(lambda s, x: x.std((2, 3))), IMAGE),
    "variance along channels": (Net(lambda s, x: x.var(1, keepdim=True, unbiased=False)), IMAGE),
    "both moments": (Net(lambda s, x: torch.cat(torch.var_mean(x, (1, 2), keepdim=True), 1)), TOKENS),
    "root mean square": (Net(lambda s, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)), TOKENS),
    "written out": (Net(own_norm), IMAGE),
    "responses": (Net(response_norm), IMAGE),
    "windows": (Net(windows), TOKENS),
    "linear attention": (Net(linear_attention), TOKENS),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_what_torch_makes_of_them(same_as_torch, name):
    model, x = NORMS[name]
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    same_as_torch(model, x)


def test_batch_norm_of_tokens_is_part_of_the_layer_before(same_as_torch):
    def forward(s, x):
        y = s.linear(x)
        return F.hardswish(s.norm(y.flatten(0, 1)).reshape_as(y))

    _, small = same_as_torch(Net(forward, linear=nn.Linear(8, 12, bias=False), norm=nn.BatchNorm1d(12)), TOKENS)
    (node,) = small.nodes
    assert isinstance(node.op, Linear)
    assert node.op.curve == "hard_swish"


POWERS = {
    "quotient": lambda s, x: x / (x.abs() + 1),
    "number by value": lambda s, x: 2 / (x.abs() + 1),
    "powers": lambda s, x: x**4 + (x.abs() + 1) ** -2 + (x.abs() + 1) ** -0.5 + x.abs().pow(0.5) + (x + 9) ** -1,
    "elu": lambda s, x: F.elu(x, 0.7),
    "celu": lambda s, x: F.celu(x, 1.3),
    "selu": lambda s, x: F.selu(x),
    "addcmul": lambda s, x: torch.addcmul(s.a, s.b, x, value=2.0) + torch.addcmul(x, s.a, s.b) + torch.addcmul(x, x, x),
}


@pytest.mark.parametrize("name", POWERS)
def test_quotients_powers_and_exponential_units(same_as_torch, name):
    factors = (nn.Parameter(torch.randn(1, 6, 1, 1)) for _ in range(2))
    same_as_torch(Net(POWERS[name], **dict(zip("ab", factors, strict=True))), IMAGE)


PADS = {
    "reflected": (nn.ReflectionPad2d((1, 2, 3, 0)), IMAGE),
    "repeated": (nn.ReplicationPad2d(2), IMAGE),
    "around": (Net(lambda s, x: F.pad(x, (2, 1, 0, 3), "circular")), IMAGE),
    "reflected sequence": (nn.ReflectionPad1d(3), SEQUENCE),
    "repeated sequence": (nn.ReplicationPad1d((0, 2)), SEQUENCE),
}


@pytest.mark.parametrize("name", PADS)
def test_padding_by_the_image_itself_picks_rows_and_columns(same_as_torch, name):
    graph, _ = same_as_torch(*PADS[name])
    (resize,) = (node.op for node in graph.nodes if isinstance(node.op, Resize))
    assert set(np.unique(resize.columns)) == {0.0, 1.0}


def test_a_convolution_pads_by_its_mode(same_as_torch):
    for mode in ("reflect", "replicate", "circular"):
        _, small = same_as_torch(nn.Conv2d(6, 4, 3, padding=1, padding_mode=mode), IMAGE)
        assert kinds(small) == ["Resize", "Conv2d"]


def test_padding_with_a_number_joins_constants(same_as_torch):
    same_as_torch(nn.ConstantPad2d((1, 2, 0, 3), 1.5), IMAGE)
    for number in (0.0, 1.0):
        same_as_torch(Net(lambda s, x, number=number: F.pad(x, (0, 1, 2, 0), value=number)), TOKENS)


def test_layers_of_sequences_are_those_of_images_with_one_row(same_as_torch):
    layers = (
        *(nn.Conv1d(6, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, padding="same", groups=8)),
        *(nn.MaxPool1d(2), nn.AvgPool1d(3, 1, 1), nn.Conv1d(8, 4, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
    )
    _, small = same_as_torch(nn.Sequential(*layers, nn.Linear(4, 3)), SEQUENCE)
    wanted = ["Reshape", "Conv2d", "Conv2d", "MaxPool2d", "AvgPool2d", "Conv2d", "GlobalMean", "Linear"]
    assert kinds(small) == wanted, "batch norm is in the convolution, and nothing is moved between the layers"
    (first, *_) = (node.op for node in small.nodes if isinstance(node.op, Conv2d))
    assert first.weight.shape == (8, 6, 1, 5)


def test_transposed_convolutions_of_sequences(same_as_torch):
    same_as_torch(nn.ConvTranspose1d(6, 4, 4, 2, 1, 1), SEQUENCE)
    _, small = same_as_torch(nn.BatchNorm1d(6), SEQUENCE)
    assert [type(node.op) for node in small.nodes] == [Affine]
