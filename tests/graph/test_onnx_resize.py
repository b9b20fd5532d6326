"""Resizing takes the pixels that ONNX Runtime takes, in every mode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup.graph import Resize
from tests.graph.onnx_models import same_step

IMAGE = (2, 3, 5, 7)
COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
some = settings(max_examples=60, deadline=None)
sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


def to_sizes(height, width):
    nothing = np.zeros(0, np.float32)
    return {"roi": nothing, "scales": nothing, "sizes": [2, 3, height, width]}


def by_scales(height, width):
    return {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, height, width], np.float32)}


@some
@given(
    mode=st.sampled_from(["linear", "cubic"]),
    coordinates=st.sampled_from(COORDINATES),
    size=sizes,
    exclude=st.booleans(),
)
def test_interpolation_to_any_size(mode, coordinates, size, exclude):
    same_step(
        "Resize",
        IMAGE,
        opset=19,
        weights=to_sizes(*size),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        exclude_outside=int(exclude and mode == "cubic"),
    )


@some
@given(
    coordinates=st.sampled_from(COORDINATES[:-1]),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    scale=st.sampled_from([1.0, 2.0, 3.0, 0.5, 1.5]),
)
def test_nearest_pixels(coordinates, rounding, scale):
    same_step(
        "Resize",
        IMAGE,
        opset=13,
        weights=by_scales(scale, 2.0),
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
    )


def test_nearest_pixels_of_tensorflow():
    same_step("Resize", IMAGE, weights=by_scales(2, 3), coordinate_transformation_mode="tf_half_pixel_for_nn")


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_resizing_of_old(operator, opset, mode):
    same_step(operator, IMAGE, opset=opset, weights={"scales": np.array([1, 1, 2, 3], np.float32)}, mode=mode)


def test_scales_of_older():
    same_step("Upsample", IMAGE, opset=7, scales=[1.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_sizes_of_some_axes(policy):
    weights = {"": None, " ": None, "sizes": [8, 9]}
    (only,) = same_step(
        "Resize", IMAGE, opset=18, weights=weights, axes=[2, 3], mode="linear", keep_aspect_ratio_policy=policy
    ).nodes
    assert isinstance(only.op, Resize)


def test_resizing_to_the_same_size_is_nothing():
    assert same_step("Resize", IMAGE, weights=by_scales(1, 1)).nodes == ()


def test_antialias_matters_only_where_the_image_shrinks():
    same_step("Resize", IMAGE, opset=18, weights=by_scales(2, 2), mode="linear", antialias=1)
