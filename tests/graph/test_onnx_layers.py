"""Layers with weights and pools mean in a graph what they mean to ONNX Runtime, whatever their attributes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flexgroup.graph import AvgPool2d, Conv2d, GlobalMean, Linear, optimize
from tests.graph.onnx_models import model_of, node, numbers, same_as_onnxruntime, same_step

many = settings(max_examples=60, deadline=None)
few = settings(max_examples=25, deadline=None)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
IMAGE = (1, 4, 11, 10)


@st.composite
def paddings(draw, kernel):
    """Either of ONNX's two ways to pad, less than the kernel on every side."""
    if draw(st.booleans()):
        return {"auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))}
    return {"pads": [draw(st.integers(0, size - 1)) for size in (*kernel, *kernel)]}


def fits(stride, kernel):
    """ONNX Runtime cannot pad pools by SAME where windows leave gaps."""
    return all(step <= size for step, size in zip(stride, kernel, strict=True))


@many
@given(
    data=st.data(), kernel=pairs, stride=pairs, dilation=pairs, groups=st.sampled_from([1, 2, 4]), bias=st.booleans()
)
def test_convolutions(data, kernel, stride, dilation, groups, bias):
    padding = data.draw(paddings(kernel))
    assume("pads" in padding or dilation == (1, 1) or padding["auto_pad"] == "VALID")  # which runtimes disagree about
    weights = {"w": numbers(8, 4 // groups, *kernel), **({"b": numbers(8)} if bias else {})}
    graph = same_step(
        "Conv", IMAGE, weights=weights, group=groups, strides=stride, dilations=dilation, kernel_shape=kernel, **padding
    )
    (only,) = graph.nodes
    assert only.name == "step"
    assert (only.op.stride, only.op.dilation, only.op.groups) == (stride, dilation, groups)


def test_a_convolution_without_attributes():
    same_step("Conv", IMAGE, weights={"w": numbers(8, 4, 3, 3)})


@many
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=pairs,
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    more=st.booleans(),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_transposed_convolutions(kernel, stride, pads, more, groups, bias):
    """Output padding, where there is some, must be less than the stride."""
    output_padding = [step - 1 if more else 0 for step in stride]
    sizes = [stride[i] * (5 + i - 1) + kernel[i] + output_padding[i] - pads[i] - pads[2 + i] for i in (0, 1)]
    assume(min(sizes) > 0)
    weights = {"w": numbers(4, 6 // groups, *kernel), **({"b": numbers(6)} if bias else {})}
    attributes = {"strides": stride, "pads": pads, "output_padding": output_padding, "group": groups}
    same_step("ConvTranspose", (2, 4, 5, 6), weights=weights, **attributes)


@pytest.mark.parametrize(
    "attributes", [{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"output_shape": [9, 12]}, {}]
)
def test_transposed_convolutions_to_a_size(attributes):
    same_step("ConvTranspose", (1, 4, 5, 6), weights={"w": numbers(4, 3, 3, 3)}, strides=[2, 2], **attributes)


@many
@given(data=st.data(), kernel=pairs, stride=pairs, dilation=pairs, ceil=st.booleans())
def test_max_pools(data, kernel, stride, dilation, ceil):
    padding = data.draw(paddings(kernel))
    assume("pads" in padding or (dilation == (1, 1) and not ceil and fits(stride, kernel)))
    same_step("MaxPool", IMAGE, kernel_shape=kernel, strides=stride, dilations=dilation, ceil_mode=int(ceil), **padding)


@many
@given(data=st.data(), kernel=pairs, stride=pairs, ceil=st.booleans(), counted=st.booleans())
def test_average_pools(data, kernel, stride, ceil, counted):
    padding = data.draw(paddings(kernel))
    assume("pads" in padding or (not ceil and fits(stride, kernel)))
    same_step(
        "AveragePool",
        IMAGE,
        kernel_shape=kernel,
        strides=stride,
        ceil_mode=int(ceil),
        count_include_pad=int(counted),
        **padding,
    )


def test_padding_counts_and_what_ceil_mode_adds_does_not():
    graph = same_step(
        "AveragePool",
        (1, 2, 8, 8),
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        count_include_pad=1,
    )
    assert [type(x.op).__name__ for x in graph.nodes] == ["Pad", "AvgPool2d"]


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_pools_over_the_whole_image(operator):
    same_step(operator, IMAGE)


def test_a_flattened_global_pool_is_one_node():
    model = model_of(
        node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["y"]), inputs={"x": ["n", 4, 11, 10]}
    )
    graph = optimize(same_as_onnxruntime(model, batch=3))
    assert [type(x.op) for x in graph.nodes] == [GlobalMean]


@few
@given(
    transpose=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([1.0, 0.0, 2.0]),
    bias=st.sampled_from([None, (), (1,), (3,), (1, 3)]),
)
def test_gemm_with_a_constant_matrix(transpose, alpha, beta, bias):
    weights = {"b": numbers(*((3, 5) if transpose else (5, 3)))}
    if bias is not None:
        weights["c"] = numbers(*bias, seed=1)
    graph = same_step("Gemm", (2, 5), weights=weights, transB=int(transpose), alpha=alpha, beta=beta)
    assert [type(x.op) for x in graph.nodes] == [Linear]


def test_einsum():
    same_step("Einsum", (2, 7, 5), weights={"w": numbers(5, 3)}, equation="ntc,cd->ntd")
    same_step("Einsum", (2, 3, 7, 5), (2, 3, 6, 5), equation="bhqd,bhkd->bhqk")


def test_gemm_adds_an_activation():
    step = node("Gemm", ["x", "w", "c"], ["y"], beta=2.0)
    same_as_onnxruntime(model_of(step, inputs={"x": (2, 5), "c": (2, 3)}, weights={"w": numbers(5, 3)}), batch=2)


@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 5), (2, 3, 7, 5)])
def test_products_with_a_constant_matrix(shape):
    graph = same_step("MatMul", shape, weights={"w": numbers(5, 3)})
    assert [type(x.op) for x in graph.nodes] == [Linear]


@pytest.mark.parametrize("opset", [13, 17])
def test_products_of_activations(opset):
    same_step("MatMul", (1, 3, 7, 5), (1, 3, 5, 4), opset=opset)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5, 4)])
@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_norm(shape, opset):
    positive = np.abs(numbers(6, seed=9)) + 0.5
    weights = {"scale": numbers(6), "bias": numbers(6, seed=1), "mean": numbers(6, seed=2), "var": positive}
    same_step("BatchNormalization", shape, weights=weights, epsilon=1e-3, opset=opset)


def test_a_batch_norm_goes_into_the_convolution_before_it():
    statistics = {
        "scale": numbers(8),
        "bias": numbers(8, seed=1),
        "mean": numbers(8, seed=2),
        "var": numbers(8) ** 2 + 1,
    }
    model = model_of(
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("BatchNormalization", ["c", *statistics], ["n"], "norm"),
        node("Relu", ["n"], ["y"], "relu"),
        inputs={"x": IMAGE},
        weights={"w": numbers(8, 4, 3, 3), **statistics},
    )
    graph = optimize(same_as_onnxruntime(model))
    assert [(x.name, type(x.op)) for x in graph.nodes] == [("conv", Conv2d)]


@pytest.mark.parametrize(
    ("axes", "keepdims", "opset"), [([2, 3], 1, 13), ([2, 3], 0, 13), ([-1, -2], 0, 18), ([2, 3], 1, 18)]
)
@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax", "ReduceSum"])
def test_reductions_over_height_and_width(operator, axes, keepdims, opset):
    as_input = opset >= 18 or operator == "ReduceSum"
    given = {"weights": {"axes": axes}} if as_input else {"axes": axes}
    same_step(operator, IMAGE, keepdims=keepdims, opset=opset, **given)


@pytest.mark.parametrize("operator", ["ReduceLogSumExp", "ReduceLogSum"])
def test_logarithms_of_sums(operator):
    steps = [node("Exp", ["x"], ["e"]), node(operator, ["e"], ["y"], axes=[1], keepdims=1)]
    same_as_onnxruntime(model_of(*steps, inputs={"x": IMAGE}), batch=IMAGE[0])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm(size):
    same_step("LRN", (2, 8, 5, 6), size=size, alpha=0.5, beta=0.6, bias=1.5)
    same_step("LRN", (2, 8, 5, 6), size=size)


def test_a_mean_of_tokens():
    same_step("ReduceMean", (2, 7, 5), axes=[1], keepdims=0)


def test_a_pool_is_no_flattened_image():
    graph = same_step("AveragePool", IMAGE, kernel_shape=[2, 3])
    assert [type(x.op) for x in graph.nodes] == [AvgPool2d]
