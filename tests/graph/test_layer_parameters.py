"""Convolutions and pools of any parameters mean the same as in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.graph import Affine, AvgPool2d, from_torch

# An export costs the same for one layer as for many: every example is a handful of layers side by side.
side_by_side = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def windows(draw):
    """A kernel and a padding that a pool may have: at most half of the kernel."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return kernel, tuple(draw(st.integers(0, size // 2)) for size in kernel)


@st.composite
def convolutions(draw):
    draw(st.random_module())  # torch's numbers too
    padding = draw(st.sampled_from(["same", "valid"]) | st.tuples(st.integers(0, 3), st.integers(0, 3)))
    return nn.Conv2d(
        in_channels=4,
        out_channels=8,
        kernel_size=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        stride=1 if padding == "same" else draw(strides),
        padding=padding,
        dilation=draw(strides),
        groups=draw(st.sampled_from([1, 2, 4])),
        bias=draw(st.booleans()),
    )


@st.composite
def transposed_convolutions(draw):
    draw(st.random_module())  # torch's numbers too
    kernel, stride = draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(strides)
    return nn.ConvTranspose2d(
        in_channels=4,
        out_channels=6,
        kernel_size=kernel,
        stride=stride,
        padding=tuple(draw(st.integers(0, 2)) for _ in kernel),
        output_padding=tuple(draw(st.integers(0, step - 1)) for step in stride),
        groups=draw(st.sampled_from([1, 2])),
        bias=draw(st.booleans()),
    )


@st.composite
def max_pools(draw):
    draw(st.random_module())  # torch's numbers too
    kernel, padding = draw(windows())
    return nn.MaxPool2d(kernel, draw(strides), padding, draw(strides), ceil_mode=draw(st.booleans()))


@st.composite
def average_pools(draw):
    draw(st.random_module())  # torch's numbers too
    kernel, padding = draw(windows())
    divisor = draw(st.none() | st.integers(1, 9))
    ceil_mode = draw(st.booleans())
    return nn.AvgPool2d(kernel, draw(strides), padding, ceil_mode, draw(st.booleans()), divisor)


@st.composite
def adaptive_pools(draw):
    draw(st.random_module())  # torch's numbers too
    sizes = st.sampled_from([1, 2, 3, 4, 6, 12, None])
    return draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))((draw(sizes), draw(sizes)))


class SideBySide(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


@side_by_side
@given(layers=st.lists(convolutions(), min_size=8, max_size=8), batch=st.integers(1, 2))
def test_convolutions(same_as_torch, layers, batch):
    graph, _ = same_as_torch(SideBySide(layers), torch.randn(batch, 4, 11, 10))
    for layer, node in zip(layers, graph.nodes, strict=True):
        assert (node.op.stride, node.op.dilation, node.op.groups) == (
            layer.stride,
            layer.dilation,
            layer.groups,
        )


@side_by_side
@given(layers=st.lists(transposed_convolutions(), min_size=8, max_size=8), batch=st.integers(1, 2))
def test_transposed_convolutions(same_as_torch, layers, batch):
    same_as_torch(SideBySide(layers), torch.randn(batch, 4, 7, 6))


@side_by_side
@given(layers=st.lists(max_pools(), min_size=8, max_size=8))
def test_max_pools(same_as_torch, layers):
    same_as_torch(SideBySide(layers), torch.randn(1, 2, 13, 14))


@side_by_side
@given(layers=st.lists(average_pools(), min_size=8, max_size=8))
def test_average_pools(same_as_torch, layers):
    same_as_torch(SideBySide(layers), torch.randn(1, 2, 11, 12))


@side_by_side
@given(layers=st.lists(adaptive_pools(), min_size=8, max_size=8))
def test_adaptive_pools_whose_output_divides_the_image(same_as_torch, layers):
    same_as_torch(SideBySide(layers), torch.randn(1, 2, 12, 12))


def test_same_padding_of_an_even_kernel_has_the_one_more_at_the_end(same_as_torch):
    layers = [
        nn.Conv2d(2, 3, (2, 4), padding="same"),
        nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)),
    ]
    graph, _ = same_as_torch(SideBySide(layers), torch.randn(1, 2, 8, 9))
    assert [node.op.padding for node in graph.nodes] == [(0, 1, 1, 2), (1, 2, 2, 2)]


def test_adaptive_pools_that_keep_one_side(same_as_torch):
    graph, _ = same_as_torch(nn.AdaptiveAvgPool2d((None, 2)), torch.randn(1, 2, 5, 8))
    assert graph.nodes[0].op == AvgPool2d((1, 4), (1, 4))


class Functions(nn.Module):
    def __init__(self, *functions):
        super().__init__()
        self.functions = functions

    def forward(self, x):
        return tuple(function(x + 0.5) for function in self.functions)


@pytest.mark.parametrize("shape", [(1, 2, 5, 5), (2, 7)])
def test_every_spelling_of_a_clamp(same_as_torch, shape):
    clamps = Functions(
        F.relu,
        F.relu6,
        nn.Hardtanh(-0.5, 0.25),
        lambda x: x.clamp(min=-0.5),
        lambda x: x.clamp(max=0.5),
        lambda x: x.clamp(torch.tensor(-0.5), torch.tensor(0.5)),
        lambda x: x.clamp(0.5, -0.5),
        lambda x: torch.clamp_min(x, 0.25),
        lambda x: torch.clamp_max(x, 0.25),
        lambda x: x.relu_().clamp_(max=1.0),
    )
    _, small = same_as_torch(clamps, torch.randn(shape))
    assert all(isinstance(node.op, Affine) for node in small.nodes)


def test_what_does_nothing_takes_no_node():
    nothing = (
        lambda x: x.contiguous(),
        lambda x: x.clone().detach(),
        lambda x: x.to(torch.float32).float(),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.dropout2d(x, 0.5, training=False),
        lambda x: x.view(x.shape),
        lambda x: x[:],
        lambda x: x[:, :, 0:99],
        lambda x: F.pad(x, (0, 0, 0, 0)),
        lambda x: torch.cat([x], 1),
        lambda x: x.contiguous(memory_format=torch.channels_last),
    )
    graph = from_torch(Functions(*nothing), (torch.randn(2, 3, 4, 4),))
    assert len(graph.nodes) == len(graph.outputs) == len(nothing)
    assert {type(node.op) for node in graph.nodes} == {Affine}  # the additions of zero
