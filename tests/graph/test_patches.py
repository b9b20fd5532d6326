"""Patches, copies of axes, images within the batch: what they lower to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.graph import from_torch, optimize
from flexgroup.graph.ir import AvgPool2d, Conv2d, MaxPool2d
from tests.graph.test_gates import Net, kinds

IMAGE, TOKENS, VECTOR = torch.randn(2, 6, 9, 8), torch.randn(2, 12, 8), torch.randn(2, 12)

PATCHES = {
    "side by side": lambda s, x: F.unfold(x, (3, 2), stride=(3, 2)),
    "side by side, with rows left over": lambda s, x: F.unfold(x, 2, stride=2),
    "overlapping": lambda s, x: F.unfold(x, 3, padding=1, stride=2),
    "with gaps": lambda s, x: F.unfold(x, (2, 3), dilation=(2, 1), stride=(1, 2)),
    "and back": lambda s, x: F.fold(F.unfold(x, (3, 2), stride=(3, 2)).relu(), (9, 8), (3, 2), stride=(3, 2)),
    "and back, summed": lambda s, x: F.fold(F.unfold(x, 3, padding=1, stride=2), (9, 8), 3, padding=1, stride=2),
    "along an axis": lambda s, x: x.unfold(3, 2, 2),
    "along an axis, overlapping": lambda s, x: x.unfold(2, 4, 2).unfold(3, 3, 1),
}

COPIES = {
    "of channels": (lambda s, x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, 1), IMAGE),
    "of rows and columns": (lambda s, x: x.repeat(1, 1, 2, 3), IMAGE),
    "of pixels": (lambda s, x: x.repeat_interleave(2, -1).repeat_interleave(3, -2), IMAGE),
    "of vectors": (lambda s, x: torch.tile(x[:, None], (5, 1)), VECTOR),
    "of images": (lambda s, x: x.repeat_interleave(3, 0).view(-1, 3, 12, 8).mean(1), TOKENS),
    "of batches": (lambda s, x: torch.stack([x, x.relu()]).mean(0), VECTOR),
}


def same(same_as_torch, function, x, **layers):
    model = Net(function, **layers).eval()
    return same_as_torch(model, x)


@pytest.mark.parametrize("name", PATCHES)
def test_patches_are_what_torch_makes_of_them(same_as_torch, name):
    same(same_as_torch, PATCHES[name], IMAGE)


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_axes(same_as_torch, name):
    same(same_as_torch, *COPIES[name])


def test_patches_that_lie_side_by_side_are_views():
    graph = optimize(
        from_torch(Net(lambda s, x: F.unfold(x, 3, stride=3).mT.reshape(-1, 6, 6, 9)), (IMAGE[..., :9, :6],))
    )
    assert "Conv2d" not in kinds(graph)


def in_windows(s, x):
    """A convolution within windows that are folded into the batch, as in EfficientViT (arXiv 2305.07027)."""
    batch, channels, height, width = x.shape
    windows = (
        x.view(batch, channels, height // 3, 3, width // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 3, 4, channels)
    )
    done = s.norm(s.conv(windows.permute(0, 3, 1, 2))).relu().permute(0, 2, 3, 1)
    apart = done.view(batch, height // 3, width // 4, 3, 4, channels)
    return apart.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def test_a_convolution_of_windows_in_the_batch_has_weights_for_each(same_as_torch):
    norm = nn.BatchNorm2d(6)
    norm.running_mean.uniform_(-1, 1)
    for groups in (1, 2, 6):
        conv = nn.Conv2d(6, 6, 3, padding=1, groups=groups)
        _, graph = same(same_as_torch, in_windows, IMAGE, conv=conv, norm=norm)
        (op,) = (node.op for node in graph.nodes if isinstance(node.op, Conv2d))
        assert (len(op.weight), op.groups) == (6 * 6, 6 * groups)


def joined_in_windows(s, x):
    """Concatenation and padding behind a folded batch, of activations and of what is the same in every image."""
    windows = x.reshape(-1, 4, 8)
    banks = s.bank.expand(len(x), 3, 4, 2).reshape(-1, 4, 2)
    wide = F.pad(torch.cat([windows, banks, windows.relu()], 2), (1, 0, 0, 2), value=0.5)
    return torch.cat([wide, wide[:, :1]], 1).reshape(len(x), 3, 7, 19)


def test_windows_in_the_batch_are_joined(same_as_torch):
    same(same_as_torch, joined_in_windows, TOKENS, bank=nn.Parameter(torch.randn(3, 4, 2)))


MATRICES = {
    "on the left": lambda s, x: s.bank @ x.view(-1, 4, 3, 8),
    "on the right": lambda s, x: x.view(-1, 4, 3, 8) @ s.bank.mT,
    "in the batch": lambda s, x: torch.bmm(
        s.bank.expand(len(x), 4, 5, 8).reshape(-1, 5, 8)[:, :, :3], x.reshape(-1, 3, 8)
    ).view(-1, 4, 5, 8),
    "einsum": lambda s, x: torch.einsum("bhqc,hkc->bhqk", x.view(-1, 4, 3, 8), s.bank[:, :, :8]),
    "einsum with rows": lambda s, x: torch.einsum("bqhc,hkc->bqhk", x.view(-1, 3, 4, 8), s.bank),
}


@pytest.mark.parametrize("name", MATRICES)
def test_products_with_constant_matrices(same_as_torch, name):
    bank = nn.Parameter(torch.randn(4, 5, 3 if name == "on the left" else 8))
    same(same_as_torch, MATRICES[name], TOKENS, bank=bank)


def with_mask(s, x):
    q = x.view(-1, 12, 2, 4).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q, s.bias(q).relu(), scale=0.3)


def in_folded_windows(s, x):
    """Attention in windows that are folded into the batch, with a mask for every window."""
    q = x.reshape(-1, 4, 2, 4).transpose(1, 2)
    mask = s.mask.expand(len(x), 3, 2, 4, 4).reshape(-1, 2, 4, 4)
    return F.scaled_dot_product_attention(q, q, q, mask).transpose(1, 2).reshape(x.shape)


def learned_queries(s, x):
    """Queries that are the same for every image, as in the decoder of DETR (arXiv 2005.12872), section 3.2."""
    keys = x.view(-1, 12, 2, 4).transpose(1, 2)
    return F.scaled_dot_product_attention(s.queries.expand(len(x), -1, -1, -1), keys, keys)


def test_queries_may_be_constants(same_as_torch):
    _, graph = same(same_as_torch, learned_queries, TOKENS, queries=nn.Parameter(torch.randn(1, 2, 5, 4)))
    assert "Attention" in kinds(graph)


def test_masks_of_attention(same_as_torch):
    _, graph = same(same_as_torch, with_mask, TOKENS, bias=nn.Linear(4, 12))
    assert "Attention" not in kinds(graph)
    _, graph = same(same_as_torch, in_folded_windows, TOKENS, mask=nn.Parameter(torch.randn(3, 2, 4, 4)))
    assert "Attention" in kinds(graph)


MAXIMA = {
    "of tokens": (lambda s, x: x.max(1)[0] + x.amax(1), TOKENS),
    "of channels": (lambda s, x: x.amax(1, keepdim=True), IMAGE),
    "of rows": (lambda s, x: x.max(2, keepdim=True).values, IMAGE),
    "of all but the batch": (lambda s, x: x.amax((1, 2, 3)), IMAGE),
    "in windows": (lambda s, x: x.reshape(-1, 3, 8).amax(1).view(-1, 4, 8), TOKENS),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_largest_numbers_along_any_axes(same_as_torch, name):
    same(same_as_torch, *MAXIMA[name])


@pytest.mark.parametrize("counted", [False, True])
def test_a_window_sees_no_more_than_the_image(same_as_torch, counted):
    """As in the EfficientNets of transformers, whose last pool is as large as it has channels."""
    pool = nn.AvgPool2d(1280, ceil_mode=True, count_include_pad=counted)
    _, graph = same_as_torch(nn.Sequential(pool, nn.Flatten()), IMAGE)
    assert kinds(graph)[0] == "GlobalMean"
    _, graph = same_as_torch(nn.MaxPool2d((40, 3), (40, 2), (20, 1), ceil_mode=True), IMAGE)
    (op,) = (node.op for node in graph.nodes)
    assert isinstance(op, MaxPool2d)
    assert (op.kernel, op.padding) == ((9, 3), (0, 0, 1, 2))
    _, graph = same_as_torch(nn.AvgPool2d(3, 2, 1, True, counted), IMAGE)
    assert any(isinstance(node.op, AvgPool2d) for node in graph.nodes)


def test_empty_parts_of_a_concatenation_are_nothing(same_as_torch):
    same(
        same_as_torch,
        lambda s, x: torch.cat([x, s.registers.expand(len(x), -1, -1)], 1),
        TOKENS,
        registers=nn.Parameter(torch.zeros(1, 0, 8)),
    )


def test_one_matrix_in_an_einsum_is_a_linear_layer(same_as_torch):
    """Zeros of a linear layer are skipped; those of a product of activations are not."""
    for equation, shape in (("bnc,cd->bnd", (8, 5)), ("bnc,hcd->bnhd", (2, 8, 5)), ("mn,bnc->bmc", (7, 12))):

        def product(s, x, equation=equation):
            first, second = (s.weight, x) if equation.startswith("m") else (x, s.weight)
            return torch.einsum(equation, first, second)

        _, graph = same(same_as_torch, product, TOKENS, weight=nn.Parameter(torch.randn(shape)))
        assert "MatMul" not in kinds(graph)
        assert "Linear" in kinds(graph)


def test_products_with_vectors(same_as_torch):
    same(same_as_torch, lambda s, x: x @ s.right + (s.left @ x).sum(1, keepdim=True), TOKENS, **vectors())


def vectors():
    return {"right": nn.Parameter(torch.randn(8)), "left": nn.Parameter(torch.randn(12))}


LONG = torch.randn(2, 3, 660)

LARGEST = {
    "kept": (lambda s, x: x.amax((1, 2, 3), keepdim=True) * x, IMAGE),
    "of vectors": (lambda s, x: x - x.max(1, keepdim=True)[0], VECTOR),
    "of many": (lambda s, x: (x - 5).amax(-1), LONG),
    "in folded windows": (lambda s, x: x.view(-1, 3, 9, 8)[:, None].amax((2, 3)).reshape(len(x), -1), IMAGE),
}


@pytest.mark.parametrize("name", LARGEST)
def test_largest_numbers_that_something_reads(same_as_torch, name):
    same(same_as_torch, *LARGEST[name])


REFUSED = [
    (lambda s, x: (x.permute(1, 0, 2) @ s.each).permute(1, 0, 2), TOKENS, "it multiplies along the batch"),
    (lambda s, x: s.conv(x), IMAGE[0], "reads a value of shape"),
    (lambda s, x: x.repeat_interleave(0, 1), TOKENS, "its result is empty"),
    (lambda s, x: x.repeat(1, 0, 1), TOKENS, "its result is empty"),
    (lambda s, x: F.fold(x.reshape(-1, 8, 4), (4, 4), 2, stride=2).reshape(len(x), -1), TOKENS, "first axis"),
    (lambda s, x: s.wide(x.reshape(-1, 6, 3, 4)).reshape(len(x), -1), torch.randn(2, 6, 300, 400), "keep the batch"),
]


@pytest.mark.parametrize(("function", "x", "message"), REFUSED)
def test_what_is_not_compiled_says_so(function, x, message):
    layers = {"each": nn.Parameter(torch.randn(12, 8, 5)), "conv": nn.Conv2d(6, 5, 3), "wide": nn.Conv2d(6, 6, 3)}
    with pytest.raises(FlexgroupError, match=message):
        from_torch(Net(function, **layers).eval(), (x,))


def test_one_image_joined_with_constants(same_as_torch):
    """A network for one image only: there is no batch to be seen among its axes."""
    one, bank = torch.randn(1, 12, 8), nn.Parameter(torch.randn(1, 1, 2))
    model = Net(lambda s, x: torch.cat([x.view(3, 4, 8), s.bank.expand(3, 4, 2)], 2).view(1, 12, 10), bank=bank)
    same_as_torch(model, one, batch=1)
    same_as_torch(
        Net(lambda s, x: F.pad(x.view(1, 3, 4, 8).permute(1, 2, 0, 3), (1, 1)).permute(2, 0, 1, 3)), one, batch=1
    )
