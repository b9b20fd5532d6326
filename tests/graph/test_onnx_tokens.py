"""Normalisations, softmax and attention mean what they mean to ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flexgroup import FlexgroupError
from flexgroup.graph import from_onnx, optimize
from flexgroup.graph.ir import Attention
from tests.graph.onnx_models import model_of, node, numbers, same_as_onnxruntime, same_step

TOKENS = (2, 6, 8)
HEADS = (2, 3, 6, 8)


@pytest.mark.parametrize("axis", [-1, 2, 1])
def test_layer_norm(axis):
    shape = TOKENS[axis % 3 :]
    same_step("LayerNormalization", TOKENS, weights={"w": numbers(*shape), "b": numbers(*shape, seed=1)}, axis=axis)


def test_layer_norm_without_a_bias():
    same_step("LayerNormalization", TOKENS, weights={"w": numbers(8)}, epsilon=1e-3)


def test_rms_norm():
    same_step("RMSNormalization", TOKENS, opset=23, weights={"w": numbers(8)}, epsilon=1e-3)


def test_softmax():
    same_step("Softmax", TOKENS, axis=-1)
    same_step("Softmax", (2, 4, 5, 6), axis=1)


@pytest.mark.parametrize(("shape", "axis"), [((2, 9), 1), (TOKENS, 2), ((2, 9, 1, 1), 1)])
def test_softmax_before_opset_13(shape, axis):
    same_step("Softmax", shape, axis=axis, opset=11)


MASKS = {
    "none": {},
    "numbers": {"mask": numbers(6, 6)},
    "which keys": {"mask": np.arange(6) < np.arange(6)[:, None] + 2},
}


@pytest.mark.parametrize(
    ("mask", "attributes"),
    [
        ("none", {}),
        ("none", {"scale": 0.5}),
        ("none", {"is_causal": 1}),
        ("numbers", {}),
        ("which keys", {"scale": 0.5}),
    ],
)
def test_attention(mask, attributes):
    step = node("Attention", ["q", "k", "v", *MASKS[mask]], ["y"], **attributes)
    model = model_of(step, inputs=dict.fromkeys("qkv", HEADS), opset=23, weights=MASKS[mask])
    graph = same_as_onnxruntime(model, batch=2)
    assert [type(x.op) for x in graph.nodes] == [Attention]


def test_what_newer_opsets_bring_is_not_passed_over():
    step = node("Attention", ["q", "k", "v"], ["y"], "attend", left_window_size=2)
    model = model_of(step, inputs=dict.fromkeys("qkv", HEADS), opset=28)
    with pytest.raises(FlexgroupError) as caught:
        from_onnx(model)
    assert "attend: Attention (opset 28): its attribute 'left_window_size' is not known here; export" in str(
        caught.value
    )


def test_attention_on_heads_side_by_side():
    step = node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=4)
    same_as_onnxruntime(model_of(step, inputs=dict.fromkeys("qkv", TOKENS), opset=23), batch=2)


def test_attention_that_is_written_out_is_found():
    steps = [
        node("Mul", ["q", "root"], ["q2"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("Mul", ["kt", "root"], ["kt2"]),
        node("MatMul", ["q2", "kt2"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["y"]),
    ]
    weights = {"root": np.array(8**-0.25, np.float32)}
    graph = optimize(
        same_as_onnxruntime(model_of(*steps, inputs=dict.fromkeys("qkv", HEADS), weights=weights), batch=2)
    )
    attention = graph.nodes[-1].op
    assert isinstance(attention, Attention)
    assert math.isclose(attention.scale, 8**-0.5, rel_tol=1e-6)
