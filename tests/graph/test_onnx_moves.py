"""Operators that move numbers, and shapes that a file computes, mean what they mean to ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup import FlexgroupError
from flexgroup.graph import Conv2d, from_onnx, optimize
from tests.graph.onnx_models import model_of, node, numbers, onnx, same_as_onnxruntime, same_step

some = settings(max_examples=40, deadline=None)
IMAGE = (2, 4, 6, 8)
TOKENS = (2, 6, 8)


def kinds(graph):
    return [type(x.op).__name__ for x in graph.nodes]


@pytest.mark.parametrize("shape", [[2, 192], [0, -1], [-1, 4, 48], [0, 0, -1], [2, 2, 2, 6, 8], [0, 8, 4, 6]])
def test_reshape(shape):
    same_step("Reshape", IMAGE, weights={"shape": shape})


def test_flattening_an_image_is_one_node():
    assert kinds(same_step("Flatten", IMAGE)) == ["Flatten"]
    assert kinds(same_step("Reshape", IMAGE, weights={"shape": [2, -1]})) == ["Flatten"]


@pytest.mark.parametrize(("shape", "axis"), [(IMAGE, 1), (IMAGE, -3), ((2, 8), 1), (TOKENS, 1)])
def test_flatten(shape, axis):
    same_step("Flatten", shape, axis=axis)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset):
    axes = {"axes": [2, 3]} if opset < 13 else {}
    extra = [] if opset < 13 else ["axes"]
    model = model_of(
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Squeeze", ["p", *extra], ["s"], **axes),
        node("Unsqueeze", ["s", *extra], ["u"], **axes),
        node("Squeeze", ["u", *extra], ["y"], **axes),
        inputs={"x": IMAGE},
        opset=opset,
        weights={"axes": [2, 3]} if extra else {},
    )
    assert kinds(optimize(same_as_onnxruntime(model, batch=2))) == ["GlobalMean"]


@some
@given(order=st.permutations(range(1, 4)))
def test_permutations(order):
    same_step("Transpose", IMAGE, perm=[0, *order])


def test_permutations_that_move_the_batch_there_and_back():
    model = model_of(
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("Relu", ["t"], ["r"]),
        node("Transpose", ["r"], ["y"], perm=[1, 0, 2]),
        inputs={"x": ["n", 6, 8]},
    )
    assert kinds(optimize(same_as_onnxruntime(model, batch=3))) == ["Clamp"]


@some
@given(data=st.data(), count=st.integers(1, 3))
def test_slices(data, count):
    axes = data.draw(st.permutations([1, 2, 3]))[:count]
    bounds = [sorted(data.draw(st.sets(st.integers(0, IMAGE[axis]), min_size=2, max_size=2))) for axis in axes]
    starts = [
        start - IMAGE[axis] if data.draw(st.booleans()) else start
        for axis, (start, _) in zip(axes, bounds, strict=True)
    ]
    ends = [stop if stop < IMAGE[axis] else 2**62 for axis, (_, stop) in zip(axes, bounds, strict=True)]
    steps = data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    same_step("Slice", IMAGE, weights={"starts": starts, "ends": ends, "axes": axes, "steps": steps})


def test_a_slice_of_old():
    same_step("Slice", IMAGE, opset=9, starts=[0, 1], ends=[3, -1], axes=[1, 2])


@some
@given(pads=st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_padding_with_zeros(pads):
    same_step("Pad", IMAGE, weights={"pads": [0, *pads[:3], 0, *pads[3:]]}, opset=13)


def test_padding_of_some_axes_only():
    same_step("Pad", IMAGE, weights={"pads": [1, 2, 3, 0], "": None, "axes": [2, -1]}, opset=18)


def test_padding_goes_into_the_convolution_behind_it():
    model = model_of(
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w"], ["y"], "conv"),
        inputs={"x": IMAGE},
        weights={"pads": [0, 0, 1, 0, 0, 0, 2, 1], "w": numbers(3, 4, 3, 3)},
    )
    (only,) = optimize(same_as_onnxruntime(model, batch=2)).nodes
    assert isinstance(only.op, Conv2d)
    assert only.op.padding == (1, 2, 0, 1)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concatenation(axis):
    same_step("Concat", IMAGE, IMAGE, IMAGE, axis=axis)


@pytest.mark.parametrize("repeats", [(1, 2, 1, 1), (1, 1, 3, 2), (1, 1, 1, 1)])
def test_copies_of_axes(repeats):
    same_step("Tile", IMAGE, weights={"repeats": list(repeats)})


FOLDED = {
    "padding": [
        node("Reshape", ["x", "in"], ["a"]),
        node("Pad", ["a", "pads"], ["b"]),
        node("Reshape", ["b", "out"], ["y"]),
    ],
    "joining": [
        node("Reshape", ["x", "in"], ["a"]),
        node("Concat", ["a", "bank"], ["b"], axis=2),
        node("Reshape", ["b", "wide"], ["y"]),
    ],
    "behind": [
        node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        node("Pad", ["a", "pads"], ["b"]),
        node("Transpose", ["b"], ["y"], perm=[1, 0, 2]),
    ],
    "matrices": [
        node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        node("MatMul", ["a", "each"], ["b"]),
        node("Transpose", ["b"], ["y"], perm=[1, 0, 2]),
    ],
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_behind_the_batch_is_compiled_or_refused_by_name(name):
    """An open batch is one while a file is read: axes of size one must not be taken for it."""
    weights = {"in": [-1, 4, 8], "pads": [0, 0, 1, 0, 0, 1], "out": [-1, 12, 10], "wide": [-1, 12, 10]}
    weights |= {"bank": numbers(3, 4, 2), "each": numbers(12, 8, 5)}
    used = {key: x for key, x in weights.items() if any(key in step.input for step in FOLDED[name])}
    model = model_of(*FOLDED[name], inputs={"x": ["n", 12, 8]}, weights=used)
    if name != "matrices":
        same_as_onnxruntime(model, batch=1)
    else:
        with pytest.raises(FlexgroupError, match="batch"):
            same_as_onnxruntime(model, batch=1)


def test_a_constant_in_front_of_tokens():
    model = model_of(
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Concat", ["n", "one", "eight"], ["wanted"], axis=0),
        node("Expand", ["token", "wanted"], ["tokens"]),
        node("Concat", ["tokens", "x"], ["y"], axis=1),
        inputs={"x": ["n", 6, 8]},
        weights={"zero": [0], "one": [1], "eight": [8], "token": numbers(1, 1, 8)},
    )
    same_as_onnxruntime(model, batch=3)


@pytest.mark.parametrize(
    ("opset", "weights", "attributes", "count", "axis"),
    [
        (11, {}, {"split": [1, 3]}, 2, 1),
        (13, {"split": [1, 3]}, {}, 2, -3),
        (13, {}, {}, 4, 1),
        (18, {}, {"num_outputs": 3}, 3, 3),
    ],
)
def test_splits(opset, weights, attributes, count, axis):
    outputs = [f"y{i}" for i in range(count)]
    step = node("Split", ["x", *weights], outputs, axis=axis, **attributes)
    same_as_onnxruntime(model_of(step, inputs={"x": IMAGE}, outputs=outputs, opset=opset, weights=weights), batch=2)


@pytest.mark.parametrize("indices", [2, -1, [1], [1, 2, 3], [0, 2]])
def test_gathering_what_is_a_slice(indices):
    same_step("Gather", IMAGE, weights={"indices": indices}, axis=1)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    same_step("DepthToSpace", (2, 8, 3, 5), blocksize=2, mode=mode)


def test_space_to_depth():
    same_step("SpaceToDepth", IMAGE, blocksize=2)


def test_a_channel_shuffle():
    model = model_of(
        node("Reshape", ["x", "apart"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "whole"], ["y"]),
        inputs={"x": IMAGE},
        weights={"apart": [0, 2, 2, 6, 8], "whole": [0, 4, 6, 8]},
    )
    same_as_onnxruntime(model, batch=2)


@pytest.mark.parametrize("operator", ["Identity", "Dropout"])
def test_operators_that_do_nothing(operator):
    model = model_of(node(operator, ["x"], ["a"]), node("Relu", ["a"], ["y"]), inputs={"x": IMAGE})
    assert kinds(same_as_onnxruntime(model, batch=2)) == ["Clamp"]


def test_a_cast_to_the_type_that_it_has():
    assert kinds(same_step("Cast", IMAGE, to=onnx.TensorProto.FLOAT)) == []


def test_nothing_is_left_of_shapes_that_the_file_computes():
    """What torch writes for ``x.view(x.size(0), -1, x.size(1) // 2, 2)`` with an open batch."""
    model = model_of(
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Gather", ["s", "one"], ["c"], axis=0),
        node("Div", ["c", "two"], ["half"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Unsqueeze", ["half", "axis"], ["half1"]),
        node("Cast", ["half1"], ["half2"], to=onnx.TensorProto.INT64),
        node("Concat", ["n1", "blank", "half2", "twos"], ["wanted"], axis=0),
        node("Reshape", ["x", "wanted"], ["y"]),
        inputs={"x": ["n", 4, 6, 8]},
        weights={
            **{"zero": np.array(0), "one": np.array(1), "two": np.array(2)},
            **{"axis": [0], "blank": [-1], "twos": [2]},
        },
    )
    graph = same_as_onnxruntime(model, batch=1)
    assert kinds(graph) == ["Reshape"]


def test_constants_are_computed_once_whatever_computes_them():
    model = model_of(
        node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(numbers(3, 4, 3, 3))),
        node("Abs", ["k"], ["a"]),
        node("ReduceSum", ["a", "axes"], ["t"]),
        node("Div", ["k", "t"], ["w"]),
        node("Conv", ["x", "w"], ["y"]),
        inputs={"x": IMAGE},
        weights={"axes": [1, 2, 3]},
    )
    assert kinds(same_as_onnxruntime(model, batch=2)) == ["Conv2d"]


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_constants_are_computed_as_their_opset_has_it(opset):
    axes = {"axes": [1, 2]} if opset < 13 else {}
    bounds = {"min": 0.0, "max": 0.5} if opset < 11 else {}
    model = model_of(
        node("Unsqueeze", ["k", *([] if axes else ["axes"])], ["u"], **axes),
        node("Clip", ["u", *([] if bounds else ["low", "high"])], ["c"], **bounds),
        node("Add", ["x", "c"], ["y"]),
        inputs={"x": IMAGE},
        opset=opset,
        weights={"k": numbers(4), "axes": [1, 2], "low": np.array(0, np.float32), "high": np.array(0.5, np.float32)},
    )
    assert kinds(same_as_onnxruntime(model, batch=2)) == ["Affine"]


def test_what_no_output_needs_is_not_looked_at():
    model = model_of(
        node("Relu", ["x"], ["y"]),
        node("GRU", ["x", "w", "w"], ["z"], hidden_size=1),
        inputs={"x": IMAGE},
        weights={"w": numbers(1, 3, 1)},
    )
    assert kinds(from_onnx(model)) == ["Clamp"]
