"""Logarithms, the larger of two, gated linear units, local response norm, shared matrices, many axes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.graph import Curve, from_torch
from tests.graph.test_gates import Net, kinds

IMAGE, TOKENS, VECTORS = torch.randn(2, 6, 9, 7), torch.randn(2, 5, 8), torch.randn(2, 10)
LARGE = 100 * VECTORS  # of which exp overflows

LOGARITHMS = {
    "log": lambda s, x: torch.log(x.abs() + 0.5),
    "log1p": lambda s, x: torch.log1p(x.abs()),
    "log2 and log10": lambda s, x: torch.log2(x * x + 1) - torch.log10(x * x + 2),
    "softplus": lambda s, x: F.softplus(x, 3.0) + F.softplus(x - 30) + F.softplus(x + 30),
    "log sigmoid": lambda s, x: F.logsigmoid(x),
    "powers": lambda s, x: (x * x + 0.1) ** 0.75 + x.abs() ** (1 / 3) + (x.abs() + 1) ** -1.5 + x**5 / 50,
    "larger and smaller": lambda s, x: torch.maximum(x, -0.3 * x) * torch.minimum(x, x * x) + torch.max(x, x + 1),
    "than a constant": lambda s, x: torch.maximum(torch.full_like(x, 0.3), x) + torch.min(x, torch.tensor(0.2)),
    "than another's mean": lambda s, x: torch.maximum(x, x.mean(-1, keepdim=True)),
}


@pytest.mark.parametrize("x", [IMAGE, TOKENS, VECTORS], ids=["image", "tokens", "vectors"])
@pytest.mark.parametrize("name", LOGARITHMS)
def test_of_every_number(same_as_torch, name, x):
    same_as_torch(Net(LOGARITHMS[name]), x)


@pytest.mark.parametrize("x", [IMAGE, TOKENS, VECTORS, LARGE], ids=["image", "tokens", "vectors", "large"])
@pytest.mark.parametrize("dim", [1, -1])
def test_logarithms_of_softmax_and_of_sums_along_any_axis(same_as_torch, dim, x):
    same_as_torch(Net(lambda s, x: F.log_softmax(x, dim)), x)
    same_as_torch(Net(lambda s, x: x.logsumexp(dim)), x)
    same_as_torch(Net(lambda s, x: x.logsumexp(dim, keepdim=True) + x), x)


def test_a_logarithm_over_several_axes(same_as_torch):
    same_as_torch(Net(lambda s, x: x.logsumexp((2, 3))), IMAGE)


@pytest.mark.parametrize(("x", "dim"), [(IMAGE, 1), (TOKENS, -1), (TOKENS.transpose(1, 2), 1), (VECTORS, 1)])
def test_gated_linear_units(same_as_torch, x, dim):
    same_as_torch(nn.Sequential(nn.GLU(dim)), x)


def test_gates_of_what_was_permuted(same_as_torch):
    same_as_torch(Net(lambda s, x: F.glu(x.permute(0, 2, 3, 1), -1).permute(0, 3, 1, 2)), IMAGE)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0])
def test_local_response_norm(same_as_torch, size, beta):
    graph, _ = same_as_torch(nn.LocalResponseNorm(size, alpha=2.0, beta=beta, k=1.5), IMAGE)
    assert "Conv2d" in kinds(graph)


def test_the_curves_are_the_last_of_their_layers(same_as_torch):
    _, small = same_as_torch(
        nn.Sequential(nn.Conv2d(6, 4, 1), nn.Softplus(), nn.Conv2d(4, 3, 1), nn.LogSigmoid()), IMAGE
    )
    assert [getattr(node.op, "curve", "") for node in small.nodes] == ["softplus", "softplus", ""]
    graph, _ = same_as_torch(Net(lambda s, x: torch.log(x.exp())), IMAGE)
    assert [node.op for node in graph.nodes] == [Curve("exp"), Curve("log")]


def test_norms_of_windows_within_windows_have_nine_axes(same_as_torch):
    def forward(s, x):
        windows = x.view(len(x), 6, 3, 2, 2, 2, 3, 2, 2, 2).permute(0, 3, 7, 4, 8, 5, 9, 2, 6, 1)
        return (s.norm(windows) + windows).flatten(1, 8)

    same_as_torch(Net(forward, norm=nn.LayerNorm(6)), torch.randn(2, 6, 24, 24))


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: F.softplus(x, threshold=5), "its threshold is 5; from 15 on softplus is compiled"),
        (lambda x: x**9, "its exponent is 9; of whole ones 1 to 8 and their negatives are compiled"),
        (lambda x: x ** torch.arange(1.0, 8.0), "its exponents are several; use one number"),
        (lambda x: x.log_softmax(0), "it changes the first axis"),
        (lambda x: F.glu(x, 0), "it changes the first axis"),
        (lambda x: x.min(1)[0], "the smallest number along an axis is not compiled; write it as -.-x..amax"),
        (lambda x: F.avg_pool3d(x[:, None], 3)[:, 0], "3-d pools are compiled along the channels alone"),
        (lambda x: F.avg_pool3d(x[:, None], (3, 1, 1))[:, 0], "3-d pools are compiled along the channels alone"),
    ],
)
def test_what_is_not_compiled_is_told(function, what):
    with pytest.raises(FlexgroupError, match=what):
        from_torch(Net(lambda s, x: function(x)).eval(), (IMAGE,))


PRODUCTS = {
    "of one head's keys": lambda s, x: x @ x.transpose(2, 3)[:, :1],
    "of one head's queries": lambda s, x: x[:, :1] @ x.transpose(2, 3),
    "with an axis more": lambda s, x: x[:, None] @ x.transpose(2, 3)[:, :, None],
    "in attention": lambda s, x: F.scaled_dot_product_attention(x, x[:, :1], x[:, 1:2]),
    "behind positions": lambda s, x: x.permute(0, 2, 3, 1)[:, :, :, None] @ x.permute(0, 2, 3, 1)[:, :, :1, :, None],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_matrices_that_several_share(same_as_torch, name):
    same_as_torch(Net(PRODUCTS[name]), IMAGE)
    same_as_torch(Net(PRODUCTS[name]), IMAGE[:1])
