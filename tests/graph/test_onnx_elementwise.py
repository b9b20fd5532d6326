"""Operators on every number mean what they mean to ONNX Runtime, spelt out or not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup import FlexgroupError
from flexgroup.graph import from_onnx, optimize
from tests.graph.onnx_models import model_of, node, numbers, same_as_onnxruntime, same_step

IMAGE = (2, 4, 5, 6)
TOKENS = (2, 7, 8)
some = settings(max_examples=30, deadline=None)
bounds = st.floats(-2, 2, width=32)


def kinds(graph):
    return [type(x.op).__name__ for x in graph.nodes]


@pytest.mark.parametrize("shape", [IMAGE, TOKENS, (2, 9)])
@pytest.mark.parametrize("operator", ["Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "HardSigmoid", "Neg"])
def test_activations(operator, shape):
    same_step(operator, shape)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    same_step("Gelu", IMAGE, opset=20, approximate=approximate)


def test_mish():
    same_step("Mish", IMAGE, opset=18)


@some
@given(alpha=st.floats(0.0625, 0.875, width=32), beta=bounds)
def test_hard_sigmoid_and_leaky_relu_with_slopes_of_their_own(alpha, beta):
    same_step("HardSigmoid", IMAGE, alpha=alpha, beta=beta)
    same_step("LeakyRelu", IMAGE, alpha=alpha)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)])
def test_one_slope_for_all(shape):
    same_step("PRelu", IMAGE, weights={"slope": np.full(shape, 0.3, np.float32)})


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_one_slope_a_channel(shape):
    same_step("PRelu", IMAGE, weights={"slope": numbers(*shape)})


def test_absolute_values():
    same_step("Abs", IMAGE)


@some
@given(low=bounds, high=bounds, given=st.sampled_from(["both", "min", "max", "none"]))
def test_clip(low, high, given):
    ends = {"min": np.float32(min(low, high)), "max": np.float32(max(low, high))}
    weights = {
        "min": ends["min"] if given in ("both", "min") else None,
        "max": ends["max"] if given in ("both", "max") else None,
    }
    kept = {
        (name if x is not None else " " * i): None if x is None else np.array(x)
        for i, (name, x) in enumerate(weights.items())
    }
    same_step("Clip", IMAGE, weights=kept)


def test_clip_of_old():
    same_step("Clip", IMAGE, opset=10, min=-0.5, max=0.25)


CONSTANTS = {
    "one number": np.array(0.5, np.float32),
    "one number, in brackets": numbers(1, 1, 1),
    "one a channel": numbers(4, 1, 1),
    "one a channel, with a batch": numbers(1, 4, 1, 1),
}


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Add turned", "Sub turned", "Mul turned"])
def test_arithmetic_with_constants(operator, constant):
    operator, _, turned = operator.partition(" ")
    names = ["k", "x"] if turned else ["x", "k"]
    weights = {"k": np.array(CONSTANTS[constant] + 2, np.float32)}
    model = model_of(node(operator, names, ["y"]), inputs={"x": IMAGE}, weights=weights)
    assert kinds(optimize(same_as_onnxruntime(model, batch=2))) == ["Affine"]


@pytest.mark.parametrize("shape", [(8,), (1, 1, 8), (7, 8), (7, 1)])
def test_constants_beside_tokens(shape):
    same_step("Add", TOKENS, weights={"k": numbers(*shape)})


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
def test_arithmetic_of_activations(operator):
    same_step(operator, IMAGE, IMAGE)
    same_step(operator, TOKENS, TOKENS)


def test_a_gate():
    model = model_of(
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Conv", ["p", "w"], ["c"]),
        node("HardSigmoid", ["c"], ["g"]),
        node("Mul", ["x", "g"], ["y"]),
        inputs={"x": IMAGE},
        weights={"w": numbers(4, 4, 1, 1)},
    )
    same_as_onnxruntime(model, batch=2)


def test_sums_and_means_of_many():
    same_step("Sum", IMAGE, IMAGE, IMAGE)
    same_step("Mean", IMAGE, IMAGE, IMAGE)


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_the_larger_of_an_activation_and_a_number(operator):
    assert kinds(same_step(operator, IMAGE, weights={"k": numbers(1)})) == ["Clamp"]


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_the_larger_of_any_operands(operator):
    same_step(operator, IMAGE)
    same_step(operator, IMAGE, IMAGE, IMAGE)
    same_step(operator, IMAGE, IMAGE, weights={"k": scalar(0.3), "every": numbers(1, 4, 1, 1)})


@pytest.mark.parametrize("shape", [IMAGE, TOKENS, (2, 9)])
@pytest.mark.parametrize("operator", ["Softplus", "Softsign"])
def test_softplus_and_softsign(operator, shape):
    same_step(operator, shape)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [IMAGE, TOKENS, (2, 9)])
def test_logarithms_of_softmax(shape, axis):
    same_step("LogSoftmax", shape, axis=axis)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 5.0])
def test_powers(exponent):
    same_step("Pow", IMAGE, weights={"k": np.array(exponent, np.float32)})


def scalar(number):
    return np.array(number, np.float32)


def spelt_out(*steps, **constants):
    model = model_of(*steps, inputs={"x": TOKENS}, weights={name: scalar(x) for name, x in constants.items()})
    return kinds(same_as_onnxruntime(model, batch=2))


@pytest.mark.parametrize("order", range(6))
def test_gelu_spelt_out(order):
    inner = node("Div", ["x", "root"], ["d"]) if order % 2 else node("Mul", ["inverse", "x"], ["d"])
    outer = [
        [node("Mul", ["x", "e1"], ["m"]), node("Mul", ["m", "half"], ["y"])],
        [node("Mul", ["half", "x"], ["m"]), node("Mul", ["e1", "m"], ["y"])],
        [node("Mul", ["e1", "half"], ["m"]), node("Mul", ["x", "m"], ["y"])],
        [node("Mul", ["e1", "x"], ["m"]), node("Div", ["m", "two"], ["y"])],
        [node("Div", ["x", "two"], ["m"]), node("Mul", ["m", "e1"], ["y"])],
        [node("Div", ["e1", "two"], ["m"]), node("Mul", ["m", "x"], ["y"])],
    ][order]
    steps = [inner, node("Erf", ["d"], ["e"]), node("Add", ["one", "e"], ["e1"]), *outer]
    constants = {"root": math.sqrt(2), "inverse": math.sqrt(0.5), "half": 0.5, "one": 1, "two": 2}
    assert spelt_out(*steps, **constants) == ["Curve"]


def test_the_tanh_form_of_gelu_spelt_out():
    steps = [
        node("Pow", ["x", "three"], ["cube"]),
        node("Mul", ["k", "cube"], ["small"]),
        node("Add", ["x", "small"], ["inner"]),
        node("Mul", ["inner", "root"], ["scaled"]),
        node("Tanh", ["scaled"], ["t"]),
        node("Add", ["t", "one"], ["t1"]),
        node("Mul", ["x", "t1"], ["m"]),
        node("Mul", ["half", "m"], ["y"]),
    ]
    constants = {"three": 3, "k": 0.044715, "root": math.sqrt(2 / math.pi), "one": 1, "half": 0.5}
    assert spelt_out(*steps, **constants) == ["Curve"]


@pytest.mark.parametrize("last", [("Div", "six"), ("Mul", "sixth")])
def test_hard_swish_and_hard_sigmoid_spelt_out(last):
    gate = [node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"])]
    constants = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6}
    operator, factor = last
    swish = [*gate, node("Mul", ["x", "c"], ["m"]), node(operator, ["m", factor], ["y"])]
    assert spelt_out(*swish, **constants) == ["Curve"]
    assert spelt_out(*gate, node(operator, ["c", factor], ["y"]), **constants) == ["Affine", "Affine", "Clamp"]


def test_a_product_with_the_hard_sigmoid_of_torch_is_a_hard_swish():
    product = node("Mul", ["g", "x"], ["y"])
    assert spelt_out(node("HardSigmoid", ["x"], ["g"], alpha=1 / 6), product) == ["Curve"]
    assert "Mul" in spelt_out(node("HardSigmoid", ["x"], ["g"], alpha=0.2), product)


def test_swish_and_mish_spelt_out():
    product = node("Mul", ["x", "g"], ["y"])
    assert spelt_out(node("Sigmoid", ["x"], ["g"]), product) == ["Curve"]
    assert spelt_out(node("Mul", ["x", "one"], ["s"]), node("Sigmoid", ["s"], ["g"]), product, one=1) == ["Curve"]
    assert spelt_out(node("Softplus", ["x"], ["s"]), node("Tanh", ["s"], ["g"]), product) == ["Curve"]


def layer_norm(**changes):
    axes = changes.get("axes", [-1])
    weights = {"w": numbers(8), "b": numbers(8, seed=1), "eps": scalar(1e-5), "two": scalar(2)}
    return model_of(
        node("ReduceMean", ["x"], ["mean"], axes=axes),
        node("Sub", ["x", "mean"], ["d"]),
        node("Pow", ["d", "two"], ["squares"]),
        node("ReduceMean", ["squares"], ["variance"], axes=axes),
        node("Add", ["variance", "eps"], ["v"]),
        node("Sqrt", ["v"], ["deviation"]),
        node("Div", ["d", "deviation"], ["n"]),
        node("Mul", ["n", "w"], ["scaled"]),
        node("Add", ["scaled", "b"], ["y"]),
        inputs={"x": TOKENS},
        opset=14,
        weights={**weights, **changes.get("weights", {})},
    )


def test_layer_norm_spelt_out():
    assert kinds(same_as_onnxruntime(layer_norm(), batch=2)) == ["LayerNorm"]


def test_what_only_looks_like_a_formula_is_left_alone():
    almost = [
        node("Div", ["x", "root"], ["d"]),
        node("Sigmoid", ["d"], ["e"]),
        node("Add", ["e", "one"], ["e1"]),
        node("Mul", ["x", "e1"], ["m"]),
        node("Mul", ["m", "half"], ["y"]),
    ]
    assert "Mul" in spelt_out(*almost, root=math.sqrt(2), one=1, half=0.5)
    other = [
        node("Add", ["x", "two"], ["a"]),
        node("Clip", ["a", "zero", "six"], ["c"]),
        node("Mul", ["x", "c"], ["y"]),
    ]
    assert kinds(
        same_as_onnxruntime(
            model_of(*other, inputs={"x": TOKENS}, weights={"two": scalar(2), "zero": scalar(0), "six": scalar(6)}),
            batch=2,
        )
    ) == ["Affine", "Clamp", "Mul"]


def test_intermediate_results_of_a_formula_may_be_read_by_others():
    steps = [
        node("Add", ["x", "three"], ["a"]),
        node("Clip", ["a", "zero", "six"], ["c"]),
        node("Mul", ["x", "c"], ["m"]),
        node("Div", ["m", "six"], ["s"]),
        node("Add", ["s", "c"], ["y"]),
    ]
    assert sorted(spelt_out(*steps, three=3, zero=0, six=6)) == ["Add", "Affine", "Clamp", "Curve"]


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("shapes", [(IMAGE, (2, 4, 1, 1)), ((2, 1, 5, 6), IMAGE), (TOKENS, (2, 7, 1))])
def test_activations_that_broadcast(operator, shapes):
    same_step(operator, *shapes)


def test_activations_that_do_not_fit_each_other_are_refused():
    model = model_of(node("Mul", ["a", "b"], ["y"]), inputs={"a": (1, 3, 4), "b": (1, 3, 5)})
    with pytest.raises(FlexgroupError, match=r"its inputs do not fit each other: .*; check the shape of the"):
        from_onnx(model)
