"""Transformers compile and agree with torch: any small one, any pattern of zeros, threads and target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flexgroup
from flexgroup.kernels import TARGETS, ConvKernel
from flexgroup.kernels.channels import ChannelsKernel
from tests.engine.agreement import RUNNABLE, agree, agrees_run_after_run, twins_agree
from tests.engine.networks import PATTERNS, prune, randomise
from tests.engine.networks_tokens import transformers
from tests.engine.twins import run_plan


class Net(nn.Module):
    """A module around a plain function, with layers given by keyword."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


@settings(max_examples=20, deadline=None)
@given(transformers(), st.sampled_from(PATTERNS), st.sampled_from(RUNNABLE), st.integers(1, 3), st.integers(1, 3))
def test_any_transformer_agrees_with_torch_run_after_run(case, pattern, target, threads, batch):
    model, shape = case
    agrees_run_after_run(model, shape, pattern, 0.3, target=target, threads=threads, batch=batch, examples=1)


@settings(max_examples=12, deadline=None)
@given(transformers(), st.sampled_from(PATTERNS), st.sampled_from(sorted(TARGETS)), st.integers(1, 3))
def test_the_plan_of_a_transformer_means_the_same_to_the_numpy_twins(case, pattern, target, threads):
    model, shape = case
    twins_agree(model, shape, pattern, 0.3, target=TARGETS[target], threads=threads)


TOKENS, FEATURES = 11, 12


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: x.relu(),
        lambda s, x: s.linear(x),
        lambda s, x: s.linear(x) + x,
        lambda s, x: s.linear(x)[:, 0],
        lambda s, x: s.linear(s.linear(x)[:, -1]),
        lambda s, x: s.linear(x)[:, 1::3],
        lambda s, x: s.linear(x)[..., 2:9:2],
        lambda s, x: s.linear(x).mean(1),
        lambda s, x: s.linear(x).mean(-1),
        lambda s, x: s.linear(x).mean((1, 2), keepdim=True),
        lambda s, x: s.mixer(s.linear(x).transpose(1, 2)).transpose(1, 2),
        lambda s, x: s.norm(x.flatten(1).view(x.shape[0], TOKENS, FEATURES)),
        lambda s, x: s.linear(x).view(x.shape[0], TOKENS * 3, 4) * 2,
        lambda s, x: torch.cat([x, s.linear(x)], 1),
        lambda s, x: torch.cat([x, s.linear(x)], -1),
        lambda s, x: torch.cat([x[:, :, 3:], s.linear(x)[:, :, :2]], -1),
        lambda s, x: torch.cat(s.linear(x).chunk(5, -1)[::-1], -1),
        lambda s, x: torch.stack([x, s.linear(x)], 1),
        lambda s, x: torch.stack(s.linear(x).unbind(1)[::-1], 1),
        lambda s, x: x @ s.linear(x).transpose(1, 2),
        lambda s, x: s.linear(x).transpose(1, 2) @ x,
        lambda s, x: x.transpose(1, 2) @ (x @ s.linear(x).mT),
        lambda s, x: F.scaled_dot_product_attention(x, s.linear(x), s.linear(x)[:, :, :5]),
        lambda s, x: F.scaled_dot_product_attention(x[:, :4], s.linear(x), x),
        lambda s, x: s.linear(s.rms(x)) + s.rms(x),
        lambda s, x: F.rms_norm(s.linear(x), (TOKENS, FEATURES)),
        lambda s, x: x.softmax(-1),
        lambda s, x: s.linear(x).softmax(1),
        lambda s, x: (s.linear(x) @ x.mT).softmax(-1).mean(1) + (x @ x.mT).softmax(1)[:, 3],
        lambda s, x: s.linear(x).view(x.shape[0], TOKENS, 3, 4).transpose(1, 2).softmax(-1),
        lambda s, x: s.linear(x).view(x.shape[0], TOKENS, 3, 4).softmax(2),
        lambda s, x: s.linear(x[:, 0]).softmax(-1),
        lambda s, x: s.attention(x, s.linear(x), x),
        lambda s, x: x + s.position,
        lambda s, x: s.linear(x * s.gamma) * s.gamma,
        lambda s, x: s.linear(x) * s.gamma + x,
        lambda s, x: (s.linear(x), x.relu()),
    ],
)
def test_operators_on_tokens(function):
    layers = {
        "linear": nn.Linear(FEATURES, FEATURES),
        "norm": nn.LayerNorm(FEATURES),
        "rms": nn.RMSNorm(FEATURES),
        "mixer": nn.Linear(TOKENS, TOKENS),
        "attention": nn.MultiheadAttention(FEATURES, 3, batch_first=True),
        "position": nn.Parameter(torch.zeros(1, TOKENS, FEATURES)),
        "gamma": nn.Parameter(torch.zeros(FEATURES)),
    }
    model = Net(function, **layers)
    randomise(model, 1)
    check(model, torch.randn(3, TOKENS, FEATURES))


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda s, x: s.linear(s.norm(s.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2) + x,
        lambda s, x: s.conv(s.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        lambda s, x: s.linear(s.conv(x).flatten(2).mT),
        lambda s, x: s.linear(s.conv(x).flatten(2).mT)[:, 0],
        lambda s, x: s.linear(s.conv(x).permute(0, 2, 3, 1) * s.gamma).mean((1, 2)),
        lambda s, x: s.conv(x.transpose(2, 3)),
        lambda s, x: s.conv(x).view(x.shape[0], 2, 3, 5, 7).permute(0, 2, 1, 3, 4).reshape(x.shape),
        lambda s, x: s.conv(x).mean(2),
        lambda s, x: s.conv(s.conv(x).softmax(1)),
        lambda s, x: s.conv(x).softmax(3),
        lambda s, x: F.channel_shuffle(s.conv(x), 3).relu(),
        lambda s, x: F.pixel_shuffle(torch.cat([x, s.conv(x)], 1), 2),
        lambda s, x: s.conv(x) + s.column,
    ],
)
def test_images_become_tokens_and_tokens_images(function):
    layers = {
        "conv": nn.Conv2d(6, 6, 3, padding=1),
        "norm": nn.LayerNorm(6),
        "linear": nn.Linear(6, 6),
        "gamma": nn.Parameter(torch.zeros(6)),
        "column": nn.Parameter(torch.zeros(7)),
    }
    model = Net(function, **layers)
    randomise(model, 2)
    check(model, torch.randn(3, 6, 5, 7))


def check(model, x):
    """Natively and to the twins, the compiled network is the model."""
    compiled = flexgroup.compile(model, (x[:1],), threads=2)
    with torch.no_grad():
        expected = model(x)
    given, mean = compiled(x), run_plan(compiled.plan, x[0].numpy())
    wanted = expected if isinstance(expected, tuple) else (expected,)
    for want, have, twin in zip(wanted, given if isinstance(given, tuple) else (given,), mean, strict=True):
        assert have.shape == want.shape
        scale = float(want.abs().max())
        assert float((want - have).abs().max()) <= 1e-5 * scale
        np.testing.assert_allclose(twin, want[0].numpy(), atol=1e-5 * scale)


class Window(nn.Module):
    """Attention within windows of an image, shifted by one pixel first, as in Swin transformers."""

    def __init__(self, size: int, channels: int, heads: int) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros(heads, size * size, size * size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, channels = x.shape
        size, shifted = self.size, x.roll((-1, -1), (1, 2))
        windows = shifted.view(batch, height // size, size, width // size, size, channels).transpose(2, 3)
        windows = windows.reshape(-1, size * size, channels)
        qkv = self.qkv(windows).reshape(len(windows), size * size, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].mT + self.bias).softmax(-1)
        y = self.proj((weights @ qkv[2]).transpose(1, 2).reshape(windows.shape))
        y = y.view(batch, height // size, width // size, size, size, channels).transpose(2, 3).reshape(x.shape)
        return x + y.roll((1, 1), (1, 2))


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_tiles_of_a_softmax_that_overlap_stay_on_one_thread(threads):
    """The output holds exponentials before it is divided by their sum: two threads would spoil each other's."""
    for height in range(1, 24):
        network = Net(lambda s, x: s.conv(x).softmax(1), conv=nn.Conv2d(2, 2, 1))
        plan = flexgroup.compile(network, (torch.randn(1, 2, height, 7),), threads=threads).plan
        (step,) = (step for step in plan.steps if step.kernel.name.startswith("softmax"))
        parts = [dict(zip(step.kernel.signature.fields, part, strict=True)) for part in step.parts if part]
        starts = [
            [min(tile * step.kernel.tile, part["last_start"]) for tile in range(part["first"], part["last"])]
            for part in parts
        ]
        written = [{start + i for start in of_part for i in range(step.kernel.tile)} for of_part in starts]
        assert sum(map(len, written)) == len(set().union(*written)), height


def test_attention_within_windows():
    model = nn.Sequential(Window(2, 8, 2), Window(3, 8, 2))
    randomise(model, 0)
    check(model, torch.randn(3, 6, 12, 8))


def test_the_padding_of_a_batch_is_hidden():
    def attend(s, x, mask):
        q = x.view(x.shape[0], 9, 2, 4).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, s.scale * q, (1 - mask[:, None, None, :]) * -1e9)

    model = Net(attend, scale=nn.Parameter(torch.ones(())))
    x, mask = torch.randn(3, 9, 8), torch.ones(3, 9)
    mask[0, 5:] = mask[2, 2:] = 0
    compiled = flexgroup.compile(model, (x[:1], mask[:1]), threads=2)
    assert torch.allclose(compiled(x, mask), model(x, mask), atol=1e-6)
    (twin,) = run_plan(compiled.plan, x[2].numpy(), mask[2].numpy())
    np.testing.assert_allclose(twin, model(x, mask)[2].detach().numpy(), atol=1e-6)
    x[0, 5:] = 1e3
    assert torch.equal(compiled(x, mask)[0, :, :5], compiled(x, mask)[0, :, :5])


@pytest.mark.parametrize("pattern", ["dense", "4x1 rows"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_own_encoder_layer_is_the_same_for_any_thread_count(pattern, norm_first):
    model = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True, norm_first=norm_first)
    randomise(model, 0)
    prune(model, pattern, 0.2)
    x = torch.randn(3, 37, 24)
    outputs = []
    for threads in (1, 2, 3):
        compiled = flexgroup.compile(model, (x[:1],), threads=threads)
        agree(model, compiled, x)
        outputs.append(compiled(x))
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_heads_residuals_and_convnext_blocks_take_no_copies():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    kernels = [step.kernel for step in flexgroup.compile(layer, (torch.randn(1, 9, 16),)).plan.steps]
    # The caller's array, of whole vectors or not, is taken apart, and put together again: nothing else moves.
    families = [kernel.name.split("_")[0].replace("transpose", "gather") for kernel in kernels]
    assert families == ["gather", "conv", "attention", "conv", "layer", "conv", "conv", "layer", "gather"]
    assert sum(isinstance(kernel, ConvKernel | ChannelsKernel) and kernel.residual for kernel in kernels) == 2
    block = Net(
        lambda s, x: s.linear(s.norm(s.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        conv=nn.Conv2d(6, 6, 7, padding=3, groups=6),
        norm=nn.LayerNorm(6),
        linear=nn.Linear(6, 6),
    )
    steps = flexgroup.compile(block, (torch.randn(1, 6, 9, 7),)).plan.steps
    families = [step.kernel.name.split("_")[0] for step in steps]
    assert [each for each in families if each != "fill"] == ["copy", "depthwise", "layer", "conv", "copy"]


def test_zeros_shorten_linear_layers_over_tokens():
    model = nn.Sequential(nn.Linear(64, 64))
    randomise(model, 0)
    prune(model, "4x1 rows", 0.1)
    (layer,) = flexgroup.compile(model, (torch.randn(1, 50, 64),)).explain().layers
    assert "ring" in layer.kernel
    assert layer.macs < 0.2 * layer.dense_macs == 0.2 * 50 * 64 * 64


def test_attention_is_a_layer_of_the_profile_and_of_the_explanation():
    x = torch.randn(1, 20, 8)
    compiled = flexgroup.compile(Net(lambda s, x: F.scaled_dot_product_attention(x, x, x)), (x,))
    (layer,) = compiled.explain().layers
    assert layer.macs == layer.dense_macs == 20 * 20 * (8 + 8)
    assert any(row.kernel.startswith("attention_f32_") for row in compiled.profile(x, rounds=1).rows)
