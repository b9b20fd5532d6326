"""A graph that breaks its own rules is found out, and inputs that are not its own are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexgroup import FlexgroupError
from flexgroup.graph import Add, Affine, Clamp, Conv2d, Graph, Linear, Node, Pad, Slice
from flexgroup.graph._validate import check, infer_shape
from flexgroup.graph.evaluate import evaluate


def zeros(*shape):
    return np.zeros(shape, np.float32)


CONV = Conv2d(zeros(4, 2, 3, 3), zeros(4))
FIRST = Node("first", CONV, ("x",), "y")
SECOND = Node("second", Add(Clamp(0)), ("y", "y"), "z")
GRAPH = Graph(("x",), ("z",), (FIRST, SECOND), {"x": (2, 5, 5), "y": (4, 3, 3), "z": (4, 3, 3)})


def test_a_sound_graph_passes():
    check(GRAPH)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (replace(GRAPH, nodes=(SECOND, FIRST)), "'second' (Add): it reads 'y' before any node computes it"),
        (replace(GRAPH, nodes=(FIRST, FIRST, SECOND)), "'first' (Conv2d): it computes 'y' a second time"),
        (replace(GRAPH, nodes=(FIRST, replace(SECOND, name="first"))), "another node has the same name"),
        (
            replace(GRAPH, shapes={**GRAPH.shapes, "y": (4, 5, 5)}),
            "its output is (4, 3, 3), but the graph notes (4, 5, 5)",
        ),
        (
            replace(GRAPH, shapes={**GRAPH.shapes, "w": (1,)}),
            "notes shapes of values that it does not compute",
        ),
        (replace(GRAPH, outputs=("w",)), "no node computes the graph's output 'w'"),
        (replace(GRAPH, inputs=("x", "w")), "input 'w' has no shape"),
        (
            replace(GRAPH, nodes=(replace(FIRST, op=replace(CONV, bias=np.zeros(4))), SECOND)),
            "its bias is float64, not float32",
        ),
    ],
)
def test_an_unsound_graph_does_not(graph, message):
    with pytest.raises(FlexgroupError) as caught:
        check(graph)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        (CONV, [(3, 5, 5)], "its weight takes 2 channels, not 3"),
        (CONV, [(2, 2, 5)], "its output would be empty"),
        (CONV, [(2,)], "it cannot take a value of shape (2,)"),
        (CONV, [(2, 5, 5), (4, 5, 5)], "its residual is (4, 5, 5), its output (4, 3, 3)"),
        (replace(CONV, bias=zeros(3)), [(2, 5, 5)], "its bias is (3,), not (4,)"),
        (replace(CONV, padding=(0, 0, 0, -1)), [(2, 5, 5)], "its padding (0, 0, 0, -1) is negative"),
        (Linear(zeros(3, 4), zeros(3)), [(5,)], "its weight takes 4 features, not 5"),
        (Affine(zeros(3), zeros(3)), [(4, 1, 1)], "it has (3,) scales for 4 channels"),
        (Add(), [(4,)], "it has 1 inputs instead of two"),
        (Add(), [(4,), (5,)], "its inputs differ in shape: (4,) and (5,)"),
        (Slice(1, 0, 6), [(2, 5, 5)], "it takes 0:6:1 of 5"),
        (Pad(((0, 0), (-1, 0), (0, 0))), [(2, 5, 5)], "are negative"),
    ],
)
def test_shapes_that_do_not_fit(op, inputs, message):
    with pytest.raises(FlexgroupError) as caught:
        infer_shape(op, *inputs)
    assert message in str(caught.value)


def test_inputs_go_by_name_or_by_order_in_any_float_type():
    x = np.ones((3, 2, 5, 5))
    for given in ((x,), [x.astype(np.float32)], {"x": x}):
        (output,) = evaluate(GRAPH, given)
        assert output.shape == (3, 4, 3, 3)
        assert output.dtype == (given["x"] if isinstance(given, dict) else given[0]).dtype


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "the graph's inputs are x; 0 arrays do not match them"),
        ({"y": zeros(1, 2, 5, 5)}, "the graph's inputs are x; 1 arrays do not match them"),
        ((zeros(1, 2, 5, 6),), "input 'x' is of shape (1, 2, 5, 6); the graph was made for (batch, 2, 5, 5)"),
    ],
)
def test_inputs_that_are_not_those_of_the_graph(inputs, message):
    with pytest.raises(FlexgroupError) as caught:
        evaluate(GRAPH, inputs)
    assert str(caught.value) == message
