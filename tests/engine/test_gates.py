"""Activations, gates, resizing and shuffles compile and agree with torch, on every target and any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flexgroup
from flexgroup.engine import plan_graph
from flexgroup.graph import Graph, Node, Resize
from flexgroup.kernels import TARGETS
from flexgroup.zoo import build
from tests.engine.agreement import RUNNABLE, agree, agrees_run_after_run, twins_agree
from tests.engine.networks import PATTERNS, randomise
from tests.engine.networks_gates import Shuffled, Squeeze, gated_networks
from tests.engine.test_tokens import Net
from tests.engine.twins import run_plan
from tests.kernels.here import HOST


@settings(max_examples=30, deadline=None)
@given(gated_networks(), st.sampled_from(PATTERNS), st.sampled_from(RUNNABLE), st.integers(1, 3), st.integers(1, 3))
def test_any_network_of_gates_agrees_with_torch_run_after_run(case, pattern, target, threads, batch):
    model, shape = case
    agrees_run_after_run(model, shape, pattern, 0.4, target=target, threads=threads, batch=batch)


@settings(max_examples=12, deadline=None)
@given(gated_networks(), st.sampled_from(PATTERNS), st.sampled_from(sorted(TARGETS)), st.integers(1, 3))
def test_the_plan_of_gates_means_the_same_to_the_numpy_twins(case, pattern, target, threads):
    model, shape = case
    twins_agree(model, shape, pattern, 0.4, target=TARGETS[target], threads=threads)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: F.interpolate(x, scale_factor=2),
        lambda s, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda s, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        lambda s, x: F.interpolate(x, size=(33, 5), mode="bilinear", align_corners=True),
        lambda s, x: F.interpolate(x, scale_factor=(0.5, 1.7), mode="bilinear"),
        lambda s, x: F.interpolate(x, scale_factor=0.5, mode="bilinear"),
        lambda s, x: F.interpolate(x, scale_factor=(0.4, 3.1)),
        lambda s, x: F.interpolate(x, scale_factor=0.5),
        lambda s, x: F.interpolate(x, scale_factor=1.3, mode="nearest-exact"),
        lambda s, x: F.interpolate(x, size=(5, 30), mode="bicubic"),
        lambda s, x: F.interpolate(x, size=(5, 4), mode="bilinear", antialias=True),
        lambda s, x: F.interpolate(x.mean((2, 3), keepdim=True), size=x.shape[2:], mode="bilinear"),
        lambda s, x: F.adaptive_avg_pool2d(x, (3, 5)),
        lambda s, x: F.adaptive_avg_pool2d(x, (7, None)),
        lambda s, x: x.mean((2, 3), keepdim=True).expand_as(x),
        lambda s, x: torch.cat([x.mean(1, keepdim=True).expand_as(x), x.mean(2, keepdim=True).expand_as(x)], 1) * 2,
        lambda s, x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1).flatten(2).mean(2),
        lambda s, x: F.pixel_shuffle(x, 2),
        lambda s, x: F.pixel_unshuffle(x[:, :, :10, :8], 2),
        lambda s, x: F.channel_shuffle(x, 2),
        lambda s, x: x * x.mean((2, 3), keepdim=True),
        lambda s, x: x.mean((2, 3), keepdim=True) * x,
        lambda s, x: x * x.mean(1, keepdim=True) + x[:, :1],
        lambda s, x: x.mean((2, 3), keepdim=True) * x.mean(1, keepdim=True),
        lambda s, x: x.mean((1, 2, 3), keepdim=True) + x,
        lambda s, x: x * x.mean(2, keepdim=True) + x.mean(3, keepdim=True),
        lambda s, x: x.mean(3, keepdim=True) * x.mean(2, keepdim=True),
        lambda s, x: x.amax((2, 3)) * x.mean((2, 3)),
        lambda s, x: x.sum((2, 3)),
        lambda s, x: x.sum(1, keepdim=True) * x.sum(3, keepdim=True),
        lambda s, x: x.flatten(2) * x.flatten(2).mean(2, keepdim=True),
        lambda s, x: x.flatten(2).transpose(1, 2) * x.flatten(2).mean(2)[:, None],
        lambda s, x: x**2 + x.abs() - x**3,
        lambda s, x: F.prelu(x, torch.tensor([0.1, -0.5, 2.0, 0.0])),
        lambda s, x: x * F.relu6(x + 3) / 6,
        lambda s, x: (x * torch.sigmoid(x)).clamp(max=0.3),
        lambda s, x: F.gelu(x.clamp(-1, 1)),
        lambda s, x: x.softmax(1) * F.softmax(x.flatten(1), 1).view_as(x),
        lambda s, x: x * torch.arange(13.0)[:, None],
        lambda s, x: F.leaky_relu(F.leaky_relu(x, 0.1), 0.3),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_operators_agree_with_torch(function, threads):
    model, x = Net(function), torch.randn(3, 4, 13, 9)
    agree(model, flexgroup.compile(model, (x[:1],), threads=threads), x)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_lite0", "squeezenet1_1", "unet", "unet_nearest"])
def test_networks_of_the_zoo_agree_with_torch(name):
    model = build(name)
    x = torch.randn(1, 3, 64, 64)
    agree(model.eval(), flexgroup.compile(model, (x,)), x)


def test_a_squeeze_and_excitation_block_is_two_linear_layers_and_a_gate():
    model = nn.Sequential(nn.Conv2d(3, 24, 3), Squeeze(24, "conv"))
    randomise(model, 0)
    x = torch.randn(1, 3, 9, 9)
    names = [step.kernel.name for step in flexgroup.compile(model, (x,)).plan.steps]
    kernels = [name for name in names if not name.startswith("fill")]  # borders, where memory is used again
    assert [name.split("_")[0] for name in kernels] == [
        "copy",
        "conv",
        "mean",
        "linear",
        "linear",
        "elementwise",
        "copy",
    ]
    assert kernels[3].endswith("_silu")
    assert kernels[5] == "elementwise_f32_mul_each"


def test_shuffled_channels_take_no_copy():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Shuffled(16), Shuffled(16), nn.Conv2d(16, 4, 1))
    randomise(model, 0)
    x = torch.randn(1, 3, 20, 20)
    kernels = [step.kernel.name for step in flexgroup.compile(model, (x,)).plan.steps]
    assert [name.split("_")[0] for name in kernels] == ["copy", *["conv"] * 4, "copy"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_blocks_of_pixels_are_interleaved(stride, threads):
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ConvTranspose2d(5, 3, stride, stride), nn.Conv2d(3, 2, 3))
    randomise(model, 0)
    x = torch.randn(2, 3, 7, 21)
    compiled = flexgroup.compile(model, (x[:1],), threads=threads)
    kernels = [step.kernel.name for step in compiled.plan.steps]
    assert kernels[3] == ("gather_f32" if stride == 3 else f"interleave_f32_{stride}")
    agree(model, compiled, x)


def test_planes_from_several_buffers_can_be_joined_along_rows():
    conv = nn.Conv2d(4, 4, 1)
    model = Net(
        lambda s, x: torch.cat([torch.cat([x[:, :2], s.conv(x)], 1).flatten(2)[:, :4], x.flatten(2)], 2), conv=conv
    )
    randomise(model, 0)
    x = torch.randn(2, 4, 5, 20)
    agree(model, flexgroup.compile(model, (x,)), x)


def test_an_infinite_pixel_spoils_what_is_made_of_it_only():
    model = Net(lambda s, x: F.interpolate(x, scale_factor=2, mode="bilinear"))
    x = torch.randn(1, 3, 6, 7)
    compiled = flexgroup.compile(model, (x,))
    bad = x.clone()
    bad[0, 1, 2, 3] = float("inf")
    assert torch.equal(compiled(bad).isfinite(), model(bad).isfinite())
    agree(model, compiled, x)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.tuples(st.integers(1, 9), st.integers(1, 40)), st.integers(0, 9999), st.data())
def test_any_matrices_of_any_images_resize(channels, size, seed, data):
    rng = np.random.default_rng(seed)
    matrices = []
    for length in size:
        matrix = rng.normal(size=(data.draw(st.integers(1, 40)), length)).astype(np.float32)
        matrix[rng.random(matrix.shape) < data.draw(st.sampled_from([0.0, 0.7]))] = 0
        matrices.append(matrix)
    rows, columns = matrices
    shapes = {"x": (channels, *size), "y": (channels, len(rows), len(columns))}
    graph = Graph(("x",), ("y",), (Node("resize", Resize(rows, columns), ("x",), "y"),), shapes)
    x = rng.normal(size=shapes["x"]).astype(np.float32)
    target = data.draw(st.sampled_from(sorted(TARGETS)))
    (given,) = run_plan(plan_graph(graph, TARGETS[target], threads=data.draw(st.integers(1, 3))), x)
    np.testing.assert_allclose(given, rows @ x @ columns.T, atol=1e-4 * max(1.0, np.abs(given).max()))


def test_channels_share_the_threads():
    graph_rows = np.eye(8, dtype=np.float32).repeat(2, axis=0)
    shapes = {"x": (3, 8, 8), "y": (3, 16, 16)}
    graph = Graph(("x",), ("y",), (Node("up", Resize(graph_rows, graph_rows), ("x",), "y"),), shapes)
    (step,) = (step for step in plan_graph(graph, HOST, threads=2).steps if "resize" in step.kernel.name)
    assert all(part is not None for part in step.parts)


def test_results_do_not_depend_on_the_number_of_threads():
    model = build("mobilenet_v3_small").eval()
    x = torch.randn(2, 3, 64, 64)
    one, *others = (flexgroup.compile(model, (x[:1],), threads=threads)(x) for threads in (1, 2, 3))
    assert all(torch.equal(one, other) for other in others)
    net = Net(lambda s, x: F.interpolate(F.gelu(x), scale_factor=2.3, mode="bilinear"))
    one, *others = (flexgroup.compile(net, (x[:1],), threads=threads)(x) for threads in (1, 2, 3))
    assert all(torch.equal(one, other) for other in others)


def test_channels_that_are_shuffled_in_an_image_of_one_pixel_are_shuffled():
    """The image is a vector by then: a vector whose numbers change places is not the vector it was."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 1), Shuffled(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 21)]
    twins_agree(nn.Sequential(*layers).eval(), (3, 1, 1), "dense", 1.0, target=HOST, threads=1)
