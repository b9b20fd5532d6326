"""Activations, gates and resizing in the graph: what torch's operators become, and what passes make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.graph import Add, Affine, AvgPool2d, Clamp, Conv2d, Curve, Graph, Linear, Mul, Node, Resize, Slice
from flexgroup.graph._validate import check, infer_shape
from flexgroup.graph.ir import CURVES, Reshape, leaky_relu, slope_of

IMAGE = torch.randn(2, 4, 9, 7)


class Net(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes]


ACTIVATIONS = {
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "hard_swish": nn.Hardswish(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "mish": nn.Mish(),
    leaky_relu(0.1): nn.LeakyReLU(0.1),
    leaky_relu(0.25): nn.PReLU(),
    leaky_relu(-1.0): Net(lambda s, x: x.abs()),
    "softplus": nn.Softplus(),
    "erf": Net(lambda s, x: torch.erf(x)),
    "exp": Net(lambda s, x: torch.exp(x)),
    "log": Net(lambda s, x: torch.log(x + 9)),
    "sqrt": Net(lambda s, x: torch.sqrt(x + 9)),
    "reciprocal": Net(lambda s, x: torch.reciprocal(x + 9)),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_an_activation_is_a_curve_that_its_layer_takes_in(same_as_torch, kind):
    graph, small = same_as_torch(nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), ACTIVATIONS[kind]), IMAGE)
    assert graph.nodes[-1].op == Curve(kind)
    (node,) = small.nodes
    assert isinstance(node.op, Conv2d)
    assert node.op.curve == kind


def test_every_curve_has_a_meaning_and_a_test(same_as_torch):
    assert set(CURVES) <= set(ACTIVATIONS)


def test_linear_layers_sums_products_and_affines_take_curves_in(same_as_torch):
    model = Net(
        lambda s, x: torch.tanh(s.b(F.silu(s.a(x) + x) * x)),
        a=nn.Linear(6, 6),
        b=nn.BatchNorm1d(6),
    )
    _, small = same_as_torch(model, torch.randn(2, 6))
    assert [getattr(node.op, "curve", None) for node in small.nodes] == ["", "silu", "", "tanh"]


def test_a_curve_comes_after_the_clamp_and_keeps_what_follows_out(same_as_torch):
    model = nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU6(), nn.Tanh(), nn.Hardtanh(-0.5, 0.5), nn.BatchNorm2d(3))
    _, small = same_as_torch(model, IMAGE)
    assert (small.nodes[0].op.clamp, small.nodes[0].op.curve) == (Clamp(0.0, 6.0), "tanh")
    assert kinds(small) == ["Conv2d", "Clamp", "Affine"]
    _, small = same_as_torch(Net(lambda s, x: F.gelu(x.clamp(-1, 1)) + x), IMAGE)
    assert (small.nodes[0].op.clamp, small.nodes[0].op.curve) == (Clamp(-1.0, 1.0), "gelu")


def test_hard_sigmoid_goes_into_the_weights_before_it(same_as_torch):
    _, small = same_as_torch(nn.Sequential(nn.Conv2d(4, 3, 1), nn.Hardsigmoid()), IMAGE)
    (node,) = small.nodes
    assert (node.op.clamp, node.op.curve) == (Clamp(0.0, 1.0), "")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda s, x: x * torch.sigmoid(x), [Curve("silu")]),
        (lambda s, x: torch.sigmoid(x) * x, [Curve("silu")]),
        (lambda s, x: x * F.hardsigmoid(x), [Curve("hard_swish")]),
        (lambda s, x: x * F.relu6(x + 3) / 6, [Curve("hard_swish")]),
        (lambda s, x: x * (F.relu6(x + 3) / 6), [Curve("hard_swish")]),
        (lambda s, x: x * (F.relu6(x + 3) * (1 / 6)), [Curve("hard_swish")]),
        (lambda s, x: x * F.relu6(x + 2), [Affine, Mul()]),
        (lambda s, x: x * torch.sigmoid(x + 1), [Affine, Mul()]),
        (lambda s, x: x * torch.tanh(x), [Curve("tanh"), Mul()]),
    ],
)
def test_activations_written_out_are_recognised(same_as_torch, function, expected):
    _, small = same_as_torch(Net(function), IMAGE)
    assert [type(node.op) if isinstance(node.op, Affine) else node.op for node in small.nodes] == expected


def test_a_scale_after_a_clamp_goes_before_it(same_as_torch):
    _, small = same_as_torch(Net(lambda s, x: F.relu6(s.conv(x)) / 6 - 0.5, conv=nn.Conv2d(4, 3, 1)), IMAGE)
    (node,) = small.nodes
    assert (node.op.clamp.low, node.op.clamp.high) == pytest.approx((-0.5, 0.5))
    _, small = same_as_torch(Net(lambda s, x: F.relu6(s.conv(x)) * -1, conv=nn.Conv2d(4, 3, 1)), IMAGE)
    assert kinds(small) == ["Conv2d", "Affine"]


@pytest.mark.parametrize("written", ["conv", "linear"])
def test_squeeze_and_excitation_is_a_mean_two_linear_layers_and_a_gate(same_as_torch, written):
    if written == "conv":
        layers = {"down": nn.Conv2d(4, 2, 1), "up": nn.Conv2d(2, 4, 1)}
        model = Net(lambda s, x: x * F.hardsigmoid(s.up(F.relu(s.down(F.adaptive_avg_pool2d(x, 1))))), **layers)
    else:
        layers = {"down": nn.Linear(4, 2), "up": nn.Linear(2, 4)}
        model = Net(lambda s, x: torch.sigmoid(s.up(F.silu(s.down(x.mean((2, 3)))))).view(-1, 4, 1, 1) * x, **layers)
    _, small = same_as_torch(model, IMAGE)
    assert kinds(small) == ["GlobalMean", "Linear", "Linear", "Reshape", "Mul"]
    assert [node.name for node in small.nodes if isinstance(node.op, Linear)] == ["down", "up"]


def test_all_that_vectors_know_is_done_on_vectors(same_as_torch):
    def function(s, x):
        y = s.conv(F.adaptive_avg_pool2d(x, 1))
        y = torch.cat([y[:, 1:], s.bn(F.gelu(y) * y + y), y.clamp(0, 1)], 1)
        return y, y.flatten(1)

    model = Net(function, conv=nn.Conv2d(4, 3, 3, padding=1), bn=nn.BatchNorm2d(3))
    _, small = same_as_torch(model, IMAGE)
    assert all(len(small.shapes[node.output]) == 1 for node in small.nodes if not isinstance(node.op, Reshape))


def test_gates_broadcast_along_any_axes(same_as_torch):
    def function(s, x):
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        return x * rows + columns, rows * columns, x.mean(1, keepdim=True) * x, x + x.mean((1, 2, 3), keepdim=True)

    graph, _ = same_as_torch(Net(function), IMAGE)
    assert {"Mul", "Add"} <= set(kinds(graph))


def test_sums_and_products_read_what_is_not_expanded(same_as_torch):
    def function(s, x):
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True)).expand_as(x)
        return x * gate, gate + x, gate * gate

    _, small = same_as_torch(Net(function), IMAGE)
    assert kinds(small).count("Expand") == 1  # of the square


def test_a_residual_of_another_shape_is_added_by_itself(same_as_torch):
    model = Net(lambda s, x: F.relu(s.conv(x) + x.mean((2, 3), keepdim=True)), conv=nn.Conv2d(4, 4, 1))
    _, small = same_as_torch(model, IMAGE)
    assert small.nodes[-1].op == Add(Clamp(0.0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, scale_factor=(1.7, 0.6)),
        lambda x: F.interpolate(x, scale_factor=1.3, mode="nearest-exact"),
        lambda x: F.interpolate(x, size=(5, 20), mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=1.6, mode="bilinear", recompute_scale_factor=True),
        lambda x: F.interpolate(x, scale_factor=1.6, mode="bilinear"),
        lambda x: F.interpolate(x, size=(18, 1), mode="bilinear", align_corners=True),
        lambda x: F.interpolate(x, size=(4, 30), mode="bicubic"),
        lambda x: F.interpolate(x, size=(4, 3), mode="bilinear", antialias=True),
        lambda x: nn.UpsamplingBilinear2d(scale_factor=2)(x),
        lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
        lambda x: F.adaptive_avg_pool2d(x, (20, 5)),
    ],
)
def test_resizing_and_uneven_pools_are_two_matrices(same_as_torch, function):
    graph, _ = same_as_torch(Net(lambda s, x: function(x)), IMAGE)
    (node,) = graph.nodes
    assert isinstance(node.op, Resize)
    assert np.allclose(node.op.rows.sum(1), 1, atol=1e-5)


def test_what_only_picks_or_averages_pixels_is_a_slice_or_a_pool(same_as_torch):
    graph, _ = same_as_torch(Net(lambda s, x: F.interpolate(x, size=(3, 7))), IMAGE)
    assert [node.op for node in graph.nodes] == [Slice(1, 0, 7, 3)]
    graph, _ = same_as_torch(
        Net(lambda s, x: F.interpolate(x, scale_factor=0.5, mode="bilinear")), torch.randn(1, 2, 8, 6)
    )
    assert [node.op for node in graph.nodes] == [AvgPool2d((2, 2), (2, 2))]
    graph, _ = same_as_torch(Net(lambda s, x: F.interpolate(x, size=x.shape[2:], mode="bilinear") + 1), IMAGE)
    assert kinds(graph) == ["Affine"]


def test_sums_maxima_powers_and_shuffles(same_as_torch):
    def function(s, x):
        y = F.channel_shuffle(x, 2) + x**2 - x**3 + (-x).square()
        return y.sum((2, 3)), y.sum(1), y.sum(3, keepdim=True), y.amax((2, 3)), F.pixel_shuffle(y, 2), y.mean(1)

    graph, _ = same_as_torch(Net(function), IMAGE)
    assert "Conv2d" in kinds(graph)  # a mean over channels


def test_slopes_by_channel(same_as_torch):
    prelu = nn.PReLU(4)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.1, -0.5, 2.0, 0.0]))
    same_as_torch(prelu, IMAGE)


def test_constants_of_any_shape_scale(same_as_torch):
    graph, _ = same_as_torch(Net(lambda s, x: x * torch.arange(9.0)[:, None] / torch.arange(1.0, 8.0)), IMAGE)
    assert kinds(graph) == ["Constant", "Mul", "Affine"]


def test_slopes_come_back_from_their_names():
    assert slope_of(leaky_relu(0.1)) == float(np.float32(0.1))
    assert [slope_of(kind) for kind in CURVES] == [None] * len(CURVES)


@pytest.mark.parametrize(
    ("op", "inputs", "complaint"),
    [
        (Mul(), [(3, 4, 4), (3,)], r"its inputs differ in shape: \(3, 4, 4\) and \(3,\)"),
        (Mul(), [(3, 4, 4), (3, 2, 4)], r"its inputs differ in shape"),
        (Add(), [(3, 4, 4)], "it has 1 inputs instead of two"),
        (Curve(""), [(3,)], "it has no kind"),
        (
            Resize(np.eye(4, dtype=np.float32), np.eye(5, dtype=np.float32)),
            [(3, 4, 4)],
            "it resizes images of 4x5, not",
        ),
    ],
)
def test_shapes_that_do_not_fit(op, inputs, complaint):
    with pytest.raises(FlexgroupError, match=complaint):
        infer_shape(op, *inputs)


def test_a_curve_that_nobody_knows_is_refused():
    nodes = (Node("curve", Curve("wave"), ("x",), "y"),)
    graph = Graph(("x",), ("y",), nodes, {"x": (3,), "y": (3,)})
    with pytest.raises(FlexgroupError, match="its curve 'wave' is none of sigmoid, silu, hard_swish"):
        check(graph)
