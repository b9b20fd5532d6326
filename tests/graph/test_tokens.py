"""Sequences, views with the batch anywhere, attention: the graph means what torch means."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.graph import Graph, Node, from_torch, ir, optimize
from flexgroup.graph._early_slices import slice_early
from flexgroup.graph._factors import regrouped, size_of, whole
from flexgroup.graph._passes_tokens import find_attention, fold_norm, fold_scales
from flexgroup.graph._validate import check, infer_shape
from flexgroup.graph.evaluate import evaluate


class Net(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def kinds(graph):
    return Counter(type(node.op).__name__ for node in graph.nodes)


def index_of(axis, index):
    """Where index ``index`` of an axis lies, along every stored axis."""
    at = {}
    for factor in reversed(axis):
        index, digit = divmod(index, factor.size)
        at[factor.axis] = at.get(factor.axis, 0) + digit * factor.step
    return at


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_factors_follow_numpy_through_any_reshapes_and_permutations(data):
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    numbers = np.arange(np.prod(shape)).reshape(shape)
    axes, array = whole(shape), numbers
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(array.ndim)))
            axes, array = tuple(axes[i] for i in order), array.transpose(order)
        else:
            size, new = array.size, []
            while size > 1 and len(new) < 4:
                new.append(data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0])))
                size //= new[-1]
            grouped = regrouped(axes, [*new, size])
            if grouped is None:  # a reshape that cuts no factor evenly
                continue
            axes, array = grouped, array.reshape([*new, size])
        assert tuple(map(size_of, axes)) == array.shape
    for index in np.ndindex(*array.shape):
        at = [0] * len(shape)
        for axis, i in zip(axes, index, strict=True):
            for stored, position in index_of(axis, i).items():
                at[stored] += position
        assert array[index] == numbers[tuple(at)]


def attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def heads(x, count=2):
    return x.view(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: s.norm(x),
        lambda s, x: s.linear(s.rms(x)),
        lambda s, x: s.linear(x) + x,
        lambda s, x: s.linear(x.transpose(0, 1)).transpose(0, 1),
        lambda s, x: s.linear(x.transpose(0, 1).reshape(-1, 6)).view(4, -1, 6).transpose(0, 1) + x,
        lambda s, x: s.norm(x.reshape(-1, 6)).relu().view(x.shape) * 2 + s.linear.bias,
        lambda s, x: (x.reshape(-1, 6) + torch.arange(6.0)).view(x.shape),
        lambda s, x: x[:, 0],
        lambda s, x: x[:, 1:3, ::2],
        lambda s, x: x.unsqueeze(1).squeeze(1).movedim(1, 2).swapaxes(1, 2),
        lambda s, x: x.view(-1, 2, 2, 6).select(2, 1).flatten(1),
        lambda s, x: x.view(-1, 4, 3, 2)[:, :, 1],
        lambda s, x: torch.cat(s.linear(x).split([1, 3, 2], -1)[::-1], -1),
        lambda s, x: torch.cat([x, torch.ones(x.shape[0], 1, 6)], 1),
        lambda s, x: torch.stack([x, x * 2], 2).flatten(2),
        lambda s, x: x.mean(1),
        lambda s, x: x.mean(-1, keepdim=True),
        lambda s, x: x.mean((1, 2)).unsqueeze(1),
        lambda s, x: x + torch.arange(24.0).view(1, 4, 6),
        lambda s, x: 3 - x * torch.arange(6.0),
        lambda s, x: x @ torch.ones(6, 5),
        lambda s, x: x @ x.mT,
        lambda s, x: torch.bmm(x.mT, x),
        lambda s, x: attend(heads(x), heads(s.linear(x)), heads(x)).transpose(1, 2).reshape(x.shape),
        lambda s, x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.7),
        lambda s, x: F.scaled_dot_product_attention(x, x, x, torch.ones(4, 4).tril() > 0),
        lambda s, x: F.scaled_dot_product_attention(x, x, x, torch.arange(16.0).view(1, 4, 4)),
        lambda s, x: s.attention(x, x, x, need_weights=False)[0],
        lambda s, x: s.attention(x, s.linear(x), x[:, :, :])[0],
        lambda s, x: s.layer(x),
        lambda s, x: torch.einsum("bnc,bmc->bnm", x, s.linear(x)),
        lambda s, x: torch.einsum("bnc,bnd->bdc", x, s.linear(x)),
        lambda s, x: torch.einsum("bnc,dc->bnd", x, s.linear.weight),
        lambda s, x: torch.einsum("mn,bnc->bmc", torch.arange(20.0).view(5, 4), x),
        lambda s, x: torch.einsum("bhid,bjhd->bijh", heads(x), x.view(x.shape[0], 4, 2, 3)),
        lambda s, x: torch.arange(20.0).view(5, 4) @ x,
        lambda s, x: x.roll((1, -2), (1, 2)),
        lambda s, x: x.softmax(-1),
        lambda s, x: x.softmax(1),
        lambda s, x: (x.transpose(0, 1) * 2).softmax(0).transpose(0, 1),
        lambda s, x: torch.softmax(x @ x.mT / 3 + torch.ones(4, 4).triu(1) * -9.0, -1) @ x,
        lambda s, x: F.layer_norm(x, (4, 6)),
    ],
)
def test_functions_of_sequences_for_any_batch_of_the_example(same_as_torch, function, batch):
    layers = {
        "norm": nn.LayerNorm(6),
        "rms": nn.RMSNorm(6),
        "linear": nn.Linear(6, 6),
        "attention": nn.MultiheadAttention(6, 2, batch_first=True),
        "layer": nn.TransformerEncoderLayer(6, 3, 8, batch_first=True),
    }
    same_as_torch(Net(function, **layers), torch.randn(batch, 4, 6))


def test_tokens_of_images(same_as_torch):
    layers = {"norm": nn.LayerNorm(5), "linear": nn.Linear(5, 5), "conv": nn.Conv2d(3, 5, 2, 2)}
    for function in (
        lambda s, x: s.linear(s.conv(x).flatten(2).transpose(1, 2)),
        lambda s, x: s.norm(s.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda s, x: s.linear(s.conv(x).permute(0, 2, 3, 1)).mean((1, 2)),
        lambda s, x: s.conv(x).flatten(2).mean(-1),
    ):
        same_as_torch(Net(function, **layers), torch.randn(1, 3, 4, 6))


def test_shuffles_are_permutations(same_as_torch):
    x = torch.randn(1, 8, 4, 6)
    for layer in (nn.ChannelShuffle(4), nn.PixelShuffle(2), nn.PixelUnshuffle(2)):
        same_as_torch(layer, x)


def test_the_mean_over_an_image_is_a_global_mean_however_it_is_written(same_as_torch):
    for function in (lambda s, x: x.flatten(2).mean(2), lambda s, x: x.mean((2, 3)), lambda s, x: x.mean((3, 2))):
        _, small = same_as_torch(Net(function), torch.randn(1, 3, 4, 6))
        assert kinds(small) == {"GlobalMean": 1}


def test_moving_the_batch_takes_no_nodes():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    graph = from_torch(layer, (torch.randn(1, 5, 8),))
    assert all(node.op.axes != (1, 0) for node in graph.nodes if isinstance(node.op, ir.Permute))
    small = kinds(optimize(graph))
    assert small["Linear"] == 4
    assert small["Add"] == small["Clamp"] == 0, "residuals and relu are the linear layers'"
    assert small["Attention"] == 1


def test_attention_along_the_batch_is_refused_even_for_a_batch_of_one():
    layer = nn.TransformerEncoderLayer(8, 2, 16)  # batch_first=False, but the batch comes first
    with pytest.raises(FlexgroupError, match="multiplies along the batch; keep the batch apart and first"):
        from_torch(layer, (torch.randn(1, 5, 8),))


def graph_of(shape, *nodes):
    """A graph of one input ``x`` from (operator, inputs, output), its last value the output."""
    shapes = {"x": shape}
    made = []
    for op, inputs, output in nodes:
        shapes[output] = infer_shape(op, *(shapes[name] for name in inputs))
        made.append(Node(output, op, tuple(inputs), output))
    return Graph(("x",), (made[-1].output,), tuple(made), shapes)


def same(before, after):
    check(after)
    x = np.random.default_rng(0).standard_normal((3, *before.shapes["x"]))
    for one, other in zip(evaluate(before, [x]), evaluate(after, [x]), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def numbers(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


SWAP = ir.Permute((0, 2, 1))
QKV = [
    (ir.Reshape((5, 2, 3)), ["x"], "apart"),
    (ir.Permute((1, 0, 2)), ["apart"], "q"),
    (ir.Clamp(0.0), ["q"], "k"),
    (SWAP, ["k"], "kt"),
]


def test_attention_that_is_written_out_is_found_with_its_scale_and_mask():
    mask = numbers(2, 5, 5)
    mask[:, 1, 2] = -np.inf
    written = graph_of(
        (5, 6),
        *QKV,
        (ir.Affine(np.full(2, 0.5, np.float32), np.zeros(2, np.float32)), ["q"], "halved"),
        (ir.MatMul(), ["halved", "kt"], "scores"),
        (ir.Affine(np.full(2, 3.0, np.float32), np.zeros(2, np.float32)), ["scores"], "scaled"),
        (ir.Constant(mask), [], "mask"),
        (ir.Add(), ["mask", "scaled"], "masked"),
        (ir.Softmax(2), ["masked"], "weights"),
        (ir.MatMul(), ["weights", "q"], "y"),
    )
    small = optimize(written)
    same(written, small)
    assert not kinds(small).keys() & {"Softmax", "MatMul", "Add", "Affine", "Constant"}
    (attention,) = (node.op for node in small.nodes if isinstance(node.op, ir.Attention))
    assert attention.scale == 1.5
    np.testing.assert_array_equal(attention.mask, mask)
    assert sum(isinstance(node.op, ir.Permute) for node in small.nodes) == 1, "the key is not transposed any more"


def hidden(mask):
    """A mask of ones and zeros as numbers to add to scores, as BERT makes them."""
    return (1 - mask[:, None, None, :]) * -1e4


def test_masks_for_the_padding_of_a_batch(same_as_torch):
    def attend_hidden(s, x, mask):
        return F.scaled_dot_product_attention(heads(x), heads(x), heads(x), hidden(mask), scale=0.5)

    _, small = same_as_torch(Net(attend_hidden), torch.randn(1, 4, 6), torch.ones(1, 4))
    (attention,) = (node for node in small.nodes if isinstance(node.op, ir.Attention))
    assert small.shapes[attention.inputs[3]] == (4,)


def test_masks_for_padding_are_found_in_attention_that_is_written_out():
    written = graph_of(
        (5, 6),
        *QKV,
        (ir.MatMul(), ["q", "kt"], "scores"),
        (ir.Slice(1, 2, 3), ["x"], "column"),
        (ir.Reshape((1, 1, 5)), ["column"], "mask"),
        (ir.Add(), ["scores", "mask"], "masked"),
        (ir.Softmax(2), ["masked"], "weights"),
        (ir.MatMul(), ["weights", "q"], "y"),
    )
    small = optimize(written)
    same(written, small)
    assert not kinds(small).keys() & {"Softmax", "MatMul", "Add"}


def test_what_only_looks_like_attention_is_left_alone():
    for ending in (
        [(ir.Softmax(1), ["scores"], "weights"), (ir.MatMul(), ["weights", "q"], "y")],
        [(ir.Softmax(2), ["scores"], "weights"), (ir.MatMul(), ["weights", "weights"], "y")],
        [
            (ir.Softmax(2), ["scores"], "weights"),
            (ir.MatMul(), ["weights", "q"], "z"),
            (ir.MatMul(), ["weights", "z"], "y"),
        ],
    ):
        graph = graph_of((5, 6), *QKV, (ir.MatMul(), ["q", "kt"], "scores"), *ending)
        assert find_attention(graph) is graph


def test_scales_of_both_operands_go_into_the_product():
    graph = graph_of(
        (4, 4),
        (ir.Affine(np.full(4, 2.0, np.float32), np.zeros(4, np.float32)), ["x"], "a"),
        (ir.Affine(np.full(4, 3.0, np.float32), np.zeros(4, np.float32), axis=1), ["x"], "b"),
        (ir.MatMul(0.5), ["a", "b"], "y"),
    )
    folded = fold_scales(graph)
    same(graph, folded)
    assert folded.nodes[-1].op == ir.MatMul(3.0)
    assert folded.nodes[-1].inputs == ("x", "x")


def test_scales_go_into_the_product_past_what_only_moves_numbers():
    double = ir.Affine(np.full(4, 2.0, np.float32), np.zeros(4, np.float32))
    graph = graph_of(
        (4, 6),
        (double, ["x"], "a"),
        (ir.Slice(0, 1, 4), ["a"], "cut"),
        (ir.Permute((1, 0)), ["cut"], "turned"),
        (ir.Slice(0, 0, 3), ["x"], "b"),
        (ir.MatMul(), ["b", "turned"], "y"),
    )
    folded = fold_scales(graph)
    same(graph, folded)
    assert folded.nodes[-1].op == ir.MatMul(2.0)
    assert next(node for node in folded.nodes if node.output == "cut").inputs == ("x",)


def test_a_scaled_value_that_others_read_too_stays_scaled():
    double = ir.Affine(np.full(4, 2.0, np.float32), np.zeros(4, np.float32))
    graph = graph_of(
        (4, 4),
        (double, ["x"], "a"),
        (ir.Permute((1, 0)), ["a"], "turned"),
        (ir.MatMul(), ["x", "turned"], "product"),
        (ir.Add(), ["product", "turned"], "y"),
    )
    assert fold_scales(graph) is graph


def norm(size):
    return ir.LayerNorm(numbers(size), numbers(size, 1)[:, 0], 1e-5)


def test_a_layer_norm_that_only_linear_layers_read_keeps_no_weights_of_its_own():
    graph = graph_of(
        (5, 6),
        (norm(6), ["x"], "normed"),
        (ir.Linear(numbers(6, 6), numbers(6)), ["normed"], "a"),
        (ir.Linear(numbers(6, 6), numbers(6)), ["normed", "a"], "y"),
    )
    folded = fold_norm(graph)
    same(graph, folded)
    assert (folded.nodes[0].op.weight == 1).all()
    assert not folded.nodes[0].op.bias.any()
    assert fold_norm(folded) is folded


def test_a_layer_norm_that_others_read_too_keeps_its_weights():
    for ending in (
        [(ir.Linear(numbers(6, 6), numbers(6)), ["normed"], "a"), (ir.Add(), ["a", "normed"], "y")],
        [(ir.Linear(numbers(6, 6), numbers(6)), ["normed", "normed"], "y")],
    ):
        graph = graph_of((5, 6), (norm(6), ["x"], "normed"), *ending)
        assert fold_norm(graph) is graph


def test_only_the_class_token_is_computed_where_only_it_is_read():
    graph = graph_of(
        (5, 6),
        *QKV,
        (ir.Attention(0.7), ["q", "k", "q"], "attended"),
        (ir.Permute((1, 0, 2)), ["attended"], "back"),
        (ir.Reshape((5, 6)), ["back"], "joined"),
        (ir.Linear(numbers(6, 6), numbers(6)), ["joined", "x"], "a"),
        (norm(6), ["a"], "normed"),
        (ir.Linear(numbers(6, 6), numbers(6), curve="gelu"), ["normed"], "hidden"),
        (ir.Linear(numbers(6, 6), numbers(6)), ["hidden", "a"], "b"),
        (ir.Slice(0, 0, 1), ["b"], "first"),
        (ir.Flatten(), ["first"], "y"),
    )
    small = optimize(graph)
    same(graph, small)
    for node in small.nodes:
        if isinstance(node.op, ir.Attention):
            assert small.shapes[node.output] == (2, 1, 3)
        if isinstance(node.op, ir.Linear | ir.LayerNorm):
            assert small.shapes[node.output] == (1, 6)


def test_slices_stay_where_others_read_the_whole():
    graph = graph_of(
        (5, 6),
        (norm(6), ["x"], "normed"),
        (ir.Slice(0, 0, 1), ["normed"], "first"),
        (ir.Slice(0, 1, 2), ["normed"], "second"),
        (ir.Add(), ["first", "second"], "y"),
    )
    assert slice_early(graph) is graph
    along = graph_of((5, 6), (norm(6), ["x"], "normed"), (ir.Slice(1, 0, 2), ["normed"], "y"))
    assert slice_early(along) is along, "a norm needs all features"


@pytest.mark.parametrize(
    ("op", "shapes", "complaint"),
    [
        (ir.Reshape((4, 5)), [(3, 6)], "it cannot make .4, 5. of .3, 6."),
        (ir.Permute((0, 0)), [(3, 6)], "its axes .0, 0. are not those of .3, 6."),
        (norm(5), [(3, 6)], "it has .5,. weights for .3, 6."),
        (ir.MatMul(), [(3, 6), (3, 6)], "it cannot multiply .3, 6. and .3, 6."),
        (ir.Attention(1.0), [(3, 6), (4, 5), (4, 6)], "it cannot attend with .3, 6., .4, 5., .4, 6."),
        (ir.Attention(1.0), [(3, 6), (4, 6), (4, 6), (3,)], "its numbers for keys are .3,., its scores .3, 4."),
        (ir.Attention(1.0, numbers(3, 3)), [(3, 6), (4, 6), (4, 6)], "its mask is .3, 3., its scores .3, 4."),
        (ir.Linear(numbers(2, 6), numbers(2)), [(6,), (2,)], "a vector cannot have a residual"),
        (ir.Linear(numbers(2, 6), numbers(2)), [(3, 6), (3, 6)], "its residual is .3, 6., its output .3, 2."),
        (ir.Affine(numbers(6), numbers(6)), [(3, 6)], "it has .6,. scales for 3 channels"),
        (ir.Constant(numbers(2)), [(3, 6)], "it has 1 inputs instead of none"),
    ],
)
def test_operators_on_tokens_check_their_shapes(op, shapes, complaint):
    with pytest.raises(FlexgroupError, match=complaint):
        infer_shape(op, *shapes)
