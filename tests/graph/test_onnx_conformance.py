"""ONNX's own tests of its operators: what is not refused gives what they expect."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from flexgroup import FlexgroupError
from flexgroup.graph import Graph, from_onnx, optimize
from flexgroup.graph.evaluate import evaluate
from tests.graph.onnx_models import onnx

# Here the specification is at odds with itself, and we are with ONNX Runtime: sizes that are no whole numbers.
DISPUTED = ("test_resize_downsample_scales_cubic_align_corners", "test_resize_downsample_scales_linear_align_corners")
LEAST = {"conv", "pool", "resize", "norm", "softmax", "slice", "concat", "transpose", "relu", "gelu"}


@pytest.fixture(scope="module")
def cases():
    node = pytest.importorskip("onnx.backend.test.case.node")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case for case in node.collect_testcases(None) if case.name not in DISPUTED]


def lowered(case) -> tuple[Graph, list[np.ndarray]] | None:
    """The case's graph and the inputs left, if it is not refused; inputs that cannot be batches are constants."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    arrays = dict(zip((x.name for x in model.graph.input), case.data_sets[0][0], strict=False))
    usual = {name: x for name, x in arrays.items() if isinstance(x, np.ndarray)}
    batches = {name: x for name, x in usual.items() if x.dtype == np.float32 and x.ndim > 1 and _is_batch(name, usual)}
    if len(usual) < len(arrays) or not batches:
        return None
    for name in usual.keys() - batches.keys():
        model.graph.initializer.append(onnx.numpy_helper.from_array(usual[name], name))
    left = [x for x in model.graph.input if x.name in batches]
    del model.graph.input[:]
    model.graph.input.extend(left)
    try:
        return from_onnx(model, {name: x.shape for name, x in batches.items()}), list(batches.values())
    except FlexgroupError:
        return None


def _is_batch(name: str, arrays: dict[str, np.ndarray]) -> bool:
    """The first input is, and others of its shape, keys and values; weights, sizes and slopes are constants."""
    first = next(iter(arrays))
    return name in (first, "K", "V") or (
        arrays[name].shape == arrays[first].shape and name not in ("W", "w", "slope", "b")
    )


def test_what_is_not_refused_gives_what_onnx_expects(cases):
    agreed = []
    for case in cases:
        found = lowered(case)
        if found is None:
            continue
        graph, inputs = found
        for candidate in (graph, optimize(graph)):
            for given, wanted in zip(evaluate(candidate, inputs), case.data_sets[0][1], strict=False):
                np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-5, err_msg=case.name)
        agreed.append(case.name)
    assert len(agreed) > 120
    assert all(any(word in name for name in agreed) for word in LEAST)
