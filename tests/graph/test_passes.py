"""Each pass makes a smaller graph that means the same, and leaves alone what it must not touch."""

from __future__ import annotations

import numpy as np
import pytest

from flexgroup.graph import (
    Add,
    Affine,
    AvgPool2d,
    Clamp,
    Conv2d,
    Flatten,
    GlobalMean,
    Graph,
    Linear,
    MaxPool2d,
    Node,
    Pad,
    Slice,
    optimize,
)
from flexgroup.graph._validate import check, infer_shape
from flexgroup.graph.evaluate import evaluate
from flexgroup.graph.passes import (
    drop_identities,
    eliminate_dead_code,
    fold_affine,
    fold_padding,
    fuse_add,
    fuse_clamp,
    use_global_mean,
)

PASSES = (
    drop_identities,
    eliminate_dead_code,
    fold_affine,
    fold_padding,
    fuse_add,
    fuse_clamp,
    use_global_mean,
    optimize,
)
IMAGE = (4, 6, 6)
random = np.random.default_rng(0)


def numbers(*shape):
    return random.normal(size=shape).astype(np.float32)


def conv(kernel=1, **parameters):
    return Conv2d(numbers(4, 4, kernel, kernel), numbers(4), **parameters)


def affine(**parameters):
    return Affine(numbers(4), numbers(4), **parameters)


def build(*nodes, outputs, shape=IMAGE):
    """A graph of nodes written ``"output = input input"``, each followed by its operator."""
    shapes, made = {"x": shape}, []
    for text, op in nodes:
        output, _, *inputs = text.split()
        made.append(Node(output, op, tuple(inputs), output))
        shapes[output] = infer_shape(op, *(shapes[value] for value in inputs))
    graph = Graph(("x",), tuple(outputs.split()), tuple(made), shapes)
    check(graph)
    return graph


def written(graph):
    return [f"{node.output} = {' '.join(node.inputs)}" for node in graph.nodes]


def apply(change, graph):
    """``change(graph)``, after checking that it is sound, means the same and left ``graph`` as it was."""
    before = written(graph)
    result = change(graph)
    assert written(graph) == before
    check(result)
    x = random.normal(size=(2, *graph.shapes["x"]))
    for old, new in zip(evaluate(graph, (x,)), evaluate(result, (x,)), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    return result


def test_affines_fold_into_convolutions_linear_layers_and_affines():
    graph = build(
        ("a = x", conv(3)),
        ("b = a", affine(clamp=Clamp(0, 6))),
        ("c = b", affine()),
        ("d = c", affine(clamp=Clamp(-1))),
        ("e = d", Flatten()),
        ("f = e", Linear(numbers(4, 64), numbers(4))),
        ("g = f", affine()),
        outputs="g",
    )
    folded = apply(fold_affine, graph)
    assert written(folded) == ["b = x", "d = b", "e = d", "g = e"]
    assert [node.name for node in folded.nodes] == ["a", "c", "e", "f"]
    assert folded.nodes[0].op.clamp == Clamp(0, 6)


def test_an_affine_folds_with_one_rounding_and_keeps_pruned_weights_zero():
    layer, norm = conv(3), affine()
    layer.weight[:, 1] = 0
    folded = fold_affine(build(("a = x", layer), ("b = a", norm), outputs="b")).nodes[0].op
    exact = layer.weight.astype(np.float64) * norm.scale[:, None, None, None]
    np.testing.assert_array_equal(folded.weight, exact.astype(np.float32))
    assert np.count_nonzero(folded.weight[:, 1]) == 0


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([("a = x", conv()), ("b = a", affine())], "a b"),
        ([("a = x", conv()), ("b = a", affine()), ("c = a", affine())], "b c"),
        ([("a = x", conv(clamp=Clamp(0))), ("b = a", affine())], "b"),
        ([("a = x x", conv()), ("b = a", affine())], "b"),
        ([("a = x", MaxPool2d((2, 2), (2, 2))), ("b = a", affine())], "b"),
        ([("b = x", affine())], "b"),
    ],
    ids=["read outside", "read twice", "clamped before", "with a residual", "after a pool", "alone"],
)
def test_an_affine_stays_where_the_layer_before_cannot_take_it(nodes, outputs):
    graph = build(*nodes, outputs=outputs)
    assert fold_affine(graph) is graph


def test_clamps_fuse_into_whatever_computes_the_value():
    graph = build(
        ("a = x", conv()),
        ("b = a", Clamp(0)),
        ("c = b", Clamp(-1, 6)),
        ("d = c", affine()),
        ("e = d", Clamp(0)),
        ("f = e x", Add()),
        ("g = f", Clamp(0)),
        ("h = g", GlobalMean()),
        ("i = h", Linear(numbers(3, 4), numbers(3))),
        ("j = i", Clamp(-1, 1)),
        outputs="j",
    )
    fused = graph
    while (again := apply(fuse_clamp, fused)) is not fused:
        fused = again
    assert written(fused) == ["c = x", "e = c", "g = e x", "h = g", "j = h"]
    assert [node.op.clamp for node in fused.nodes if not isinstance(node.op, GlobalMean)] == [
        Clamp(0, 6),
        Clamp(0),
        Clamp(0),
        Clamp(-1, 1),
    ]


def test_a_clamp_stays_where_the_value_is_read_without_it():
    graph = build(("a = x", conv()), ("b = a", Clamp(0)), ("c = a b", Add()), outputs="c")
    assert fuse_clamp(graph) is graph
    graph = build(("a = x", conv()), ("b = a", Clamp(0)), outputs="b a")
    assert fuse_clamp(graph) is graph
    graph = build(("a = x", MaxPool2d((1, 1), (2, 2))), ("b = a", Clamp(0)), outputs="b")
    assert fuse_clamp(graph) is graph


def test_the_later_of_two_convolutions_takes_the_other_as_its_residual():
    graph = build(("a = x", conv()), ("b = x", conv()), ("c = a b", Add(Clamp(0))), outputs="c")
    fused = apply(fuse_add, graph)
    assert written(fused) == ["a = x", "c = x a"]
    assert fused.nodes[1].name == "b"
    assert fused.nodes[1].op.clamp == Clamp(0)


def test_a_convolution_waits_for_a_residual_that_is_computed_after_it():
    pad = Pad(((2, 2), (0, 0), (0, 0)))
    graph = build(
        ("a = x", conv()),
        ("s = x", Slice(0, 0, 3)),
        ("p = s", pad),
        ("q = p", Slice(0, 1, 5)),
        ("c = q a", Add()),
        outputs="c",
    )
    assert written(apply(fuse_add, graph)) == ["s = x", "p = s", "q = p", "c = x q"]


def test_chains_of_residual_blocks_fuse_in_one_sweep():
    graph = build(
        ("a = x", conv()),
        ("b = a x", Add()),
        ("c = b", conv()),
        ("d = b c", Add()),
        ("e = d d", Add()),
        outputs="e",
    )
    assert written(apply(fuse_add, graph)) == ["b = x x", "d = b b", "e = d d"]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([("a = x", conv()), ("b = a x", Add())], "a b"),
        ([("a = x", conv()), ("b = a a", Add())], "b"),
        ([("a = x", conv(clamp=Clamp(0))), ("b = a x", Add())], "b"),
        ([("a = x x", conv()), ("b = a x", Add())], "b"),
        ([("a = x", affine()), ("b = a x", Add())], "b"),
    ],
    ids=["read outside", "added to itself", "clamped before", "has a residual", "no convolution"],
)
def test_an_addition_stays_where_no_convolution_can_take_it(nodes, outputs):
    graph = build(*nodes, outputs=outputs)
    assert fuse_add(graph) is graph


def test_zero_padding_moves_into_the_convolution():
    first, second = Pad(((0, 0), (1, 2), (0, 3))), Pad(((0, 0), (0, 1), (1, 0)))
    graph = build(("p = x", first), ("q = p", second), ("a = q", conv(3, padding=(1, 0, 0, 2))), outputs="a")
    folded = apply(optimize, graph)
    assert written(folded) == ["a = x"]
    assert folded.nodes[0].op.padding == (2, 3, 1, 5)
    assert folded.nodes[0].name == "a"


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([("p = x", Pad(((1, 1), (0, 0), (0, 0)))), ("q = p", Slice(0, 1, 5)), ("a = q", conv())], "a"),
        ([("p = x", Pad(((0, 0), (1, 1), (1, 1)))), ("a = p", conv())], "p a"),
        ([("p = x", Pad(((0, 0), (1, 1), (1, 1)))), ("a = p", conv()), ("b = p", conv())], "a b"),
        ([("p = x", Pad(((0, 0), (1, 1), (1, 1)))), ("a = x p", conv(3, padding=(2, 2, 2, 2)))], "a"),
    ],
    ids=["of channels", "read outside", "read twice", "of the residual"],
)
def test_padding_stays_where_a_convolution_cannot_take_it(nodes, outputs):
    graph = build(*nodes, outputs=outputs)
    assert fold_padding(graph) is graph


def test_an_average_over_the_whole_image_that_is_flattened_is_a_global_mean():
    whole = AvgPool2d((6, 6), (6, 6))
    graph = build(("a = x", whole), ("b = a", Flatten()), ("c = a", Flatten()), outputs="b c")
    assert [node.op for node in apply(use_global_mean, graph).nodes] == [GlobalMean(), Flatten(), Flatten()]
    small = apply(optimize, graph)
    assert (written(small), small.outputs) == (["a = x"], ("a", "a"))

    image = build(("a = x", whole), ("b = a", Flatten()), outputs="a b")
    assert use_global_mean(image) is image
    part = build(("a = x", AvgPool2d((6, 3), (6, 3))), ("b = a", Flatten()), outputs="b")
    assert use_global_mean(part) is part


def test_nodes_that_change_nothing_go():
    graph = build(
        ("a = x", Slice(1, 0, 6)),
        ("b = a", Pad(((0, 0), (0, 0), (0, 0)))),
        ("c = b", Clamp()),
        ("d = c", MaxPool2d((1, 1), (1, 1))),
        ("same = d", Affine(np.ones(4, np.float32), np.zeros(4, np.float32))),
        ("e = same", conv()),
        ("f = e", GlobalMean()),
        ("g = f", Flatten()),
        outputs="c g",
    )
    small = apply(drop_identities, graph)
    assert written(small) == ["e = x", "f = e"]
    assert small.outputs == ("x", "f")


def test_nodes_that_nobody_reads_go():
    graph = build(("a = x", conv()), ("b = a", conv()), ("c = b", conv()), ("d = a", conv()), outputs="d")
    assert written(apply(eliminate_dead_code, graph)) == ["a = x", "d = a"]


@pytest.mark.parametrize("change", PASSES, ids=lambda change: change.__name__)
def test_a_pass_with_nothing_to_do_returns_the_same_graph(change):
    graph = build(("a = x", conv(3)), ("b = a", GlobalMean()), outputs="b")
    assert change(graph) is graph
